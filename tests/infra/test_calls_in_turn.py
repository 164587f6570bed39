"""Calls in turn: how many nodes work at the same time, what comes of each, and what one that hangs costs the others."""

import random
from collections.abc import Sequence
from typing import Any, cast

import pytest

from infra import redis_clusters
from infra.errors import RedisUnavailable
from infra.redis_clusters import RedisClusters
from infra.redis_node import Argument, Reply
from infra.shard_maps import ShardMaps

NAMES = ("a1", "a2", "b1", "b2", "c1", "c2")
AWAY = RedisUnavailable("away")
CALLS = {name: [(name, number) for number in range(2)] for name in NAMES}


class FakeReply:
    """Of a node that answers a poll once it is `done`."""

    def __init__(self, commands: Sequence[Sequence[Argument]]) -> None:
        self.done = False
        self.taken = False
        self._commands = commands

    def poll(self) -> list[Any] | None:
        if not self.done:
            return None
        return self.get()

    def get(self) -> list[Any]:
        assert not self.taken
        self.taken = True
        return [f"answer of {command[3]!r} {command[4]!r}" for command in self._commands]

    def drop(self) -> None:
        """Nothing is open."""


class FakeNodes(RedisClusters):
    """Nodes that answer one after the other, in a random order, but for one that hangs."""

    def __init__(self, nodes_at_once: int, hangs: str = "", away: str = "") -> None:
        super().__init__(cast(ShardMaps, None), nodes_at_once=nodes_at_once)
        self.working: dict[str, FakeReply] = {}
        self.most_at_work = 0
        self.order: list[str] = []
        self._hangs = hangs
        self._away = away

    def start(self, name: str, commands: Sequence[Sequence[Argument]], timeout_s: float | None = None) -> Reply:
        self.order.append(name)
        if name == self._away:
            raise AWAY
        reply = self.working[name] = FakeReply(commands)
        self.most_at_work = max(self.most_at_work, len([one for one in self.working.values() if not one.done]))
        return cast(Reply, reply)

    def wait_for_any(self, replies: Sequence[Reply], within_s: float) -> list[Reply]:
        """One more has answered; at times only a part of what one was asked has come."""
        waiting = [
            name for name, reply in self.working.items() if cast(Reply, reply) in replies and name != self._hangs
        ]
        if not waiting:
            return []
        name = random.choice(waiting)
        reply = self.working[name]
        reply.done = random.random() < 0.7
        return [cast(Reply, reply)]


def answers(of: dict[str, list[Any]]) -> dict[str, list[Any]]:
    return {name: [str(one) for one in found] for name, found in of.items()}


def whole(*, but: str = "") -> dict[str, list[Any]]:
    return {name: ["away"] * 2 if name == but else [f"answer of {name!r} {n}" for n in range(2)] for name in NAMES}


@pytest.mark.parametrize(("nodes_at_once", "most"), [(1, 1), (2, 2), (5, 5), (6, 6), (9, 6), (0, 6)])
def test_no_more_nodes_work_at_the_same_time_and_each_answers(nodes_at_once: int, most: int) -> None:
    nodes = FakeNodes(nodes_at_once)
    assert answers(nodes.call_all_in_turn("f", CALLS)) == whole()
    assert nodes.most_at_work == most
    assert all(reply.taken for reply in nodes.working.values())


def test_the_order_is_another_one_each_time() -> None:
    orders = set[tuple[str, ...]]()
    for _ in range(20):
        nodes = FakeNodes(1)
        nodes.call_all_in_turn("f", CALLS)
        orders.add(tuple(nodes.order))
    assert len(orders) > 10


@pytest.mark.parametrize("nodes_at_once", [1, 2, 0])
def test_one_that_cannot_be_reached_holds_up_no_other(nodes_at_once: int) -> None:
    assert answers(FakeNodes(nodes_at_once, away="b2").call_all_in_turn("f", CALLS)) == whole(but="b2")


def test_one_that_hangs_is_waited_for_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_clusters, "TURN_S", 0.01)
    monkeypatch.setattr(random, "sample", lambda names, _: names)  # the one that hangs is in the middle
    nodes = FakeNodes(1, hangs="b2")
    assert answers(nodes.call_all_in_turn("f", CALLS)) == whole()
    assert nodes.most_at_work == 2


def test_many_at_once_are_all_sent_before_one_is_awaited() -> None:
    nodes = FakeNodes(1)
    assert answers(nodes.call_all_at_once("f", CALLS)) == whole()
    assert nodes.order == list(NAMES)
    assert nodes.most_at_work == len(NAMES)
