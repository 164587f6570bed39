"""The three Redis clusters as the shard map places them: clients of nodes, and calls to many nodes at once.

Routing by slot happens here and in timelines.py only. Next: timelines.py.
"""

import random
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import permutations
from typing import Any, TypeVar

from infra.errors import RedisUnavailable
from infra.redis_node import CALL_TIMEOUT_S, Argument, RedisNode, Reply
from infra.shard_map import CLUSTERS, ShardMap
from infra.slots import slot_of
from infra.zookeeper import Watched

CALLS_AT_ONCE_MAX = 24  # threads: eight rebuilds or batches of an audit, on three clusters each

_ORDERS = tuple(permutations(CLUSTERS))

R = TypeVar("R")
K = TypeVar("K")
T = TypeVar("T")


class RedisClusters:
    """Clients of all nodes of the current shard map. Safe to share between threads; close it once."""

    def __init__(self, shard_map: Watched[ShardMap], timeout_s: float = CALL_TIMEOUT_S) -> None:
        self._shard_map = shard_map
        self._timeout_s = timeout_s
        self._nodes: dict[tuple[str, str], RedisNode] = {}
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(CALLS_AT_ONCE_MAX, thread_name_prefix="redis")

    @property
    def shard_map(self) -> ShardMap:
        """The shard map in force."""
        return self._shard_map.value()

    def node(self, name: str) -> RedisNode:
        """The client of a node, by its name."""
        address = self.shard_map.addresses.get(name)
        if address is None:
            raise RedisUnavailable(f"the shard map has no address for Redis node {name}")
        with self._lock:
            key = (name, address)
            if key not in self._nodes:
                self._nodes[key] = RedisNode(name, address, self._timeout_s)
            return self._nodes[key]

    def node_for(self, cluster: str, any_id: int) -> RedisNode:
        """The client of the node that holds an id's slot in a cluster."""
        return self.node(self.shard_map.node_of(cluster, slot_of(any_id)))

    def on_each_cluster(self, any_id: int, call: Callable[[RedisNode], R]) -> dict[str, R | Exception]:
        """Runs `call` for an id on the three clusters at the same time; what failed is in the answer."""
        return self.at_once({cluster: self.node_for(cluster, any_id) for cluster in CLUSTERS}, call)

    def at_once(self, nodes: Mapping[K, RedisNode], call: Callable[[RedisNode], R]) -> dict[K, R | Exception]:
        """Runs `call` on several nodes at the same time."""
        futures = {key: self._threads.submit(_outcome, call, node) for key, node in nodes.items()}
        return {key: future.result() for key, future in futures.items()}

    def call_at_once(self, function: str, calls: Mapping[str, Sequence[Argument]]) -> dict[str, Any]:
        """Calls a Function on several nodes (name → arguments) at the same time, in this thread; what failed is in the
        answer. A node that hangs costs one time-out, whichever it is: the others' answers wait in their sockets."""
        outcomes = self.call_all_at_once(function, {name: [arguments] for name, arguments in calls.items()})
        return {name: of_node[0] for name, of_node in outcomes.items()}

    def call_all_at_once(
        self, function: str, calls: Mapping[str, Sequence[Sequence[Argument]]]
    ) -> dict[str, list[Any]]:
        """The same with several calls of each node, sent together; a node runs them one after the other."""
        return self.commands_at_once(
            {name: [("FCALL", function, 0, *arguments) for arguments in of_node] for name, of_node in calls.items()}
        )

    def commands_at_once(self, commands: Mapping[str, Sequence[Sequence[Argument]]]) -> dict[str, list[Any]]:
        """Any commands, several for each node; what failed is in the answer."""
        replies: dict[str, Reply] = {}
        outcomes: dict[str, list[Any]] = {}
        try:
            for name, of_node in commands.items():
                try:
                    replies[name] = self.node(name).start(of_node)
                except Exception as error:  # noqa: BLE001 - handed to the caller, who decides for each node
                    outcomes[name] = [error] * len(of_node)
            for name, reply in replies.items():
                got = _outcome(Reply.get, reply)
                outcomes[name] = [got] * len(commands[name]) if isinstance(got, Exception) else got
            return outcomes
        finally:
            for reply in replies.values():
                reply.drop()  # an interruption came first; nothing otherwise

    def submit(self, call: Callable[[], R]) -> Future[R]:
        """Runs one call on the shared threads."""
        return self._threads.submit(call)

    def close(self) -> None:
        """Closes every client and ends the threads."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        for node in self._nodes.values():
            node.close()


def in_any_order() -> tuple[str, ...]:
    """The clusters in a random order, so that readers spread: any copy will do, and the others when it will not."""
    return random.choice(_ORDERS)  # noqa: S311 - nothing secret


def _outcome(call: Callable[[T], R], subject: T) -> R | Exception:
    try:
        return call(subject)
    except Exception as error:  # noqa: BLE001 - handed to the caller, who decides for each node
        return error
