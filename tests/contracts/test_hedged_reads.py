"""Reading calls on real servers that hang, die and come back: what a reader waits for, and whose answer he takes."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from infra import metrics, redis_keys
from infra.ask_copies import ANSWER_WITHIN_S, Question, ask_copies, spread
from infra.copies import CopyState
from infra.errors import RedisRefused, RedisUnavailable
from infra.hedging import DELAY_S_MAX
from infra.late_replies import LATE_S_MAX
from infra.redis_clusters import RedisClusters
from infra.shard_map import CLUSTERS, ShardMap, make_shard_map
from infra.slots import slot_of
from infra.timeline_windows import Span, look_home, look_user_timelines
from tests.fixed_maps import FixedMaps, fixed_maps
from tests.redis_server import RedisServer, redis_server
from tests.waiting import wait_until

NAMES = ("a1", "a2", "b1", "b2", "c1", "c2")
USERS = range(1, 101)
SPAN = Span(None, 20)
SOON_S = DELAY_S_MAX + 0.3  # a hedge on a busy machine; far below what a time-out takes
MIXED_S = 4.0
FROZEN_S = (0.01, 0.25)
READING_THREADS = 6


def entries(user: int) -> list[int]:
    """What the home timeline of a user holds; no other user's holds any of it."""
    return [10**18 + user * 1_000 + place for place in range(5)]


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[dict[str, RedisServer]]:
    """Six nodes."""
    with ExitStack() as running:
        made = {}
        for name in NAMES:
            (tmp_path / name).mkdir()
            made[name] = running.enter_context(redis_server(tmp_path / name))
        yield made


@pytest.fixture
def shard_map(servers: dict[str, RedisServer]) -> ShardMap:
    """Where every user has a home timeline of his own, an empty user timeline, and a body under his id."""
    made = make_shard_map(1, {name: server.url for name, server in servers.items()})
    for cluster in CLUSTERS:
        for name, users in made.by_node(cluster, USERS).items():
            node = servers[name].node(name)
            node.load_functions()
            for user in users:
                node.commands(
                    [
                        ("RPUSH", redis_keys.home_timeline(user), 0, *entries(user)),
                        ("RPUSH", redis_keys.user_timeline(user), 0, user + 10**18),
                        ("SADD", redis_keys.celebrities(user), 0),
                        ("SET", redis_keys.body(user), f"body {user}"),
                    ]
                )
            node.close()
    return made


@pytest.fixture
def clusters(shard_map: ShardMap) -> Iterator[RedisClusters]:
    made = RedisClusters(fixed_maps(shard_map))
    yield made
    made.close()


def read_home(clusters: RedisClusters, user: int) -> None:
    assert look_home(clusters, user, SPAN).home.ids == entries(user)


def read_user_timelines(clusters: RedisClusters, user: int) -> None:
    authors = [(user + step * 7) % len(USERS) + 1 for step in range(8)]
    found = look_user_timelines(clusters, authors, SPAN)
    assert {author: window.ids for author, window in found.items()} == {one: [one + 10**18] for one in authors}


def read_bodies(clusters: RedisClusters, user: int) -> None:
    ids, found = [(user + step * 3) % len(USERS) + 1 for step in range(20)], dict[int, bytes]()

    def take(_: str, part: object, answer: list[bytes]) -> tuple[int, ...]:
        found.update(zip(part, answer, strict=True))  # type: ignore[call-overload]
        return ()

    question = Question("body", lambda part: ["MGET", *map(redis_keys.body, part)], take)
    ask_copies(clusters, spread(clusters.shard_map, ids), ids, question)
    assert found == {one: f"body {one}".encode() for one in ids}


READS: tuple[Callable[[RedisClusters, int], None], ...] = (read_home, read_user_timelines, read_bodies)


def calls(cluster: str, how: str) -> float:
    return float(metrics.READ_CALLS.labels(cluster, how)._value.get())


def hedges() -> float:
    return sum(calls(cluster, "hedge") for cluster in CLUSTERS)


def slowest_s(read: Callable[[RedisClusters, int], None], clusters: RedisClusters, times: int) -> float:
    took = []
    for number in range(times):
        began_s = time.monotonic()
        read(clusters, number % len(USERS) + 1)
        took.append(time.monotonic() - began_s)
    return max(took)


@pytest.mark.parametrize("read", READS)
def test_a_node_that_hangs_costs_the_calls_under_way_a_hedge_and_later_ones_nothing(
    clusters: RedisClusters, servers: dict[str, RedisServer], read: Callable[[RedisClusters, int], None]
) -> None:
    slowest_s(read, clusters, 300)  # and it is known what is usual
    before, won = hedges(), metrics.HEDGES_WON._value.get()
    with servers["a1"].frozen():
        slow_s = slowest_s(read, clusters, 300)

        assert slow_s < SOON_S < ANSWER_WITHIN_S
        assert metrics.HEDGES_WON._value.get() > won
        assert not clusters.is_prompt("a1")
        assert hedges() - before < 30, "after the first one other copies are asked first"

    wait_until(lambda: clusters.is_prompt("a1"), "the late answer")
    asked = calls("a", "first")
    slowest_s(read, clusters, 100)
    assert calls("a", "first") > asked


def test_a_late_answer_is_never_taken_for_another_calls(
    clusters: RedisClusters, servers: dict[str, RedisServer]
) -> None:
    stopped, counts = threading.Event(), [0] * READING_THREADS

    def read_on(number: int) -> None:
        rng = Random(number)
        while not stopped.is_set():
            rng.choice(READS)(clusters, rng.choice(USERS))
            counts[number] += 1

    before, rng = hedges(), Random(1)
    with ThreadPoolExecutor(READING_THREADS) as threads:
        work = [threads.submit(read_on, number) for number in range(READING_THREADS)]
        until_s = time.monotonic() + MIXED_S
        while time.monotonic() < until_s and not any(one.done() for one in work):
            with servers[rng.choice(NAMES)].frozen():
                stopped.wait(rng.uniform(*FROZEN_S))
        stopped.set()
        for one in work:
            one.result()

    assert sum(counts) > 1_000
    assert hedges() > before
    for name in NAMES:  # what was late has come, and its connection answers what it is asked
        wait_until(lambda name=name: clusters.is_prompt(name), "the late answers")  # type: ignore[misc]
        node = clusters.node(name)
        assert node._pool._in_use_connections == {connection for connection, _ in node._idle}
        asked = [node.start([("ECHO", f"{number}")]) for number in range(20)]
        assert [reply.get() for reply in asked] == [[f"{number}".encode()] for number in range(20)]


@pytest.mark.parametrize("read", READS)
def test_a_node_that_died_is_failed_over_at_once(
    clusters: RedisClusters, servers: dict[str, RedisServer], read: Callable[[RedisClusters, int], None]
) -> None:
    slowest_s(read, clusters, 50)
    servers["b2"].kill()
    before = sum(calls(cluster, "failover") for cluster in CLUSTERS)

    assert slowest_s(read, clusters, 200) < SOON_S

    assert sum(calls(cluster, "failover") for cluster in CLUSTERS) > before


def test_when_no_copy_answers_that_is_known_after_one_time_out_a_copy(
    clusters: RedisClusters, servers: dict[str, RedisServer]
) -> None:
    with ExitStack() as frozen:
        for server in servers.values():
            frozen.enter_context(server.frozen())
        began_s = time.monotonic()
        with pytest.raises(RedisUnavailable, match="has not answered in 1 s"):
            look_home(clusters, 1, SPAN)
        assert time.monotonic() - began_s < len(CLUSTERS) * ANSWER_WITHIN_S + SOON_S


def test_a_connection_whose_answer_never_comes_is_closed_and_its_node_tried_again(
    clusters: RedisClusters, servers: dict[str, RedisServer]
) -> None:
    with servers["a1"].frozen():
        wait_until(lambda: slowest_s(read_home, clusters, 10) > 0 and not clusters.is_prompt("a1"))
        wait_until(lambda: clusters.is_prompt("a1"), "the connection to be given up", LATE_S_MAX + 5)
        assert clusters.node("a1")._pool._in_use_connections == {
            connection for connection, _ in clusters.node("a1")._idle
        }


def test_reads_are_spread_over_all_serving_copies(clusters: RedisClusters) -> None:
    before = {cluster: calls(cluster, "first") for cluster in CLUSTERS}

    for _ in range(300):
        read_home(clusters, 1)

    asked = [calls(cluster, "first") - before[cluster] for cluster in CLUSTERS]
    assert sum(asked) == 300
    assert min(asked) > 60, asked


def test_a_filling_copy_is_asked_only_when_a_serving_one_does_not_answer(
    shard_map: ShardMap, servers: dict[str, RedisServer]
) -> None:
    slot = slot_of(1)
    filling = shard_map.copies
    for cluster in "ab":
        filling = filling.changed(cluster, [slot], CopyState.FILLING)
    clusters = RedisClusters(fixed_maps(replace(shard_map, copies=filling)))
    before = {cluster: calls(cluster, "first") for cluster in CLUSTERS}
    for _ in range(20):
        read_home(clusters, 1)
    assert [calls(cluster, "first") - before[cluster] for cluster in CLUSTERS] == [0, 0, 20]

    with servers[shard_map.node_of("c", slot)].frozen():
        for _ in range(20):
            read_home(clusters, 1)
    clusters.close()


def test_what_one_copy_lacks_waits_for_no_node_that_is_late(
    shard_map: ShardMap, servers: dict[str, RedisServer], clusters: RedisClusters
) -> None:
    """Absent is safe: it is rebuilt."""
    nobody = next(one for one in range(10_000, 20_000) if shard_map.node_of("a", slot_of(one)) == "a1")
    with servers["a1"].frozen():
        wait_until(lambda: slowest_s(read_home, clusters, 10) > 0 and not clusters.is_prompt("a1"))
        began_s = time.monotonic()
        assert look_home(clusters, nobody, SPAN).home.floor is None
        assert time.monotonic() - began_s < SOON_S


def test_what_a_node_refuses_for_good_is_no_node_that_is_away(clusters: RedisClusters) -> None:
    question = Question("home", lambda _: ("FCALL_RO", "page", 0), lambda *_: ())

    with pytest.raises(RedisRefused):
        ask_copies(clusters, spread(clusters.shard_map, [1]), [1], question)


def test_a_node_without_an_address_is_passed_over(shard_map: ShardMap) -> None:
    known = {name: url for name, url in shard_map.addresses.items() if name[0] == "c"}
    clusters = RedisClusters(fixed_maps(replace(shard_map, addresses=known)))

    for user in USERS:
        read_home(clusters, user)
    clusters.close()


def test_a_shard_map_that_changes_under_a_read_does_no_harm(
    shard_map: ShardMap, servers: dict[str, RedisServer]
) -> None:
    maps = FixedMaps(shard_map)
    clusters = RedisClusters(maps)  # type: ignore[arg-type]
    with servers["b1"].frozen():
        for number in range(100):
            maps.known = replace(shard_map, epoch=number)
            read_home(clusters, number % len(USERS) + 1)
    clusters.close()
