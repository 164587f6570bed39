"""Authors who cross the threshold while they post and readers read, on real servers: no hole and no double at any
moment, and exact timelines at the end."""

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator
from random import Random

import pytest
import sqlalchemy as sa

from consumers.audit import audit
from consumers.read_timeline import State, TimelineReader
from infra.composition import Stores
from infra.events import decode_activity
from infra.live_settings import set_live_settings
from infra.paging import Cursor
from infra.shard_map import CLUSTERS
from infra.status import Status
from infra.timeline_windows import Span, look_home
from infra.timelines import Kind
from infra.topics import DELIVERIES
from producers.publish import NewTweet, Publisher, need_all
from producers.status_keeper import due_steps, take_steps
from streams.deliver import Deliverer, receive
from streams.fan_out import FanOut, pack_messages, read_facts
from tests.waiting import wait_until

MakeUsers = Callable[[int], list[int]]

READERS, LENGTH = 4, 80
ABOVE, BELOW = 20, 2  # thresholds above and below what an author has
NOW_MS = 1_700_000_000_000


class Pipe:
    """Outbox, fan-out and deliver in this process, a message at a time: what is in between can be read."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores
        self._fan_out = FanOut(stores.engine)
        self._deliverers = {
            partition: Deliverer(stores.engine, stores.timelines, partition, generation=1)
            for partition in range(DELIVERIES.partitions)
        }
        self._offsets: dict[int, Iterator[int]] = defaultdict(itertools.count)

    def flow(self) -> Iterator[None]:
        """Takes what is in the outbox all the way; yields after each message of the deliveries log."""
        engine = self._stores.engine
        with engine.begin() as connection:
            rows = connection.execute(sa.text("DELETE FROM outbox RETURNING id, payload")).all()
        events = [decode_activity(row.payload.encode()) for row in sorted(rows)]
        for event in events:
            chunks = self._fan_out.plan([event], read_facts(engine, [event], LENGTH), LENGTH)
            for message in pack_messages(chunks):
                assert message.partition is not None
                received = receive(next(self._offsets[message.partition]), message.value)
                self._deliverers[message.partition].apply([received])
                yield

    def drain(self) -> None:
        for _ in self.flow():
            pass


@pytest.fixture
def pipe(stores: Stores) -> Pipe:
    return Pipe(stores)


def use_threshold(stores: Stores, threshold: int) -> None:
    set_live_settings(stores.zookeeper, threshold=threshold, timeline_entries=LENGTH)
    wait_until(lambda: stores.timelines.live.threshold == threshold, "the threshold is in force")


def step(stores: Stores, threshold: int) -> list[Status]:
    """The next step of everybody, whose last one is applied by now."""
    steps = take_steps(stores.engine, due_steps(stores.engine, threshold), NOW_MS)
    return [one.after.status for one in steps]


class Tweets:
    """What was posted: `applied` ones have gone all the way, and are on every page until they are deleted."""

    def __init__(self) -> None:
        self.applied: dict[int, int] = {}  # tweet → author
        self.deleted: set[int] = set()

    def of(self, authors: set[int]) -> list[int]:
        return sorted((tweet for tweet, author in self.applied.items() if author in authors), reverse=True)

    def check(self, reader: TimelineReader, user_id: int, authors: set[int]) -> None:
        """Nothing is missing on his page, nothing there twice, all is in order, nothing deleted is there."""
        page = reader.home(user_id, Cursor(40))
        ids = [tweet.id for tweet in page.tweets]
        assert page.state is State.COMPLETE
        assert ids == sorted(set(ids), reverse=True)
        assert not self.deleted.intersection(ids)
        oldest = ids[-1] if len(ids) == 40 else 0
        assert {one for one in self.of(authors) if one >= oldest} <= set(ids)


def test_an_author_who_crosses_the_threshold_a_hundred_times_leaves_no_hole_and_no_double(
    stores: Stores, pipe: Pipe, publisher: Publisher, make_users: MakeUsers
) -> None:
    rng = Random(6)
    use_threshold(stores, ABOVE)
    star, plain, *readers = make_users(READERS + 2)
    need_all(publisher.follow_many([(one, star) for one in readers] + [(one, plain) for one in readers[:BELOW]]))
    mine = {one: {star, plain} if one in readers[:BELOW] else {star} for one in readers}
    pipe.drain()
    reader, tweets = TimelineReader(stores), Tweets()
    crossed = list[Status]()

    def look(flow: Iterator[None]) -> None:
        """At a page of somebody after each message; the last reader reads nothing, ever."""
        for _ in itertools.chain([None], flow):
            one = rng.choice(readers[:-1])
            tweets.check(reader, one, mine[one])

    for crossing in range(200):
        texts = [NewTweet(rng.choice([star, star, plain]), f"{crossing} {n}") for n in range(2)]
        new = {tweet.id: tweet.author_id for tweet in need_all(publisher.post_many(texts))}
        if crossing % 3 == 2:
            gone = rng.choice(sorted(tweets.applied))
            publisher.delete(gone)
            del tweets.applied[gone]
            tweets.deleted.add(gone)
        flow = pipe.flow()
        if rng.random() < 0.5:  # with the events before it under way, or among them
            next(flow, None)
        crossed += step(stores, BELOW if crossing // 2 % 2 == 0 else ABOVE)
        look(flow)
        look(pipe.flow())
        tweets.applied.update(new)
        if crossing % 7 == 0:
            publisher.unfollow(readers[0], star)
            publisher.follow(readers[0], star)
            pipe.drain()

    assert crossed.count(Status.PULL) + crossed.count(Status.PUSH) == 100
    for one in readers[:-1]:
        page = reader.home(one, Cursor(40))
        assert [tweet.id for tweet in page.tweets] == tweets.of(mine[one])[:40]
    assert audit(stores.engine, stores.timelines).clean


@pytest.mark.parametrize("arrived", [Status.PULL, Status.PUSH])
def test_on_arrival_home_timelines_hold_him_or_the_sets_do(
    stores: Stores, pipe: Pipe, publisher: Publisher, make_users: MakeUsers, arrived: Status
) -> None:
    use_threshold(stores, ABOVE)
    star, *readers = make_users(READERS + 1)
    need_all(publisher.follow_many([(one, star) for one in readers]))
    tweets = [publisher.post(NewTweet(star, f"{n}")).id for n in range(5)]
    pipe.drain()
    for one in readers:
        TimelineReader(stores).home(one, Cursor())

    for threshold in (BELOW, BELOW, ABOVE, ABOVE)[: 2 if arrived is Status.PULL else 4]:
        step(stores, threshold)
        pipe.drain()

    listed = [] if arrived is Status.PULL else tweets
    for one in readers:
        look = look_home(stores.clusters, one, Span(None, 10))
        assert look.celebrities == ([star] if arrived is Status.PULL else [])
        for cluster in CLUSTERS:
            assert list(map(int, stores.timelines.dump(cluster, Kind.HOME, [one])[one]))[1:] == listed


def test_an_event_of_a_status_that_comes_late_or_again_does_no_harm(
    stores: Stores, pipe: Pipe, publisher: Publisher, make_users: MakeUsers
) -> None:
    use_threshold(stores, ABOVE)
    star, *readers = make_users(READERS + 1)
    need_all(publisher.follow_many([(one, star) for one in readers]))
    tweets = [publisher.post(NewTweet(star, f"{n}")).id for n in range(5)]
    reader, known = TimelineReader(stores), Tweets()
    pipe.drain()
    known.applied.update(dict.fromkeys(tweets, star))
    known.check(reader, readers[0], {star})
    columns = "aggregatetype, aggregateid, type, payload"
    again = f"INSERT INTO outbox ({columns}) SELECT {columns} FROM kept"
    with stores.engine.begin() as connection:
        connection.execute(sa.text("CREATE TABLE kept AS SELECT * FROM outbox"))
    for threshold in (BELOW, BELOW, ABOVE, ABOVE):
        step(stores, threshold)
        with stores.engine.begin() as connection:
            connection.execute(sa.text("INSERT INTO kept SELECT * FROM outbox"))
            connection.execute(sa.text(again))
        for _ in pipe.flow():
            known.check(reader, readers[0], {star})

    assert [tweet.id for tweet in reader.home(readers[0], Cursor()).tweets] == tweets[::-1]
    with stores.engine.begin() as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM kept")).scalar_one() == 4
