"""Many callers of one process who miss the same thing: the database is asked once."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa

from consumers.read_timeline import State, TimelineReader
from infra import metrics, rebuild, redis_keys, tweet_bodies
from infra.composition import Stores
from infra.paging import Cursor
from infra.shard_map import CLUSTERS
from producers.publish import NewTweet, Publisher
from tests.contracts.outage import MakeUsers

READERS = 8
WAIT_S = 10.0


@contextmanager
def held(engine: sa.Engine, statement: sa.TextClause, until: Callable[[], bool]) -> Iterator[list[str]]:
    """Every query of this kind waits until the condition holds; they are counted."""
    seen, passed = list[str](), threading.Event()
    text = str(statement.compile(dialect=engine.dialect))

    def hold(_connection: Any, _cursor: Any, asked: str, *_rest: Any) -> None:
        if asked == text:
            seen.append(asked)
            for _ in range(int(WAIT_S / 0.01)):
                if until() or passed.wait(0.01):
                    break
            passed.set()

    sa.event.listen(engine, "before_cursor_execute", hold)
    yield seen
    sa.event.remove(engine, "before_cursor_execute", hold)


def coalesced(kind: str) -> float:
    return float(metrics.COALESCED.labels(kind)._value.get())


@pytest.fixture
def followed(publisher: Publisher, make_users: MakeUsers) -> tuple[int, int, int]:
    """(reader, the author whom he follows, a tweet of his)."""
    user, author = make_users(2)
    publisher.follow(user, author)
    return user, author, publisher.post(NewTweet(author, "hello")).id


def test_callers_who_miss_one_home_timeline_share_one_rebuild(stores: Stores, followed: tuple[int, int, int]) -> None:
    user, _, tweet = followed
    reader, before = TimelineReader(stores), coalesced("home")
    with (
        held(stores.engine, rebuild._HOME_SNAPSHOT, lambda: coalesced("home") - before == READERS - 1) as queries,
        ThreadPoolExecutor(READERS) as threads,
    ):
        pages = list(threads.map(lambda _: reader.home(user, Cursor()), range(READERS)))

    assert [[one.id for one in page.tweets] for page in pages] == [[tweet]] * READERS
    assert {page.state for page in pages} == {State.COMPLETE}
    assert len(queries) == 1


def test_callers_who_miss_one_user_timeline_share_one_rebuild(stores: Stores, followed: tuple[int, int, int]) -> None:
    _, author, tweet = followed
    reader, before = TimelineReader(stores), coalesced("user")
    with (
        held(stores.engine, rebuild._USER_SNAPSHOT, lambda: coalesced("user") - before == READERS - 1) as queries,
        ThreadPoolExecutor(READERS) as threads,
    ):
        pages = list(threads.map(lambda _: reader.user(author, Cursor()), range(READERS)))

    assert [[one.id for one in page.tweets] for page in pages] == [[tweet]] * READERS
    assert len(queries) == 1


def test_callers_who_miss_one_body_ask_the_database_once(stores: Stores, followed: tuple[int, int, int]) -> None:
    tweet, before = followed[2], coalesced("body")
    for cluster in CLUSTERS:
        stores.clusters.node_for(cluster, tweet).command("DEL", redis_keys.body(tweet))
    with (
        held(stores.engine, tweet_bodies._READ, lambda: coalesced("body") - before == READERS - 1) as queries,
        ThreadPoolExecutor(READERS) as threads,
    ):
        found = list(threads.map(lambda _: stores.bodies.read([tweet]), range(READERS)))

    assert [set(one) for one in found] == [{tweet}] * READERS
    assert len(queries) == 2, "one look, and the second one after it was filled in"


def test_who_waited_for_a_body_shows_nothing_that_was_deleted_before_he_asked(
    stores: Stores, publisher: Publisher, followed: tuple[int, int, int]
) -> None:
    """The first caller has read the row; it is deleted, and the tombstones are lost; only then the second one asks."""
    tweet, before = followed[2], coalesced("body")

    def forget() -> None:
        for cluster in CLUSTERS:
            stores.clusters.node_for(cluster, tweet).command("DEL", redis_keys.body(tweet))

    live, filled = stores.bodies._live, threading.Event()

    def stall(ids: list[int]) -> list[tweet_bodies.Body]:
        rows = live(ids)
        if rows and not filled.is_set():
            filled.set()
            for _ in range(int(WAIT_S / 0.01)):
                if coalesced("body") > before or threading.Event().wait(0.01):
                    break
        return rows

    forget()
    stores.bodies._live = stall  # type: ignore[method-assign, assignment]
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(stores.bodies.read, [tweet])
        assert filled.wait(WAIT_S)
        publisher.delete(tweet)
        forget()
        second = threads.submit(stores.bodies.read, [tweet])

        assert second.result() == {}
        first.result()
