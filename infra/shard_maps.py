"""The shard map in force, as this process knows it, and how sure it may be of that (G4).

Both znodes are read every second after a `sync`, and at once when one changes. The watch alone would not do: kazoo
notices a silent partition only after a large part of the session, and a ZooKeeper server that lags looks healthy.
Whoever has no good check of late is cut off.
"""

import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import structlog

from infra import metrics
from infra.copies import Copies
from infra.epochs import RESTORE_COMMAND
from infra.errors import FanfoldError, ZooKeeperUnavailable
from infra.shard_map import ShardMap, decode_shard_map
from infra.znodes import UNREADABLE
from infra.zookeeper import COPIES_PATH, FIRST_VALUE_TIMEOUT_S, PLACEMENT_PATH, ZooKeeper

CHECK_PERIOD_S = 1.0
CUT_OFF_AFTER_S = 1.5  # since the last good check was sent
# What rests on a copy that has just been marked down waits for so long: by then every reader knows, or is cut off.
SETTLE_S = 1.6
CLOSE_WITHIN_S = 2.0

log = structlog.get_logger()


class ShardMaps:
    """Safe to share between threads. Close it before ZooKeeper's session."""

    def __init__(self, zookeeper: ZooKeeper, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._zookeeper = zookeeper
        self._clock_s = clock_s
        self._lock = threading.Lock()
        self._placement: _Seen[ShardMap] | None = None
        self._copies: _Seen[Copies] | None = None
        self._value: ShardMap | None = None
        self._down_since_s: dict[str, float] = {}
        self._checked_s = float("-inf")
        self._known = threading.Event()
        self._refused = ""
        self._stopped = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._keep_checking, name="shard-map", daemon=True)
        for path in (PLACEMENT_PATH, COPIES_PATH):
            zookeeper.watch(path, lambda _: self._wake.set())
        self._thread.start()

    def value(self, timeout_s: float = FIRST_VALUE_TIMEOUT_S) -> ShardMap:
        """The last known one; waits for the first. Raises `ZooKeeperUnavailable` when none comes."""
        if self._value is None and not self._known.wait(timeout_s):
            raise ZooKeeperUnavailable(self._why_none())
        assert self._value is not None
        return self._value

    @property
    def cut_off(self) -> bool:
        """Whether what is known may be old: a copy that it says is serving may be down by now."""
        return self._clock_s() - self._checked_s > CUT_OFF_AFTER_S

    def unsettled_s(self, names: Iterable[str]) -> float:
        """For how long an acknowledgement that leaves these nodes out has to wait: until each of them is known as down
        for `SETTLE_S`."""
        now_s = self._clock_s()
        known_s = [self._down_since_s.get(name, now_s) for name in names]
        return max([since_s + SETTLE_S - now_s for since_s in known_s], default=0.0)

    def mark_down(self, name: str, seen: ShardMap) -> bool:
        """Marks all copies of a node that could not be written, by one write. True when they are down.

        False when that cannot be: the node has been admitted anew since `seen`, the epoch was raised, too few copies
        would be left of a slot (G6), or nobody can read what the znode holds. Raises `ZooKeeperUnavailable`.
        """
        while True:
            if self._zookeeper.suspended.is_set():  # a question would wait for as long as that lasts
                raise ZooKeeperUnavailable(f"node {name} cannot be marked down: ZooKeeper does not answer")
            self._zookeeper.sync(COPIES_PATH)  # an old state may say that it is down: it was admitted since
            found = self._zookeeper.read(COPIES_PATH)
            if found is None:
                return False
            try:
                copies = Copies.decode(found[0])
            except UNREADABLE:
                return False  # `check` says so
            if copies.epoch != seen.epoch:
                return False
            if copies.incarnations.get(name) not in (None, seen.copies.incarnations.get(name)):
                return False  # None: somebody else has marked it
            now = replace(seen, copies=copies)
            if name in now.down_nodes:
                self._take(copies=_Seen(copies, found[1]))
                return True
            if not now.can_spare(name):
                return False
            marked = copies.without_node(name, now.slots_on(name))
            if self._zookeeper.compare_and_set(COPIES_PATH, marked.encode(), found[1]):
                log.warning("node marked down: it could not be written", node=name, epoch=copies.epoch)
                metrics.MARKED_DOWN.labels(name[0]).inc()
                self._take(copies=_Seen(marked, found[1] + 1))
                return True

    def check(self) -> None:
        """Reads both znodes anew. What is gone or cannot be read is not taken: the last one known stays in force.
        Raises `ZooKeeperUnavailable`."""
        sent_s = self._clock_s()
        self._zookeeper.sync(COPIES_PATH)
        found = self._zookeeper.read(COPIES_PATH), self._zookeeper.read(PLACEMENT_PATH)
        if found[0] is None or found[1] is None:
            self._refused = ""
            return
        try:
            copies, placement = Copies.decode(found[0][0]), decode_shard_map(found[1][0])
        except UNREADABLE as error:
            self._refused = str(error) or type(error).__name__
            log.error("watched value refused", paths=[COPIES_PATH, PLACEMENT_PATH], error=self._refused)
            return
        self._refused = ""
        self._take(_Seen(copies, found[0][1]), _Seen(placement, found[1][1]))
        if copies.epoch == placement.epoch:  # else the epoch was raised between the two reads
            self._checked_s = sent_s

    def check_now(self) -> None:
        """The same for whoever can go on without: what is known stays in force while ZooKeeper is away."""
        with suppress(ZooKeeperUnavailable):
            if not self._zookeeper.suspended.is_set():  # a question would wait for the session's end
                self.check()

    def close(self) -> None:
        """Ends the checks; while ZooKeeper is away it does not wait for the one under way."""
        self._stopped = True
        self._wake.set()
        self._thread.join(CLOSE_WITHIN_S)

    def _why_none(self) -> str:
        if self._refused:
            return f"the shard map in ZooKeeper cannot be read ({self._refused}): `{RESTORE_COMMAND}`"
        if self._zookeeper.suspended.is_set():
            return "ZooKeeper does not answer, and the shard map was not read before"
        return f"ZooKeeper holds nothing at {PLACEMENT_PATH}: is a coordinator running?"

    def _keep_checking(self) -> None:
        while not self._stopped:
            self._wake.clear()
            try:
                self.check()
            except FanfoldError as error:
                log.debug("shard map not checked", error=str(error))
            self._wake.wait(CHECK_PERIOD_S)

    def _take(self, copies: "_Seen[Copies]", placement: "_Seen[ShardMap] | None" = None) -> None:
        """A check and a mark may overtake each other: older ones are dropped. A znode that was written anew after a
        loss of ZooKeeper begins its versions again, but at a higher epoch."""
        with self._lock:
            self._copies = _newer(self._copies, copies)
            self._placement = _newer(self._placement, placement)
            if self._placement is None or self._placement.value.epoch != self._copies.value.epoch:
                return  # both are written together: the other one is on its way
            value, now_s = replace(self._placement.value, copies=self._copies.value), self._clock_s()
            self._down_since_s = {name: self._down_since_s.get(name, now_s) for name in value.down_nodes}
            self._value = value
            self._known.set()


T = TypeVar("T", Copies, ShardMap)


@dataclass(frozen=True, slots=True)
class _Seen(Generic[T]):
    """A znode's value and version."""

    value: T
    version: int


def _newer(known: "_Seen[T] | None", seen: "_Seen[T] | None") -> "_Seen[T]":
    if known is None or seen is None:
        found = seen or known
        assert found is not None
        return found
    return max(known, seen, key=lambda one: (one.value.epoch, one.version))
