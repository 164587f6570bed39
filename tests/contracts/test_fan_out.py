"""fan_out on real Kafka and PostgreSQL: whose followers a tweet goes to while partitions move and follows change."""

import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace

import numpy as np
import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient

from infra.composition import Stores
from infra.dead_letters import DeadLetters
from infra.events import Activity, ActivityType, Delivery, DeliveryKind, decode_deliveries, encode_activity
from infra.kafka import GROUP, Claim, Message, TransactionalProducer
from infra.kafka_logs import PARTITION_END, await_settled, end_offsets
from infra.topics import ACTIVITY, DELIVERIES
from infra.worked_logs import read_places
from producers.publish import NewTweet, Publisher
from streams import app, follower_index, handling
from streams.app import THREADS, FanOutWork, Parts
from streams.fan_out import FanOut
from streams.handling import Part
from tests.contracts.members import Generations
from tests.services import Services
from tests.waiting import wait_until

MakeUsers = Callable[[int], list[int]]
PARTITION = 0

Event = tuple[ActivityType, int, int]
OPEN_S = 3.0  # a transaction of the last owner; a new one that does not wait is done long before
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

    def __init__(self, stores: Stores, bootstrap: str, generations: Generations) -> None:
        self.threads = ThreadPoolExecutor(THREADS)
        self._generations, self._member = generations, ""
        parts = Parts(stores.engine, stores.timelines, DeadLetters(bootstrap), bootstrap, self.threads)
        self._work = FanOutWork(parts, member=lambda: self._member)
        self.release = self._work.release

    def run(self, generation: int, *events: Event) -> None:
        """A batch of (type, author, other) in one consumer generation."""
        self._work.run(self._part(PARTITION, generation, events))

    def run_to(self, goes_on: int, generation: int, *events: Event) -> None:
        """The same, of a batch behind which the log goes on at that offset."""
        self._work.run(replace(self._part(PARTITION, generation, events), goes_on=goes_on))

    def together(self, *batches: tuple[int, int, Sequence[Event]]) -> bool:
        """A round of (partition, generation, events)."""
        return self._work.together([self._part(*batch) for batch in batches])

    def _part(self, partition: int, generation: int, events: Sequence[Event]) -> Part[Activity]:
        claim = self._generations.enter(generation, {partition: 0})
        self._member = claim.member
        return Part(partition, claim.generation, 0, activities(events))


def activities(events: Sequence[Event]) -> list[Activity]:
    return [Activity(*event, published_ms=5) for event in events]


@pytest.fixture
def generations(services: Services) -> Iterator[Generations]:
    made = Generations(services.kafka_bootstrap)
    yield made
    made.leave()


@pytest.fixture
def log(services: Services) -> Log:
    return Log(services.kafka_bootstrap)


@pytest.fixture
def workers(
    stores: Stores, services: Services, generations: Generations, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Sequence[Worker]]:
    def end(reason: str) -> None:
        raise AssertionError(f"the worker ended: {reason}")

    monkeypatch.setattr(handling, "end_process", end)
    made = [Worker(stores, services.kafka_bootstrap, generations) for _ in range(2)]
    yield made
    for worker in made:
        worker.release()
        worker.threads.shutdown()


POSTED, FOLLOWED, UNFOLLOWED = ActivityType.POSTED, ActivityType.FOLLOWED, ActivityType.UNFOLLOWED


def post(publisher: Publisher, author: int) -> Event:
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
    workers: Sequence[Worker],
    generations: Generations,
    services: Services,
    log: Log,
    publisher: Publisher,
    make_users: MakeUsers,
) -> None:
    author, follower = make_users(2)
    publisher.follow(follower, author)
    newer, tweet, running, targets = workers[0], post(publisher, author), list[Future[None]](), list[set[int]]()

    class FrozenOnceChecked(TransactionalProducer):
        def _check(self, claim: Claim) -> None:
            super()._check(claim)
            running.append(newer.threads.submit(newer.run, 2, tweet))
            wait(running, OPEN_S)
            targets.append(log.home_targets(tweet[2]))

    old = FrozenOnceChecked(services.kafka_bootstrap, f"test-{secrets.token_hex(4)}")
    old.send([], generations.enter(1, {PARTITION: 0}))
    running[0].result(READ_WITHIN_S)
    targets.append(log.home_targets(tweet[2]))

    assert targets == [set(), {follower}]


def test_what_waits_in_several_partitions_is_sent_together_and_each_has_its_claim(
    workers: Sequence[Worker], log: Log, publisher: Publisher, make_users: MakeUsers, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[dict[int, int]] = []
    begin = TransactionalProducer.begin

    def noting(self: TransactionalProducer, claim: Claim | None = None) -> None:
        sent.append(dict(claim.offsets) if claim else {})
        begin(self, claim)

    monkeypatch.setattr(TransactionalProducer, "begin", noting)
    one, other, follower = make_users(3)
    publisher.follow_many([(follower, one), (follower, other)])
    tweets = [post(publisher, one), post(publisher, other)]

    assert workers[0].together((0, 1, tweets[:1]), (1, 1, tweets[1:]))

    assert [log.home_targets(tweet) for _, _, tweet in tweets] == [{follower}, {follower}]
    assert sent == [{0: 0, 1: 0}]


def test_the_group_moves_on_in_the_transaction_that_has_what_came_of_the_batch(
    workers: Sequence[Worker], log: Log, publisher: Publisher, make_users: MakeUsers, services: Services
) -> None:
    place, [author, follower] = (ACTIVITY.name, PARTITION), make_users(2)
    publisher.follow(follower, author)
    tweet = post(publisher, author)
    sender = TransactionalProducer(services.kafka_bootstrap, f"test-activity-{secrets.token_hex(4)}")
    value = encode_activity(Activity(*tweet, published_ms=5)).encode()
    behind = sender.send([Message(ACTIVITY.name, value, b"%d" % author, PARTITION)] * 2)

    workers[0].run_to(behind[place], 1, tweet)

    wait_until(lambda: read_places(services.kafka_bootstrap, GROUP, [place]) == behind, "the group's place")
    assert log.home_targets(tweet[2]) == {follower}


def test_a_claim_is_made_anew_when_the_plan_took_longer_than_a_transaction_may(
    workers: Sequence[Worker], log: Log, publisher: Publisher, make_users: MakeUsers, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[None] = []
    abort = TransactionalProducer.abort

    def noting(self: TransactionalProducer) -> None:
        ended.append(abort(self))

    monkeypatch.setattr(TransactionalProducer, "abort", noting)
    monkeypatch.setattr(app, "CLAIM_AGE_MAX_S", 0.0)
    author, follower = make_users(2)
    publisher.follow(follower, author)
    tweet = post(publisher, author)

    workers[0].run(1, tweet)

    assert ended == [None]
    assert log.home_targets(tweet[2]) == {follower}


def test_a_plan_that_fails_leaves_no_transaction_open(
    workers: Sequence[Worker],
    services: Services,
    log: Log,
    publisher: Publisher,
    make_users: MakeUsers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    author, follower = make_users(2)
    publisher.follow(follower, author)
    tweet = post(publisher, author)
    with monkeypatch.context() as broken:
        broken.setattr(FanOut, "plan", None)
        with pytest.raises(TypeError):
            workers[0].run(1, tweet)

    await_settled(services.kafka_bootstrap, ACTIVITY, [PARTITION])
    workers[0].run(1, tweet)

    assert log.home_targets(tweet[2]) == {follower}


def test_a_client_that_never_ends_the_check_of_a_claim_ends_the_process(
    workers: Sequence[Worker], publisher: Publisher, make_users: MakeUsers, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Ended(BaseException):
        """Raised where the process would end."""

    def end(reason: str) -> None:
        raise Ended(reason)

    def hang(*_: object) -> None:
        over.wait(READ_WITHIN_S)
        raise AssertionError("nobody stopped waiting")

    [author] = make_users(1)
    tweet, over = post(publisher, author), threading.Event()
    monkeypatch.setattr(TransactionalProducer, "begin", hang)
    monkeypatch.setattr(app, "CLAIM_WITHIN_S", 0.1)
    monkeypatch.setattr(app, "end_process", end)

    with pytest.raises(Ended, match=r"the check of a claim within 0\.1 s"):
        workers[0].run(1, tweet)

    over.set()


def test_batches_of_two_generations_are_not_sent_together(
    workers: Sequence[Worker], log: Log, publisher: Publisher, make_users: MakeUsers
) -> None:
    author, follower = make_users(2)
    publisher.follow(follower, author)
    tweet = post(publisher, author)

    assert not workers[0].together((0, 1, [tweet]), (1, 2, [tweet]))

    assert log.home_targets(tweet[2]) == set()


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
