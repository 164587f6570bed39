"""What each simulated process knows of the shard map: the product's `ShardMaps`, with checks that are made up when
somebody looks.

A check may have been sent at any time since the last one that is still good, and have seen any state since then: the
oldest that a process may know is tried as often as the newest.
"""

from collections.abc import Iterable
from typing import cast

from infra.shard_map import ShardMap
from infra.shard_maps import CUT_OFF_AFTER_S, ShardMaps
from infra.zookeeper import ZooKeeper
from tests.simulator.scheduler import Process, Scheduler
from tests.simulator.znodes import Session, Znodes

CHECKS = (0.3, 0.05, 0.005)  # of the looks, by process: a check has ended since the last one
GOOD_MS = int(CUT_OFF_AFTER_S * 1000) - 50  # a process that is well has sent a good check since then
SLOW = 0.3  # of the processes that did nothing for longer than that: their check is not made at once
SLOW_MS_MAX = 400


class ProcessMaps(ShardMaps):
    """One process's view."""

    def __init__(self, session: Session, process: str) -> None:
        self.session = session
        self.kind = process.partition(" ")[0]  # "worker" or "api"
        self._scheduler = session.scheduler
        self._as_of_ms: int | None = None
        self._looked_ms = self._scheduler.now_ms
        self._slow_until_ms = 0
        self._checks = self._scheduler.rng.choice(CHECKS)
        self.lingers = False  # it makes no check before it must
        super().__init__(cast(ZooKeeper, session), self._seconds)
        self._look_at(self._scheduler.now_ms)

    def value(self, timeout_s: float = 0.0) -> ShardMap:
        """The last known one."""
        self._catch_up()
        return super().value(timeout_s)

    @property
    def cut_off(self) -> bool:
        """Whether what is known may be old."""
        self._catch_up()
        return super().cut_off

    @property
    def last(self) -> ShardMap:
        """What it knows, without a look."""
        return super().value()

    def see_newest(self) -> ShardMap:
        """What is in force, by a check that is made now."""
        if self.session.is_behind:
            self._look_at(self._scheduler.now_ms)
        self._checked_s = self._scheduler.monotonic()
        return super().value()

    def _catch_up(self) -> None:
        now_ms, rng = self._scheduler.now_ms, self._scheduler.rng
        was_away, self._looked_ms = now_ms - self._looked_ms > GOOD_MS, now_ms
        if was_away and rng.random() < SLOW:
            self._slow_until_ms = now_ms + rng.randrange(SLOW_MS_MAX)
        if self.session.cut or now_ms < self._slow_until_ms:
            return
        oldest_ms = max(int(self._checked_s * 1000), now_ms - GOOD_MS)
        if oldest_ms == now_ms - GOOD_MS or (not self.lingers and rng.random() < self._checks):
            self._look_at(rng.choice((oldest_ms, rng.randint(oldest_ms, now_ms))))

    def _look_at(self, sent_ms: int) -> None:
        self._as_of_ms = sent_ms
        try:
            with self.session.as_of(sent_ms):
                self.check()
        finally:
            self._as_of_ms = None

    def _seconds(self) -> float:
        """During a check: when it was sent, or when what it saw came into force, if that was later."""
        if self._as_of_ms is None:
            return self._scheduler.monotonic()
        return max(self._as_of_ms, self.session.seen_ms) / 1000


class SimulatedMaps:
    """Stands for `ShardMaps`: each asks the one of his process. Outside of processes it is what is in force."""

    def __init__(self, scheduler: Scheduler, znodes: Znodes) -> None:
        self._scheduler = scheduler
        self._znodes = znodes
        self._of: dict[Process, ProcessMaps] = {}
        self._observer: ProcessMaps | None = None

    def of(self, process: Process) -> ProcessMaps:
        """A process's view; made when it first looks."""
        if process not in self._of:
            self._of[process] = ProcessMaps(Session(self._znodes), process.name)
        return self._of[process]

    def newest(self) -> ShardMap:
        """The shard map in force."""
        if self._observer is None:
            self._observer = ProcessMaps(Session(self._znodes), "observer")
        return self._observer.see_newest()

    def forget(self, process: Process) -> None:
        """It has died."""
        self._of.pop(process, None)

    def _mine(self) -> ProcessMaps:
        actor = self._scheduler.current
        if actor is not None:
            return self.of(actor.process.root)
        self.newest()
        assert self._observer is not None
        return self._observer

    def value(self) -> ShardMap:
        """The shard map as the process knows it."""
        return self._mine().value()

    @property
    def cut_off(self) -> bool:
        """Whether that may be old."""
        return self._mine().cut_off

    def unsettled_s(self, names: Iterable[str]) -> float:
        """For how long an acknowledgement has to wait."""
        return self._mine().unsettled_s(names)

    def check_now(self) -> None:
        """Reads it again."""
        self._mine().check_now()

    def mark_down(self, name: str, seen: ShardMap) -> bool:
        """Marks a node."""
        return self._mine().mark_down(name, seen)
