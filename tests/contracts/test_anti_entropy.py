"""Anti-entropy on real servers: a copy that differs is found, confirmed, counted and rebuilt; live traffic is no
difference."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

from infra import anti_entropy as module
from infra import metrics, redis_keys
from infra.anti_entropy import AntiEntropy, comparing, look, odd_ones
from infra.composition import Stores
from infra.live_settings import set_live_settings
from infra.rebuild import rebuild
from infra.timelines import Kind
from producers.publish import NewTweet, Publisher, need_all
from tests.applying import ONE_FOR_ONE_LIST, Applying
from tests.waiting import wait_until

READERS = 10
TTL_S = 20 * 86_400
ALIEN = 10**18 + 7


@pytest.fixture
def readers(stores: Stores, publisher: Publisher, make_users: Callable[[int], list[int]]) -> list[int]:
    """Active users with three tweets at home and one of their own, in every copy."""
    author, *readers = make_users(READERS + 1)
    publisher.follow_many([(reader, author) for reader in readers])
    need_all(publisher.post_many([NewTweet(author, text) for text in "abc"] + [NewTweet(one, "d") for one in readers]))
    for kind in Kind:
        rebuild(stores.engine, stores.timelines, kind, readers)
    return readers


def compare(stores: Stores, users: list[int]) -> int:
    return AntiEntropy(stores, lambda _: False).compare(users, TTL_S)


def value(metric: Any, *labels: str) -> float:
    return float((metric.labels(*labels) if labels else metric)._value.get())


def lists(stores: Stores, users: list[int], kind: Kind = Kind.HOME) -> list[dict[int, list[bytes]]]:
    return [stores.timelines.dump(cluster, kind, users) for cluster in "abc"]


def remove_an_entry(stores: Stores, key: bytes, user_id: int) -> None:
    node = stores.clusters.node_for("b", user_id)
    node.command("LREM", key, 1, node.command("LINDEX", key, -1))


def add_an_alien(stores: Stores, key: bytes, user_id: int) -> None:
    stores.clusters.node_for("b", user_id).command("LINSERT", key, "AFTER", "0", ALIEN)


def turn_around(stores: Stores, key: bytes, user_id: int) -> None:
    node = stores.clusters.node_for("b", user_id)
    _, first, second, _ = node.command("LRANGE", key, 0, -1)
    node.command("LSET", key, 1, second)
    node.command("LSET", key, 2, first)


@pytest.mark.parametrize("spoil", [remove_an_entry, add_an_alien, turn_around])
def test_a_spoilt_timeline_is_found_counted_and_rebuilt(
    stores: Stores, readers: list[int], spoil: Callable[[Stores, bytes, int], None]
) -> None:
    before, right = value(metrics.DIFFERENT, "b"), lists(stores, readers)
    spoil(stores, redis_keys.home_timeline(readers[3]), readers[3])
    assert lists(stores, readers) != right
    assert look(stores.timelines, Kind.HOME, readers) == {readers[3]: frozenset("b")}

    assert compare(stores, readers) == 1

    assert lists(stores, readers) == right
    assert value(metrics.DIFFERENT, "b") == before + 1
    node = stores.clusters.node_for("b", readers[3])
    assert node.command("TTL", redis_keys.home_timeline(readers[3])) <= TTL_S  # nobody is active for longer by it
    assert compare(stores, readers) == 0


def test_user_timelines_are_compared_too(stores: Stores, readers: list[int]) -> None:
    right = lists(stores, readers, Kind.USER)
    remove_an_entry(stores, redis_keys.user_timeline(readers[0]), readers[0])

    assert compare(stores, readers) == 1
    assert lists(stores, readers, Kind.USER) == right


def test_only_what_is_above_the_higher_floor_is_compared(stores: Stores, readers: list[int]) -> None:
    """One copy was trimmed, and another was not yet."""
    key, node = redis_keys.home_timeline(readers[0]), stores.clusters.node_for("c", readers[0])
    node.command("LPOP", key)
    assert int(node.command("LINDEX", key, 0)) > 0  # the oldest entry is the floor now

    assert look(stores.timelines, Kind.HOME, readers) == {}


@pytest.fixture
def asked_bounds(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Above what the nodes were asked to look at groups of lists; empty for such as they are stored."""
    real, found = module._digests, list[bytes]()

    def digests(*given: Any) -> Any:
        found.extend(bounds for _, bounds in given[-1])
        return real(*given)

    monkeypatch.setattr(module, "_digests", digests)
    return found


def test_copies_that_are_stored_alike_are_not_read(
    stores: Stores, readers: list[int], asked_bounds: list[bytes]
) -> None:
    assert look(stores.timelines, Kind.HOME, readers) == {}
    assert set(asked_bounds) == {b""}


def test_the_same_entries_may_be_stored_in_another_way(
    stores: Stores, readers: list[int], asked_bounds: list[bytes]
) -> None:
    key, node = redis_keys.home_timeline(readers[0]), stores.clusters.node_for("b", readers[0])
    size = node.command("CONFIG", "GET", "list-max-listpack-size")[1]
    node.command("CONFIG", "SET", "list-max-listpack-size", 2)
    entries = node.command("LRANGE", key, 0, -1)
    try:
        node.commands([("DEL", key), ("RPUSH", key, *entries), ("EXPIRE", key, TTL_S)])
    finally:
        node.command("CONFIG", "SET", "list-max-listpack-size", size)

    assert look(stores.timelines, Kind.HOME, readers) == {}
    assert any(asked_bounds)


def test_what_a_copy_lacks_is_counted_and_left_alone(stores: Stores, readers: list[int]) -> None:
    before = value(metrics.LACKING_COPIES, "c")
    stores.clusters.node_for("c", readers[0]).command("DEL", redis_keys.home_timeline(readers[0]))

    assert compare(stores, readers) == 0
    assert value(metrics.LACKING_COPIES, "c") == before + 1
    assert stores.timelines.dump("c", Kind.HOME, readers[:1])[readers[0]] == []


def test_copies_that_are_not_equally_far_are_not_compared(
    stores: Stores, readers: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TRY_AGAIN_S", 0.0)
    applying, [reader, *_] = Applying(stores), readers
    applying.nothing()
    new = int(stores.timelines.dump("a", Kind.HOME, [reader])[reader][-1]) + 1
    applying.record(reader, "D", new, redis_keys.home_timeline(reader), ONE_FOR_ONE_LIST, clusters="ab")

    assert look(stores.timelines, Kind.HOME, readers) == {}


def test_what_differs_once_only_is_counted_and_left_alone(stores: Stores, readers: list[int]) -> None:
    before, key = value(metrics.UNCONFIRMED), redis_keys.home_timeline(readers[0])
    node = stores.clusters.node_for("b", readers[0])
    add_an_alien(stores, key, readers[0])

    def mend(wait_s: float) -> bool:
        node.command("LREM", key, 1, ALIEN)
        return False

    assert AntiEntropy(stores, mend).compare(readers, TTL_S) == 0
    assert value(metrics.UNCONFIRMED) == before + 1


def test_live_deliveries_are_no_difference(stores: Stores, readers: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TRY_AGAIN_S", 0.001)
    applying, stop = Applying(stores), threading.Event()
    newest = int(stores.timelines.dump("a", Kind.HOME, readers[:1])[readers[0]][-1])

    def deliver() -> None:
        number = 0
        while not stop.is_set():
            number += 1
            for reader in readers:
                key = redis_keys.home_timeline(reader)
                applying.record(reader, "D", newest + number, key, ONE_FOR_ONE_LIST)

    thread = threading.Thread(target=deliver)
    thread.start()
    try:
        assert [look(stores.timelines, Kind.HOME, readers) for _ in range(20)] == [{}] * 20
    finally:
        stop.set()
        thread.join()


def test_it_runs_in_the_background_at_a_rate_and_a_rate_of_0_turns_it_off(
    stores: Stores, readers: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_AGAIN_S", 0.1)
    monkeypatch.setattr(module, "OFF_S", 0.05)
    right = lists(stores, readers)
    set_live_settings(stores.zookeeper, compare_users_per_s=0)
    wait_until(lambda: stores.timelines.live.compare_users_per_s == 0)
    remove_an_entry(stores, redis_keys.home_timeline(readers[0]), readers[0])
    before = value(metrics.COMPARED)
    with comparing(stores):
        assert value(metrics.COMPARED) == before
        set_live_settings(stores.zookeeper, compare_users_per_s=1_000)
        wait_until(lambda: lists(stores, readers) == right, "the spoilt timeline is rebuilt")
    assert "anti-entropy" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.parametrize(
    ("digests", "odd"),
    [
        ({"a": b"1", "b": b"1", "c": b"1"}, ""),
        ({"a": b"1", "b": b"2", "c": b"1"}, "b"),
        ({"a": b"1", "b": b"2", "c": b"3"}, "abc"),
        ({"a": b"1", "c": b"2"}, "ac"),
        ({"a": b"1", "c": b"1"}, ""),
    ],
)
def test_odd_is_what_is_not_like_most(digests: dict[str, bytes], odd: str) -> None:
    assert odd_ones(digests) == frozenset(odd)
