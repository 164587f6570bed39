"""Openings: which nodes have the epoch in force, and which are open, so that timelines and bodies may be built on them.

One leader's memory of what it told the nodes; another one tells them again, which changes nothing. Used by:
coordinator.py.
"""

from collections.abc import Callable

import structlog

from infra import redis_keys
from infra.errors import Fenced, RedisUnavailable
from infra.redis_node import Argument, RedisNode
from infra.shard_map import ShardMap
from infra.shard_maps import SETTLE_S

CALL_TIMEOUT_S = 1.0

log = structlog.get_logger()


class Openings:
    """Nodes are told the epoch and opened once for each fence, since another one is another epoch or incarnation."""

    def __init__(self, clock_s: Callable[[], float]) -> None:
        self._clock_s = clock_s
        self._told: dict[str, str] = {}  # the fence of each node that has its epoch
        self._opened: dict[str, str] = {}  # the fence with which a node was opened
        self._open_at_s: dict[str, tuple[str, float]] = {}  # of each node: the fence, and when it may be opened

    def may_open(self, name: str, fence: str) -> None:
        """A node of the first placement: nobody ever thought it down."""
        self._open_at_s[name] = fence, self._clock_s()

    def has_epoch(self, name: str, shard_map: ShardMap) -> bool:
        """Whether a node has the epoch. From the first question on the time runs after which it may be opened."""
        fence = shard_map.fence(name)
        if self._told.get(name) == fence:
            return True
        if self._open_at_s.get(name, ("", 0.0))[0] != fence:
            self._open_at_s[name] = fence, self._clock_s() + SETTLE_S
        if not self._does(name, shard_map, "install_epoch", shard_map.epoch):
            return False
        self._told[name] = fence
        return True

    def is_open(self, name: str, shard_map: ShardMap) -> bool:
        """Whether a node that has the epoch is open. That waits until everybody who thought it down has looked."""
        fence = shard_map.fence(name)
        if self._opened.get(name) == fence:
            return True
        if self._clock_s() < self._open_at_s[name][1] or not self._does(name, shard_map, "open_node", fence):
            return False
        self._opened[name] = fence
        log.info("node opened", node=name, epoch=shard_map.epoch)
        return True

    def _does(self, name: str, shard_map: ShardMap, function: str, argument: Argument) -> bool:
        try:
            ask(name, shard_map.addresses[name], "FCALL", function, 0, argument)
        except (RedisUnavailable, Fenced) as error:
            log.warning("node has not the epoch yet", node=name, error=str(error))
            return False
        return True


def was_open(name: str, url: str) -> bool:
    """Whether a server was open, which only an admitted node ever was."""
    return ask(name, url, "HGET", redis_keys.NODE, "open") is not None


def ask(name: str, url: str, *arguments: Argument) -> bytes | None:
    """One short command. Raises `RedisUnavailable`, and `Fenced` when a Function refused it."""
    node = RedisNode(name, url, timeout_s=CALL_TIMEOUT_S)
    try:
        answer: bytes | None = node.command(*arguments)
        return answer
    finally:
        node.close()
