"""Calls of nodes that hang, are slow or reset connections: how long they take, and who is called again (G4, G6)."""

import random
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from infra.breaker import AWAY_S, DECIDED_WITHIN_S, PROBE_TIMEOUT_S
from infra.composition import Stores
from infra.composition import stores as open_and_close
from infra.errors import RedisUnavailable
from infra.redis_clusters import TURN_S, RedisClusters
from infra.redis_node import CALL_TIMEOUT_S, Argument, Reply
from infra.settings import Settings
from tests.fixed_maps import fixed_maps
from tests.proxy import Proxy
from tests.redis_server import RedisServer, redis_server
from tests.waiting import wait_until

FAST_S = 0.25  # what waits for nobody takes milliseconds
HANG = ("a1", "b1")
ECHO = [("ECHO", "one"), ("ECHO", "two")]


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[dict[str, RedisServer]]:
    with ExitStack() as stack:
        yield {name: stack.enter_context(redis_server(tmp_path)) for name in HANG}


@pytest.fixture
def proxy(servers: dict[str, RedisServer]) -> Iterator[Proxy]:
    """On the way to the first of them."""
    with Proxy(servers[HANG[0]].port).open() as made:
        yield made


@pytest.fixture
def clusters(stores: Stores, servers: dict[str, RedisServer], proxy: Proxy) -> Iterator[RedisClusters]:
    known = stores.clusters.shard_map
    urls = {name: server.url for name, server in servers.items()} | {HANG[0]: proxy.url}
    made = RedisClusters(fixed_maps(replace(known, addresses={**known.addresses, **urls})))
    assert kinds(call(made)[0]) == ["one"] * 3
    yield made
    made.close()


def call(clusters: RedisClusters) -> tuple[list[object], float]:
    """Two that may hang and one that does not: what each says, and how long it took together."""
    began_s = time.monotonic()
    outcomes = clusters.commands_at_once(dict.fromkeys((*HANG, "c1"), ECHO))
    took_s = time.monotonic() - began_s
    return [outcomes[name] for name in (*HANG, "c1")], took_s


def kinds(answers: list[object]) -> list[str]:
    return ["away" if isinstance(of[0], RedisUnavailable) else of[0].decode() for of in answers]  # type: ignore[index]


def test_nodes_that_hang_cost_one_time_out_together_then_a_probe_and_then_nothing(
    clusters: RedisClusters, servers: dict[str, RedisServer]
) -> None:
    with ExitStack() as hanging:
        for server in servers.values():
            hanging.enter_context(server.frozen())
        first, first_s = call(clusters)
        second, second_s = call(clusters)
        third, third_s = call(clusters)
        assert not any(clusters.node(name).answers for name in HANG)
        with pytest.raises(RedisUnavailable, match=r"a1 at redis://.* is not called: it answered neither a call nor"):
            clusters.node("a1").command("PING")

    assert [kinds(one) for one in (first, second, third)] == [["away", "away", "one"]] * 3
    assert CALL_TIMEOUT_S <= first_s < CALL_TIMEOUT_S + PROBE_TIMEOUT_S
    assert second_s < DECIDED_WITHIN_S
    assert third_s < FAST_S
    wait_until(lambda: all(clusters.node(name).answers for name in HANG), "them to be called again", 2 * AWAY_S + 1)
    assert kinds(call(clusters)[0]) == ["one"] * 3


def test_a_node_whose_connections_were_closed_is_called_again_at_once(clusters: RedisClusters, proxy: Proxy) -> None:
    with proxy.resetting():
        pass

    answers, took_s = call(clusters)
    assert kinds(answers) == ["away", "one", "one"]
    again, again_s = call(clusters)

    assert kinds(again) == ["one"] * 3
    assert max(took_s, again_s) < PROBE_TIMEOUT_S
    assert clusters.node(HANG[0]).answers


def test_one_that_resets_every_connection_is_known_as_away_at_once(clusters: RedisClusters, proxy: Proxy) -> None:
    with proxy.resetting():
        calls = [call(clusters) for _ in range(2)]
        assert not clusters.node(HANG[0]).answers

    assert [kinds(answers) for answers, _ in calls] == [["away", "one", "one"]] * 2
    assert all(took_s < PROBE_TIMEOUT_S for _, took_s in calls)


def test_one_that_answers_late_is_away_and_a_probe_that_is_answered_in_time_brings_it_back(
    clusters: RedisClusters, proxy: Proxy
) -> None:
    with proxy.slow(2 * CALL_TIMEOUT_S):
        calls = [call(clusters) for _ in range(2)]
        assert not clusters.node(HANG[0]).answers

    assert [kinds(answers) for answers, _ in calls] == [["away", "one", "one"]] * 2
    assert sum(took_s for _, took_s in calls) < CALL_TIMEOUT_S + DECIDED_WITHIN_S
    wait_until(lambda: clusters.node(HANG[0]).answers, "it to be called again", 2 * AWAY_S + 1)
    assert kinds(call(clusters)[0]) == ["one"] * 3


def test_a_call_may_be_given_more_time(clusters: RedisClusters, proxy: Proxy) -> None:
    with proxy.slow(CALL_TIMEOUT_S + 0.1):
        outcomes = clusters.commands_at_once({HANG[0]: ECHO[:1]}, 2 * CALL_TIMEOUT_S)

    assert outcomes == {HANG[0]: [b"one"]}


def test_one_that_hangs_holds_up_calls_in_turn_for_no_longer_than_a_turn(
    servers: dict[str, RedisServer], clusters: RedisClusters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(random, "sample", lambda names, _: names)  # the one that hangs is the first
    in_turn, sent_s = RedisClusters(clusters._shard_maps, nodes_at_once=1), dict[str, float]()
    start = in_turn.start

    def noted(name: str, commands: Sequence[Sequence[Argument]], timeout_s: float | None = None) -> Reply:
        sent_s[name] = time.monotonic()
        return start(name, commands, timeout_s)

    monkeypatch.setattr(in_turn, "start", noted)
    with servers[HANG[0]].frozen():
        outcomes = in_turn.call_all_in_turn("install_epoch", {name: [("1",)] for name in (*HANG, "c1")})
    in_turn.close()

    [hung], [lacking], [there] = outcomes[HANG[0]], outcomes[HANG[1]], outcomes["c1"]
    assert isinstance(hung, RedisUnavailable)
    assert "Function not found" in str(lacking)
    assert isinstance(there, int)
    assert TURN_S <= sent_s[HANG[1]] - sent_s[HANG[0]] < TURN_S + FAST_S
    assert sent_s["c1"] - sent_s[HANG[1]] < FAST_S


def test_how_many_nodes_work_in_turn_is_a_setting(settings: Settings) -> None:
    with open_and_close(replace(settings, nodes_at_once=2)) as opened:
        assert opened.clusters._nodes_at_once == 2
        assert opened.brief._nodes_at_once == 0
