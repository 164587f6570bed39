"""The whole pipeline as processes: kills in the middle, a second worker, a stop; the audit is clean afterwards."""

import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa

from benchmarks.churn import churn
from consumers.applied import wait_until_applied
from consumers.audit import audit
from consumers.delivered import delivered, expected_deliveries
from consumers.read_timeline import TimelineReader
from infra.composition import Stores, stores
from infra.errors import RedisUnavailable
from infra.live_settings import set_live_settings
from infra.paging import Cursor
from infra.settings import Settings
from infra.stack.supervisor import Stack
from producers.importer import import_follows
from producers.publish import NewTweet, Publisher, need_all
from producers.status_keeper import due_steps
from tests.services import fresh_folder

USERS, AUTHORS, TWEETS = 400, 20, 1_200
APPLIED_S = 90.0


@dataclass(frozen=True)
class Pipeline:
    """A stack with its own database, and users who follow every author."""

    stack: Stack
    stores: Stores
    settings: Settings

    @property
    def publisher(self) -> Publisher:
        return Publisher(self.stores)

    def publish(self, meanwhile: Callable[[int], None]) -> None:
        """Tweets with deletes, unfollows and follows mixed in; `meanwhile` is called after each batch of 100."""
        publisher = self.publisher
        for batch in range(TWEETS // 100):
            tweets = need_all(
                publisher.post_many([NewTweet(number % AUTHORS + 1, f"{batch} {number}") for number in range(100)])
            )
            for tweet in tweets[:5]:
                delete_as_a_client_does(publisher, tweet.id)
            reader, author = self._some_follow()
            publisher.unfollow(reader, author)
            if batch % 2:
                publisher.follow(reader, author)
            meanwhile(batch)

    def _some_follow(self) -> tuple[int, int]:
        with self.stores.engine.connect() as connection:
            row = connection.execute(
                sa.text("SELECT follower_id, author_id FROM follows ORDER BY random() LIMIT 1")
            ).one()
            return row.follower_id, row.author_id

    def check(self) -> None:
        """Everything is applied in time, and every timeline of every active user is right in every cluster."""
        wait_until_applied(self.stores.engine, self.settings.kafka_bootstrap, APPLIED_S)
        result = audit(self.stores.engine, self.stores.timelines, complete=True)
        assert result.differences == ()
        assert result.clean
        assert result.active_users == USERS


def wait_for(condition: Callable[[], bool], what: str, limit_s: float = 30.0) -> None:
    pause = threading.Event()
    for _ in range(int(limit_s / 0.1)):
        if condition():
            return
        pause.wait(0.1)
    raise AssertionError(f"waited {limit_s} s in vain for {what}")


def delete_as_a_client_does(publisher: Publisher, tweet_id: int) -> None:
    """Again while a tombstone cannot be written everywhere."""
    pause = threading.Event()
    for _ in range(200):
        try:
            publisher.delete(tweet_id)
        except RedisUnavailable:
            pause.wait(0.1)
        else:
            return
    raise AssertionError(f"tweet {tweet_id} could not be deleted within 20 s")


def killing(stack: Stack, name: str) -> Callable[[int], None]:
    """Kills a part in the middle of the traffic, and again once it is back."""

    def meanwhile(batch: int) -> None:
        if batch == 3:
            killed = stack.kill(name, signal.SIGKILL)
            stack.wait_restarted(name, killed)
        if batch == 7:
            stack.kill(name, signal.SIGKILL)

    return meanwhile


@contextmanager
def running_pipeline(name: str) -> Iterator[Pipeline]:
    folder = fresh_folder(name)
    stack = Stack(folder, roles=("registrar", "coordinator", "relay", "worker"))
    stack.start()
    try:
        with stores(stack.settings()) as opened:
            follows = Path(folder) / "follows.tsv"
            pairs = [
                (user, author) for user in range(1, USERS + 1) for author in range(1, AUTHORS + 1) if user != author
            ]
            follows.write_text("".join(f"{user}\t{author}\n" for user, author in pairs))
            import_follows(opened.engine, follows, threshold=10_000)
            TimelineReader(opened).warm(range(1, USERS + 1))
            yield Pipeline(stack, opened, stack.settings())
    finally:
        stack.stop()
    shutil.rmtree(folder)  # kept when a test failed in it: its logs say why


@pytest.fixture(scope="module")
def pipeline() -> Iterator[Pipeline]:
    with running_pipeline("pipeline") as running:
        yield running


def test_killing_the_worker_in_the_middle_loses_and_doubles_nothing(pipeline: Pipeline) -> None:
    pipeline.publish(killing(pipeline.stack, "worker"))

    pipeline.check()


def test_killing_the_relay_in_the_middle_loses_and_doubles_nothing(pipeline: Pipeline) -> None:
    pipeline.publish(killing(pipeline.stack, "relay"))

    pipeline.check()


def test_a_second_worker_takes_partitions_and_gives_them_back(pipeline: Pipeline) -> None:
    def change_workers(batch: int) -> None:
        if batch == 3:
            pipeline.stack.start_role("worker", 2)
        if batch == 8:
            pipeline.stack.stop_part("worker-2")

    pipeline.publish(change_workers)

    pipeline.check()


def test_a_stopped_worker_ends_soon_and_another_goes_on(pipeline: Pipeline) -> None:
    def restart(batch: int) -> None:
        if batch == 5:
            pipeline.stack.stop_part("worker")
            pipeline.stack.start_part("worker")

    pipeline.publish(restart)

    pipeline.check()


@pytest.mark.parametrize(("threshold", "arrived"), [(USERS // 2, "pull"), (10_000, "push")])
def test_all_authors_cross_the_threshold_in_the_middle_and_every_timeline_is_right_on_each_side(
    pipeline: Pipeline, threshold: int, arrived: str
) -> None:
    def cross(batch: int) -> None:
        if batch == 3:
            set_live_settings(pipeline.stores.zookeeper, threshold=threshold)

    def arrivals() -> int:
        with pipeline.stores.engine.connect() as connection:
            counted = "SELECT count(*) FROM users WHERE id <= :authors AND status = :status"
            return int(connection.execute(sa.text(counted), {"authors": AUTHORS, "status": arrived}).scalar_one())

    pipeline.publish(cross)
    wait_for(lambda: arrivals() == AUTHORS, f"all authors to arrive at {arrived}", APPLIED_S)

    pipeline.check()
    newest = {one: pipeline.publisher.post(NewTweet(one, "from both sides of the threshold")).id for one in (1, 2)}
    wait_until_applied(pipeline.stores.engine, pipeline.settings.kafka_bootstrap, APPLIED_S)
    page = TimelineReader(pipeline.stores).home(USERS, Cursor())
    assert [tweet.id for tweet in page.tweets[:2]] == [newest[2], newest[1]]


def test_no_page_is_wrong_while_tweets_go_follows_change_and_authors_cross_the_threshold(pipeline: Pipeline) -> None:
    posts = [(number % AUTHORS + 1, f"{number}") for number in range(600)]
    done = churn(pipeline.stores, posts, seconds=12.0, seed=5, posted=lambda: None)
    wait_for(lambda: not due_steps(pipeline.stores.engine, 10_000), "all authors to be where they belong", APPLIED_S)

    assert done.faults == []
    assert done.posts == len(posts)
    assert min(done.deletes, done.unfollows, done.follows, done.thresholds, done.reads) > 1
    pipeline.check()


def test_a_redis_node_that_restarts_empty_is_written_again_and_its_timelines_are_rebuilt_as_they_are_read(
    pipeline: Pipeline,
) -> None:
    pipeline.publish(killing(pipeline.stack, "b1"))
    wait_until_applied(pipeline.stores.engine, pipeline.settings.kafka_bootstrap, APPLIED_S)
    TimelineReader(pipeline.stores).warm(range(1, USERS + 1))

    pipeline.check()


def test_a_worker_that_waits_for_frozen_nodes_ends_on_sigterm_without_acknowledging(pipeline: Pipeline) -> None:
    """One of the two is marked down; without the other too few copies would be left."""
    stack, log = pipeline.stack, pipeline.stack.data_dir / "logs" / "worker.log"
    before = len(log.read_text())
    for name in ("b1", "c1"):
        stack.kill(name, signal.SIGSTOP)
    try:
        pipeline.publisher.post_many([NewTweet(author, "to frozen nodes") for author in range(1, AUTHORS + 1)])
        wait_for(lambda: "deliver waits" in log.read_text()[before:], "the worker to say that it waits")
        stack.stop_part("worker")
    finally:
        for name in ("b1", "c1"):
            stack.kill(name, signal.SIGCONT)

    assert "a batch did not end in time for a stop or a rebalance" in log.read_text()
    stack.start_part("worker")
    pipeline.check()


def test_a_message_that_cannot_be_read_goes_to_the_dead_letters_and_the_rest_goes_on(pipeline: Pipeline) -> None:
    from confluent_kafka import Consumer, Producer

    from infra.kafka import producer_config
    from infra.topics import ACTIVITY, DELIVERIES

    producer = Producer(producer_config(pipeline.settings.kafka_bootstrap))
    for topic in (ACTIVITY, DELIVERIES):
        producer.produce(topic.name, b"\xff not an event", b"key", partition=0, headers=[("own", b"header")])
    assert producer.flush(10) == 0

    pipeline.publish(lambda _: None)
    pipeline.check()

    config = {
        "bootstrap.servers": pipeline.settings.kafka_bootstrap,
        "group.id": "test-dlq",
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
    }
    consumer = Consumer(config)
    consumer.subscribe([ACTIVITY.dead_letters, DELIVERIES.dead_letters])
    letters = [consumer.poll(20) for _ in range(2)]
    consumer.close()
    for letter in letters:
        assert letter is not None
        assert (letter.key(), letter.value()) == (b"key", b"\xff not an event")
        headers = dict(letter.headers())
        assert headers["own"] == b"header"
        assert headers["__connect.errors.topic"].decode() + ".dlq" == letter.topic()
        assert headers["__connect.errors.partition"] == b"0"
        assert headers["__connect.errors.exception.class.name"] == b"infra.errors.Undecodable"


def test_a_second_up_goes_on_with_the_same_data(pipeline: Pipeline) -> None:
    """The last test of this module: it stops the stack and starts another in its folder."""
    with pipeline.stores.engine.connect() as connection:
        tweets = connection.execute(sa.text("SELECT count(*) FROM tweets")).scalar_one()
    pipeline.stack.stop()

    again = Stack(pipeline.stack.data_dir, roles=("registrar", "coordinator", "relay", "worker"))
    again.start()
    try:
        with stores(again.settings()) as opened:
            with opened.engine.connect() as connection:
                assert connection.execute(sa.text("SELECT count(*) FROM tweets")).scalar_one() == tweets
            assert delivered(opened.clusters).deliveries == 0
            assert audit(opened.engine, opened.timelines).clean
            TimelineReader(opened).warm(range(1, USERS + 1))
            running = Pipeline(again, opened, again.settings())
            running.publish(lambda _: None)
            running.check()
            assert expected_deliveries(opened.engine) > 0
    finally:
        again.stop()
