"""The index on a real database: it holds what the database says, and follows change it."""

import tracemalloc
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pytest
import sqlalchemy as sa
from prometheus_client import REGISTRY

from streams import follower_index
from streams.follower_index import SMALL_FOLLOWERS_MAX, FollowerIndex, pack, partitions_of, with_changes

FOLLOWER = 10**18  # ids have 19 digits


def followers(index: FollowerIndex, author: int) -> list[int]:
    return sorted(index.get_all([author])[author].ids.tolist())


def follow(engine: sa.Engine, author: int, who: Sequence[int]) -> None:
    with engine.begin() as connection:
        connection.execute(
            sa.text("INSERT INTO follows SELECT unnest(CAST(:who AS bigint[])), :author"),
            {"who": list(who), "author": author},
        )


def unfollow_all(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM follows"))


def metric(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"fanfold_follower_index_{name}", labels) or 0.0


@pytest.fixture
def index(engine: sa.Engine) -> Iterator[FollowerIndex]:
    follow(engine, 1, range(10, 60))
    follow(engine, 2, range(20, 23))
    made = FollowerIndex(engine)
    yield made
    made.close()


@pytest.mark.parametrize("count", [0, 1, SMALL_FOLLOWERS_MAX, SMALL_FOLLOWERS_MAX + 1, 70_000])
def test_packed_followers_lie_in_their_partitions(count: int) -> None:
    packed = pack(np.arange(FOLLOWER, FOLLOWER + count, dtype=np.uint64))

    parts = dict(packed.by_partition())
    assert all(set(partitions_of(ids).tolist()) == {partition} for partition, ids in parts.items())
    assert sorted(packed.ids.tolist()) == list(range(FOLLOWER, FOLLOWER + count))
    bounds = packed.bounds.tolist()
    assert {p: packed.ids[bounds[p] : bounds[p + 1]].tolist() for p in parts} == {
        p: i.tolist() for p, i in parts.items()
    }
    assert bounds[-1] == count == sum(map(len, parts.values()))


@pytest.mark.parametrize("count", [0, 3, SMALL_FOLLOWERS_MAX, 2_000])
@pytest.mark.parametrize("seed", range(5))
def test_changed_followers_are_those_that_would_be_packed(count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    before = rng.choice(10_000, size=count, replace=False).astype(np.uint64)
    changes = {int(one): bool(rng.integers(2)) for one in rng.choice(10_000, size=300, replace=False)}
    changes |= {int(one): False for one in before[: count // 3]}

    after = with_changes(pack(before), changes)

    expected = (set(before.tolist()) | set(changes)) - {one for one, follows in changes.items() if not follows}
    assert sorted(after.ids.tolist()) == sorted(expected)
    assert after.bounds.tolist() == pack(np.array(list(expected), dtype=np.uint64)).bounds.tolist()
    assert all(set(partitions_of(ids).tolist()) == {partition} for partition, ids in after.by_partition())


def test_an_author_without_followers_is_held_too(index: FollowerIndex, engine: sa.Engine) -> None:
    assert list(index.get_all([3])[3].by_partition()) == []
    follow(engine, 3, [10])

    assert followers(index, 3) == []


def test_followers_come_from_the_database_once(index: FollowerIndex, engine: sa.Engine) -> None:
    assert followers(index, 1) == list(range(10, 60))
    unfollow_all(engine)

    assert followers(index, 1) == list(range(10, 60))
    assert followers(index, 2) == []


def test_a_follow_event_changes_a_held_author(index: FollowerIndex) -> None:
    followers(index, 2)

    index.set_following(2, {30: True, 20: False, 21: True, 99: False})

    assert followers(index, 2) == [21, 22, 30]


def test_a_follow_event_of_an_author_that_is_not_held_changes_nothing(index: FollowerIndex) -> None:
    index.set_following(2, {30: True})

    assert followers(index, 2) == [20, 21, 22]


def test_the_least_recently_used_author_goes_when_the_bytes_are_used_up(
    engine: sa.Engine, index: FollowerIndex
) -> None:
    sizes = [pack(np.arange(count, dtype=np.uint64)).size_bytes for count in (50, 3)]
    small = FollowerIndex(engine, bytes_max=sum(sizes))
    evictions = metric("evictions_total")
    for author in (1, 2, 1, 3):
        followers(small, author)
    unfollow_all(engine)

    assert followers(small, 1) == list(range(10, 60))
    assert followers(small, 2) == []
    assert metric("evictions_total") - evictions >= 1
    small.close()


def test_the_index_stays_below_its_bytes_whatever_grows(engine: sa.Engine) -> None:
    authors, bytes_max = range(1, 301), 20_000
    for author in authors:
        follow(engine, author, range(FOLLOWER, FOLLOWER + author % 7))
    before, index = metric("bytes"), FollowerIndex(engine, bytes_max)

    index.get_all(authors)
    assert bytes_max * 0.9 < metric("bytes") - before <= bytes_max
    for author in authors:
        index.set_following(author, dict.fromkeys(range(100), True))
        assert metric("bytes") - before <= bytes_max
    index.close()


def test_a_load_is_cut_into_bounded_queries_and_blocks(
    engine: sa.Engine, index: FollowerIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    packed: list[int] = []
    read, pack_all = follower_index.read_followers, follower_index.pack_all

    def reading(engine: sa.Engine, authors: Sequence[int]) -> Iterator[tuple[int, bytes]]:
        asked.append(len(authors))
        return read(engine, authors)

    def packing(authors: Sequence[bytes]) -> Iterator[follower_index.PackedFollowers]:
        packed.append(sum(map(len, authors)) // 8)
        return pack_all(authors)

    monkeypatch.setattr(follower_index, "read_followers", reading)
    monkeypatch.setattr(follower_index, "pack_all", packing)
    monkeypatch.setattr(follower_index, "LOAD_AUTHORS_MAX", 4)
    monkeypatch.setattr(follower_index, "LOAD_IDS_MAX", 5)
    for author in range(3, 10):
        follow(engine, author, range(FOLLOWER, FOLLOWER + 2))

    found = index.get_all(range(1, 11))

    assert {author: len(one.ids) for author, one in found.items()} == {1: 50, 2: 3} | dict.fromkeys(range(3, 10), 2) | {
        10: 0
    }
    assert sorted(asked) == [2, 4, 4]
    assert max(size for size in packed if size != 50) <= 5
    assert len(packed) >= 5


def test_what_an_author_is_said_to_take_is_what_he_takes(engine: sa.Engine) -> None:
    """Measured by letting go of it: meanwhile other threads of this process take memory too."""
    authors = 22_000  # their dict has just grown, which it does at 21,845
    with engine.begin() as connection:
        connection.execute(
            sa.text(
                f"INSERT INTO follows SELECT {FOLLOWER} - f, {FOLLOWER} + a * 7 "
                f"FROM generate_series(1, {authors}) AS a, generate_series(1, 8) AS f"
            )
        )
    before, index = metric("bytes"), FollowerIndex(engine)
    index.get_all([FOLLOWER + 7])
    tracemalloc.start()
    try:
        for start in range(1, authors + 1, 1_000):
            index.get_all([FOLLOWER + author * 7 for author in range(start, start + 1_000)])
        said, held = metric("bytes") - before, metric("authors")
        with_index, _ = tracemalloc.get_traced_memory()
        index.close()
        del index
        without_index, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert held >= authors
    assert 0.75 < (with_index - without_index) / said <= 1.0


def test_lookups_size_and_loads_are_metrics(index: FollowerIndex) -> None:
    def seen() -> dict[str, float]:
        names = ("bytes", "authors", "rows_total", "load_seconds_count")
        counts = {name: metric(name) for name in names}
        return counts | {result: metric("lookups_total", result=result) for result in ("hit", "miss")}

    before = seen()
    index.get_all([1, 2])
    index.get_all([2, 3])

    sizes = sum(pack(np.arange(count, dtype=np.uint64)).size_bytes for count in (50, 3, 0))
    expected = {"bytes": sizes, "authors": 3, "rows_total": 53, "load_seconds_count": 2, "hit": 1, "miss": 3}
    assert {name: value - before[name] for name, value in seen().items()} == expected
    index.close()
    assert [metric(name) for name in ("bytes", "authors")] == [before["bytes"], before["authors"]]


class Log:
    """One partition's follow events, and a worker that reads them; rows change while it works."""

    def __init__(self, engine: sa.Engine, rng: np.random.Generator) -> None:
        self.index = FollowerIndex(engine, bytes_max=700)
        self._engine = engine
        self._rng = rng
        self._events: list[tuple[int, int]] = []

    def change(self) -> None:
        """Somebody follows or unfollows: the row, and its event behind all others."""
        pair = int(self._rng.integers(1, 5)), int(self._rng.integers(10, 14))
        with self._engine.begin() as connection:
            gone = connection.execute(_UNFOLLOW, {"author": pair[0], "follower": pair[1]}).rowcount
        if not gone:
            follow(self._engine, pair[0], [pair[1]])
        self._events.append(pair)

    def read(self, count: int, between: int) -> None:
        """A batch as fan_out works it: the batch, then its rows, then the index; `between` changes come in each gap."""
        batch, self._events = self._events[:count], self._events[count:]
        now = self.rows()
        self._change_some(between)
        changes: dict[int, dict[int, bool]] = {}
        for author, follower in batch:
            changes.setdefault(author, {})[follower] = follower in now[author]
        self.index.set_all_following(changes)
        self._change_some(between)
        self.index.get_all(self._rng.integers(1, 5, size=2).tolist())

    def rows(self) -> Mapping[int, set[int]]:
        """author → followers, in the database."""
        found: dict[int, set[int]] = {author: set() for author in range(1, 5)}
        with self._engine.connect() as connection:
            for author, follower in connection.execute(sa.text("SELECT author_id, follower_id FROM follows")):
                found[author].add(follower)
        return found

    def check(self) -> None:
        """Index and database agree on every pair that no unread event names."""
        now, open_ = self.rows(), set(self._events)
        for author, held in self.index.get_all(range(1, 5)).items():
            differing = now[author] ^ set(held.ids.tolist())
            assert {(author, follower) for follower in differing} <= open_

    def _change_some(self, count: int) -> None:
        for _ in range(int(self._rng.integers(0, count + 1))):
            self.change()


_UNFOLLOW = sa.text("DELETE FROM follows WHERE author_id = :author AND follower_id = :follower")


@pytest.mark.parametrize("seed", range(6))
def test_loads_and_follow_events_in_any_order_end_at_what_the_database_says(engine: sa.Engine, seed: int) -> None:
    """A load may see what events that are still unread have done; authors are evicted and loaded again meanwhile."""
    rng = np.random.default_rng(seed)
    log = Log(engine, rng)
    for _ in range(60):
        log.change()
        log.read(count=int(rng.integers(0, 4)), between=1)
        log.check()

    log.read(count=1_000, between=0)
    log.check()
    log.index.close()
