"""The three Redis clusters as the shard map places them: clients of nodes, and calls to many nodes at once.

Routing by slot happens here and in timelines.py only. Next: timelines.py.
"""

import random
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from infra import redis_keys
from infra.errors import RedisUnavailable, ZooKeeperUnavailable
from infra.hedging import Hedging
from infra.redis_node import LONG_CALL_TIMEOUT_S, Argument, RedisNode, Reply, wait_for_any
from infra.shard_map import ShardMap
from infra.shard_maps import ShardMaps
from infra.slots import slot_of

TURN_S = 0.1  # calls in turn wait for a node no longer than this: one that hangs holds up few others
CALLS_AT_ONCE_MAX = 24  # threads: eight rebuilds or batches of an audit, on three clusters each

R = TypeVar("R")
K = TypeVar("K")
T = TypeVar("T")


class RedisClusters:
    """Clients of all nodes of the current shard map, each with a breaker. Safe to share between threads; close it
    once."""

    def __init__(self, shard_maps: ShardMaps, timeout_s: float = LONG_CALL_TIMEOUT_S, nodes_at_once: int = 0) -> None:
        self._shard_maps = shard_maps
        self._timeout_s = timeout_s
        self._nodes_at_once = nodes_at_once
        self.hedging = Hedging()
        self._nodes: dict[tuple[str, str], RedisNode] = {}
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(CALLS_AT_ONCE_MAX, thread_name_prefix="redis")

    @property
    def shard_map(self) -> ShardMap:
        """The shard map in force."""
        return self._shard_maps.value()

    @property
    def cut_off(self) -> bool:
        """Whether the shard map in force may be old: a copy that it says is serving may have missed a write."""
        return self._shard_maps.cut_off

    def node(self, name: str) -> RedisNode:
        """The client of a node, by its name."""
        address = self.shard_map.addresses.get(name)
        if address is None:
            raise RedisUnavailable(f"the shard map has no address for Redis node {name}")
        key = (name, address)
        if (known := self._nodes.get(key)) is not None:
            return known
        with self._lock:
            if key not in self._nodes:
                self._nodes[key] = RedisNode(name, address, self._timeout_s, with_breaker=True)
            return self._nodes[key]

    def node_for(self, cluster: str, any_id: int) -> RedisNode:
        """The client of the node that holds an id's slot in a cluster."""
        return self.node(self.shard_map.node_of(cluster, slot_of(any_id)))

    def on_each_copy(self, any_id: int, call: Callable[[RedisNode], R]) -> dict[str, R | Exception]:
        """Runs `call` for an id in each cluster whose copy is not down, at the same time; what failed is in the
        answer."""
        shard_map, slot = self.shard_map, slot_of(any_id)
        nodes = {cluster: self.node(shard_map.node_of(cluster, slot)) for cluster in shard_map.in_order(slot)}
        return self.at_once(nodes, call)

    def at_once(self, nodes: Mapping[K, RedisNode], call: Callable[[RedisNode], R]) -> dict[K, R | Exception]:
        """Runs `call` on several nodes at the same time."""
        futures = {key: self._threads.submit(_outcome, call, node) for key, node in nodes.items()}
        return {key: future.result() for key, future in futures.items()}

    def call_at_once(
        self, function: str, calls: Mapping[str, Sequence[Argument]], timeout_s: float | None = None
    ) -> dict[str, Any]:
        """Calls a Function on several nodes (name → arguments) at the same time, in this thread; what failed is in the
        answer. Nodes that hang cost one time-out together, whichever they are: the answers of others wait in their
        sockets."""
        outcomes = self.call_all_at_once(function, {name: [one] for name, one in calls.items()}, timeout_s)
        return {name: of_node[0] for name, of_node in outcomes.items()}

    def call_all_at_once(
        self, function: str, calls: Mapping[str, Sequence[Sequence[Argument]]], timeout_s: float | None = None
    ) -> dict[str, list[Any]]:
        """The same with several calls of each node, sent together; a node runs them one after the other."""
        commands = {name: [("FCALL", function, 0, *one) for one in of_node] for name, of_node in calls.items()}
        return self.commands_at_once(commands, timeout_s)

    def start(self, name: str, commands: Sequence[Sequence[Argument]], timeout_s: float | None = None) -> Reply:
        """Sends commands to one node and returns; their reply has to be got. Raises `RedisUnavailable`."""
        return self.node(name).start(commands, timeout_s)

    def commands_at_once(
        self, commands: Mapping[str, Sequence[Sequence[Argument]]], timeout_s: float | None = None
    ) -> dict[str, list[Any]]:
        """Any commands, several for each node; what failed is in the answer. `timeout_s` is for all of it together, by
        default what a call may take."""
        return self._commands(commands, timeout_s, len(commands))

    def call_all_in_turn(
        self, function: str, calls: Mapping[str, Sequence[Sequence[Argument]]], timeout_s: float | None = None
    ) -> dict[str, list[Any]]:
        """Like `call_all_at_once`, for calls that nobody waits for so much, with as many nodes at work at the same time
        as was said when this was made: where nodes and readers share processors, readers find the others quiet. In a
        random order, so that several callers rarely meet at a node."""
        if not self._nodes_at_once:
            return self.call_all_at_once(function, calls, timeout_s)
        names = random.sample(list(calls), len(calls))
        commands = {name: [("FCALL", function, 0, *one) for one in calls[name]] for name in names}
        return self._commands(commands, timeout_s, self._nodes_at_once)

    def _commands(
        self, commands: Mapping[str, Sequence[Sequence[Argument]]], timeout_s: float | None, nodes_at_once: int
    ) -> dict[str, list[Any]]:
        replies: dict[str, Reply] = {}
        outcomes: dict[str, list[Any] | Exception] = {}
        since_s: dict[str, float] = {}
        try:
            for name, of_node in commands.items():
                if len(replies) >= nodes_at_once:
                    outcomes |= self._answered(replies, since_s, nodes_at_once)
                since_s[name] = time.monotonic()
                try:
                    replies[name] = self.start(name, of_node, timeout_s)
                except Exception as error:  # noqa: BLE001 - handed to the caller, who decides for each node
                    outcomes[name] = error
            for name, reply in replies.items():
                outcomes[name] = _outcome(lambda one: one.get(), reply)
            return {
                name: [got] * len(commands[name]) if isinstance(got, Exception) else got
                for name, got in outcomes.items()
            }
        finally:
            for reply in replies.values():
                reply.drop()  # an interruption came first; nothing otherwise

    def _answered(
        self, replies: dict[str, Reply], since_s: Mapping[str, float], nodes_at_once: int
    ) -> dict[str, list[Any] | Exception]:
        """Waits until one node more may be called, and takes the replies that are there by then out of `replies`."""
        outcomes: dict[str, list[Any] | Exception] = {}
        while True:
            now_s = time.monotonic()
            awaited = {name: reply for name, reply in replies.items() if now_s < since_s[name] + TURN_S}
            if len(awaited) < nodes_at_once:
                return outcomes
            left_s = min(since_s[name] for name in awaited) + TURN_S - now_s
            ready = self.wait_for_any(list(awaited.values()), left_s)
            for name, reply in awaited.items():
                if reply in ready and (got := _outcome(lambda one: one.poll(), reply)) is not None:
                    outcomes[name] = got
                    del replies[name]

    def is_prompt(self, name: str) -> bool:
        """Whether a reader may ask a node first: it answers, and none of its answers is awaited that did not come in
        time."""
        try:
            return self.node(name).is_prompt
        except RedisUnavailable:
            return False

    def wait_for_any(self, replies: Sequence[Reply], within_s: float) -> list[Reply]:
        """Those of these replies that can be polled, after waiting for one of them for so long."""
        return wait_for_any(replies, within_s)

    def is_newer_than(self, seen: ShardMap) -> bool:
        """Reads the shard map again, for whoever a node has refused by the one that he has `seen`."""
        self._shard_maps.check_now()
        return self.shard_map != seen

    # For writers that must reach every copy (G4, G6)

    def may_leave_out(self, name: str) -> bool:
        """Whether a write may do without a node: its copies are down, and that is certain now. Either the shard map was
        just checked, or the node itself says that nothing was built on it since: it is opened for rebuilds only when
        everybody who thought it down has had to look again (coordinator.py)."""
        certain = not self.cut_off  # asked before the shard map is taken, which may be old otherwise
        if name not in self.shard_map.down_nodes:
            return False
        if certain:
            return True
        try:
            return self.node(name).command("HGET", redis_keys.NODE, "open") is None
        except RedisUnavailable:
            return False

    def mark_down(self, name: str, seen: ShardMap) -> bool:
        """Marks a node that could not be written. False when it cannot be marked now: the write has to wait."""
        try:
            return self._shard_maps.mark_down(name, seen)
        except ZooKeeperUnavailable:
            return False

    def unsettled_s(self, left_out: Collection[str]) -> float:
        """For how long what left these nodes out must not be acknowledged yet: until no reader reads them any more;
        zero or less when that is so."""
        return self._shard_maps.unsettled_s(left_out)

    def settle(self, left_out: Collection[str]) -> None:
        """Waits until what left these nodes out may be acknowledged."""
        time.sleep(max(self.unsettled_s(left_out), 0.0))

    def submit(self, call: Callable[[], R]) -> Future[R]:
        """Runs one call on the shared threads."""
        return self._threads.submit(call)

    def close(self) -> None:
        """Closes every client and ends the threads."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        for node in self._nodes.values():
            node.close()


def _outcome(call: Callable[[T], R], subject: T) -> R | Exception:
    try:
        return call(subject)
    except Exception as error:  # noqa: BLE001 - handed to the caller, who decides for each node
        return error
