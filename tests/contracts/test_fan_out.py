"""fan_out on real Kafka and PostgreSQL: whose followers a tweet goes to while partitions move and follows change."""

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient

from infra.composition import Stores
from infra.events import Activity, ActivityType, Delivery, DeliveryKind, decode_deliveries
from infra.kafka import PARTITION_END, Claim, TransactionalProducer, end_offsets
from infra.topics import ACTIVITY, DELIVERIES
from producers.publish import NewTweet, Publisher
from streams import follower_index, handling
from streams.app import FanOutWork, Parts
from streams.dead_letters import DeadLetters
from tests.services import Services

MakeUsers = Callable[[int], list[int]]
PARTITION = 0
READ_WITHIN_S = 20.0


class Log:
    """The deliveries log from the moment this was made."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self._starts = end_offsets(AdminClient({"bootstrap.servers": bootstrap}), DELIVERIES)

    def home_targets(self, tweet_id: int) -> set[int]:
        """Whose home timelines the tweet was sent to."""
        return {
            int(target)
            for record in self._records()
            if record.kind is DeliveryKind.DELIVER
            for subject, targets in zip(
                record.subjects, np.split(record.targets, np.cumsum(record.counts)), strict=False
            )
            if subject == tweet_id
            for target in targets
        }

    def kinds_for(self, owner: int) -> list[DeliveryKind]:
        """What was sent to one owner's timeline, in order."""
        return [record.kind for record in self._records() if owner in record.targets]

    def _records(self) -> Iterator[Delivery]:
        config = {"bootstrap.servers": self._bootstrap, "group.id": "test", "enable.partition.eof": True}
        consumer = Consumer(config | {"enable.auto.commit": False})
        try:
            consumer.assign([TopicPartition(DELIVERIES.name, place, at) for place, at in enumerate(self._starts)])
            open_ = set(range(DELIVERIES.partitions))
            while open_:
                message = consumer.poll(READ_WITHIN_S)
                assert message is not None, f"partitions {open_} of the deliveries log do not end"
                if message.error() is None:
                    yield from decode_deliveries(message.value())
                else:
                    assert message.error().code() == PARTITION_END
                    open_.discard(message.partition())
        finally:
            consumer.close()


class Worker:
    """One worker's fan_out; Faust would call it with the messages of a batch, and `release` on a revoke."""

    def __init__(self, stores: Stores, bootstrap: str) -> None:
        self.threads = ThreadPoolExecutor(1)
        parts = Parts(stores.engine, stores.timelines, DeadLetters(bootstrap), bootstrap, self.threads)
        self._work = FanOutWork(parts, member=str)  # nobody: see `run`
        self.release = self._work.release

    def run(self, generation: int, *events: tuple[ActivityType, int, int]) -> None:
        """A batch of (type, author, other) in one consumer generation.

        A group without members takes a claim of any generation below zero; test_claims.py has real members.
        """
        first = SimpleNamespace(partition=PARTITION, generation_id=-generation, offset=0)
        self._work.run(first, [Activity(*event, published_ms=5) for event in events])


@pytest.fixture
def log(services: Services) -> Log:
    return Log(services.kafka_bootstrap)


@pytest.fixture
def workers(stores: Stores, services: Services, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sequence[Worker]]:
    def end(reason: str) -> None:
        raise AssertionError(f"the worker ended: {reason}")

    monkeypatch.setattr(handling, "end_process", end)
    made = [Worker(stores, services.kafka_bootstrap) for _ in range(2)]
    yield made
    for worker in made:
        worker.release()
        worker.threads.shutdown()


POSTED, FOLLOWED, UNFOLLOWED = ActivityType.POSTED, ActivityType.FOLLOWED, ActivityType.UNFOLLOWED


def post(publisher: Publisher, author: int) -> tuple[ActivityType, int, int]:
    return POSTED, author, publisher.post(NewTweet(author, secrets.token_hex(4))).id


@pytest.mark.parametrize("revoked", [True, False], ids=["after a revoke", "when it missed the revoke"])
def test_a_worker_that_gets_a_partition_back_uses_the_followers_of_now(
    revoked: bool, workers: Sequence[Worker], log: Log, publisher: Publisher, make_users: MakeUsers
) -> None:
    first, second = workers
    author, leaves, stays, joins = make_users(4)
    publisher.follow_many([(leaves, author), (stays, author)])
    before, meanwhile, after = (post(publisher, author) for _ in range(3))
    first.run(1, before)
    if revoked:
        first.release()
    publisher.unfollow(leaves, author)
    publisher.follow(joins, author)
    second.run(2, (UNFOLLOWED, author, leaves), (FOLLOWED, author, joins), meanwhile)
    second.release()

    first.run(3, after)

    targets = [log.home_targets(tweet) for _, _, tweet in (before, meanwhile, after)]
    assert targets == [{leaves, stays}, {stays, joins}, {stays, joins}]


def test_a_new_owner_sends_nothing_while_the_last_ones_transaction_is_open(
    workers: Sequence[Worker], services: Services, log: Log, publisher: Publisher, make_users: MakeUsers
) -> None:
    author, follower = make_users(2)
    publisher.follow(follower, author)
    tweet, waiting = post(publisher, author), list[Future[None]]()

    class FrozenOnceChecked(TransactionalProducer):
        def _check(self, claim: Claim) -> None:
            super()._check(claim)
            waiting.append(workers[0].threads.submit(workers[0].run, 2, tweet))
            with pytest.raises(TimeoutError):
                waiting[0].result(3.0)
            assert log.home_targets(tweet[2]) == set()

    old = FrozenOnceChecked(services.kafka_bootstrap, f"test-{secrets.token_hex(4)}")
    old.send([], Claim(ACTIVITY, {PARTITION: 0}, generation=-1, member=""))

    waiting[0].result(30.0)
    assert log.home_targets(tweet[2]) == {follower}


def test_a_revoke_drops_the_index_also_when_the_generations_start_again(
    workers: Sequence[Worker], log: Log, publisher: Publisher, make_users: MakeUsers
) -> None:
    """A consumer group that is made anew counts from 1 again."""
    author, follower = make_users(2)
    workers[0].run(1, post(publisher, author))
    workers[0].release()
    publisher.follow(follower, author)
    tweet = post(publisher, author)

    workers[0].run(1, tweet)

    assert log.home_targets(tweet[2]) == {follower}


def test_an_old_follow_event_after_a_newer_load_changes_nothing_for_good(
    workers: Sequence[Worker], log: Log, publisher: Publisher, make_users: MakeUsers
) -> None:
    """The index is loaded while the log still holds a follow and an unfollow that the database has left behind."""
    worker = workers[0]
    author, came_back, went = make_users(3)
    publisher.follow_many([(came_back, author), (went, author)])
    publisher.unfollow_many([(came_back, author), (went, author)])
    publisher.follow(came_back, author)
    worker.run(1, post(publisher, author))
    old = [(kind, author, who) for who in (came_back, went) for kind in (FOLLOWED, UNFOLLOWED)]

    for event in old:
        worker.run(1, event)
        tweet = post(publisher, author)
        worker.run(1, tweet)
        assert log.home_targets(tweet[2]) == {came_back}
    worker.run(1, (FOLLOWED, author, came_back))

    kinds = [kind for kind in log.kinds_for(went) if kind is not DeliveryKind.REMOVE_CELEBRITY]
    assert set(kinds) == {DeliveryKind.UNMERGE}
    returned = [kind for kind in log.kinds_for(came_back) if kind is not DeliveryKind.DELIVER]
    assert returned == [DeliveryKind.MERGE, DeliveryKind.UNMERGE, DeliveryKind.MERGE, DeliveryKind.MERGE]


def test_a_post_between_follow_events_of_its_batch_goes_to_the_followers_of_now_and_the_events_mend_the_rest(
    workers: Sequence[Worker], log: Log, publisher: Publisher, make_users: MakeUsers
) -> None:
    worker = workers[0]
    author, leaves, joins = make_users(3)
    publisher.follow(leaves, author)
    worker.run(1, post(publisher, author))
    tweet = post(publisher, author)
    publisher.unfollow(leaves, author)
    publisher.follow(joins, author)

    worker.run(1, tweet, (UNFOLLOWED, author, leaves), (FOLLOWED, author, joins))

    assert log.home_targets(tweet[2]) == {joins}
    assert log.kinds_for(leaves)[-2:] == [DeliveryKind.UNMERGE, DeliveryKind.REMOVE_CELEBRITY]
    assert log.kinds_for(joins) == [DeliveryKind.DELIVER, DeliveryKind.MERGE]


def test_the_follow_events_of_a_batch_copy_an_authors_followers_once(
    workers: Sequence[Worker],
    publisher: Publisher,
    make_users: MakeUsers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    author, *many = make_users(41)
    worker, changed = workers[0], list[int]()
    worker.run(1, post(publisher, author))
    publisher.follow_many([(follower, author) for follower in many])
    original = follower_index.with_changes

    def counting(
        followers: follower_index.PackedFollowers, changes: Mapping[int, bool]
    ) -> follower_index.PackedFollowers:
        changed.append(len(changes))
        return original(followers, changes)

    monkeypatch.setattr(follower_index, "with_changes", counting)

    worker.run(1, *[(FOLLOWED, author, follower) for follower in many])

    assert changed == [len(many)]
