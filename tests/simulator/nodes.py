"""Clients of the nodes in memory, as the product sees them: `RedisNode` and `RedisClusters` over the network."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar, cast

import redis

from infra.hedging import DELAY_S_MAX
from infra.late_replies import LateReplies
from infra.redis_clusters import RedisClusters
from infra.redis_node import Argument, RedisNode, Reply
from infra.shard_maps import ShardMaps
from tests.simulator.lua_library import ErrorReply
from tests.simulator.maps import SimulatedMaps
from tests.simulator.network import NAMES, Commands, Network, Request

HEDGE_SHARE = 0.1  # of the waits for a call that may still be hedged

R = TypeVar("R")
K = TypeVar("K")


class SimulatedNode(RedisNode):
    """A client of a node in memory. The errors are made by the product's code from what the server says."""

    def __init__(self, name: str, network: Network) -> None:
        self.name = name
        self.url = "in memory"
        self.late = LateReplies(lambda: None, network.scheduler.monotonic)
        self._network = network

    def start(self, commands: Commands, timeout_s: float | None = None) -> Reply:
        """Sends."""
        request = self._network.send(self.name, commands)
        return Reply(self, cast(redis.Connection, request), len(commands), 0.0)

    def finish(self, connection: redis.Connection, count: int, answers: list[Any], until_s: float) -> None:
        """Waits."""
        answers += [
            self._refusal(one) if isinstance(one, ErrorReply) else one  # type: ignore[arg-type]
            for one in self._network.wait(cast(Request, connection))
        ]

    def finish_within(self, connection: redis.Connection, count: int, answers: list[Any], within_s: float) -> bool:
        """What has come. Now and then the time passes first, although only steps of others have been made: so that
        calls are hedged."""
        request, scheduler = cast(Request, connection), self._network.scheduler
        if within_s and scheduler.current is not None and scheduler.rng.random() < HEDGE_SHARE:
            scheduler.sleep(within_s)
        elif within_s:
            self._network.wait_for_any([request])
        if not request.done and not request.given_up:
            return False
        self.finish(connection, count, answers, 0.0)
        return True

    def drop(self, connection: redis.Connection) -> None:
        """Nothing is kept."""

    def command(self, *arguments: Argument) -> Any:
        """Sends and waits."""
        return self.commands([arguments])[0]

    def commands(self, batch: Sequence[tuple[Argument, ...]]) -> list[Any]:
        """Sends and waits; the first error is raised."""
        answers = self.start(batch).get()
        for one in answers:
            if isinstance(one, Exception):
                raise one
        return answers

    def close(self) -> None:
        """Nothing is open."""


class SimulatedClusters(RedisClusters):
    """Routes as the product does; what it does on threads is done by the actor that asks, in any order."""

    def __init__(self, network: Network, maps: SimulatedMaps) -> None:
        super().__init__(cast(ShardMaps, maps))
        self._network = network
        self._rng = network.scheduler.rng
        self._simulated = {name: SimulatedNode(name, network) for name in NAMES}

    def node(self, name: str) -> RedisNode:
        """The client of a node."""
        return self._simulated[name]

    def wait_for_any(self, replies: Sequence[Reply], within_s: float) -> list[Reply]:
        """Those that can be polled; as above."""
        requests, scheduler = [cast(Request, reply._connection) for reply in replies], self._network.scheduler
        if within_s <= DELAY_S_MAX and scheduler.current is not None and self._rng.random() < HEDGE_SHARE:
            scheduler.sleep(within_s)
        else:
            self._network.wait_for_any(requests)
        return [reply for reply, one in zip(replies, requests, strict=True) if one.done or one.given_up]

    def at_once(self, nodes: Mapping[K, RedisNode], call: Callable[[RedisNode], R]) -> dict[K, R | Exception]:
        """Runs `call` on each node."""
        found: dict[K, R | Exception] = {}
        for key in self._rng.sample(list(nodes), len(nodes)):
            try:
                found[key] = call(nodes[key])
            except Exception as error:  # noqa: BLE001 - handed to the caller, as the product does
                found[key] = error
        return found

    def submit(self, call: Callable[[], R]) -> "Future[R]":
        """Runs `call` now."""
        future: Future[R] = Future()
        try:
            future.set_result(call())
        except Exception as error:  # noqa: BLE001 - it is in the future
            future.set_exception(error)
        return future
