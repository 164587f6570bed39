"""ZooKeeper in memory: znodes with their whole history, and sessions that may lag behind it, be cut off, or end.

A session never sees an older state than it has seen, and after `sync` none that is older than the sync; between the two
any state, since its server may lag behind the leader.
"""

import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Generic, TypeVar, cast

from infra.errors import ZooKeeperUnavailable
from infra.lease import Lease
from infra.znodes import Change, Create, Replace
from infra.zookeeper import Watched
from tests.simulator.scheduler import Scheduler

PAUSES = 0.25  # of the calls: others run before it
LAGS = 0.5  # of the reads: as old as they may be

T = TypeVar("T")

Found = tuple[bytes, int]
Writes = Mapping[str, tuple[bytes, int | None]]


@dataclass(slots=True)
class Znodes:
    """All znodes, at every time: `states[n]` is in force from `times_ms[n]` on. Never changed, only followed."""

    scheduler: Scheduler
    states: list[Mapping[str, Found]] = field(default_factory=lambda: [{}])
    times_ms: list[int] = field(default_factory=lambda: [0])

    @property
    def newest(self) -> int:
        """The number of the state in force."""
        return len(self.states) - 1

    def in_force_at(self, ms: float) -> int:
        """The number of the state that was in force then."""
        return bisect_right(self.times_ms, ms) - 1

    def change(self, writes: Writes) -> bool:
        """All of these, or none: each has the version that must be there; None: it must not exist."""
        state = dict(self.states[-1])
        for path, (data, version) in writes.items():
            found = state.get(path)
            if (None if found is None else found[1]) != version:
                return False
            state[path] = data, 0 if version is None else version + 1
        self._follow(state)
        return True

    def remove(self, path: str) -> None:
        """A znode that may not be there."""
        if path in self.states[-1]:
            self._follow({one: found for one, found in self.states[-1].items() if one != path})

    def _follow(self, state: Mapping[str, Found]) -> None:
        self.states.append(state)
        self.times_ms.append(self.scheduler.now_ms)


class Session:
    """Stands for infra.zookeeper.ZooKeeper, as far as the simulated processes use it."""

    def __init__(self, znodes: Znodes) -> None:
        self.cut = False  # by the network
        self.suspended, self.lost = threading.Event(), threading.Event()
        self.seen = znodes.newest
        self.scheduler = znodes.scheduler
        self._znodes = znodes
        self._own: set[str] = set()
        self._sent_ms: int | None = None

    def end(self) -> None:
        """Its members go with it."""
        self.lost.set()
        for path in self._own:
            self._znodes.remove(path)

    @property
    def seen_ms(self) -> int:
        """Since when the state is in force that was seen last."""
        return self._znodes.times_ms[self.seen]

    @property
    def is_behind(self) -> bool:
        """Whether something has changed since."""
        return self.seen < self._znodes.newest

    @contextmanager
    def as_of(self, sent_ms: int) -> Iterator[None]:
        """What is asked within was sent then, and answered at once."""
        self._sent_ms = sent_ms
        try:
            yield
        finally:
            self._sent_ms = None

    def watch(self, path: str, changed: Callable[[bytes | None], None]) -> None:
        """Nobody is told: whoever looks finds it."""

    def sync(self, path: str) -> None:
        """Later reads are not older than this."""
        self._reach()
        newest = self._znodes.newest if self._sent_ms is None else self._znodes.in_force_at(self._sent_ms)
        self.seen = max(self.seen, newest)

    def read(self, path: str) -> Found | None:
        """The bytes and the version of a znode, or None."""
        return self._look().get(path)

    def children(self, path: str) -> list[str]:
        """The names below a znode, sorted."""
        return sorted(one.removeprefix(f"{path}/") for one in self._look() if one.startswith(f"{path}/"))

    def create(self, path: str, data: bytes, ephemeral: bool = False) -> bool:
        """False when it exists."""
        written = self._write({path: (data, None)})
        if written and ephemeral:
            self._own.add(path)
        return written

    def compare_and_set(self, path: str, data: bytes, version: int) -> bool:
        """False when somebody else was first."""
        return self._write({path: (data, version)})

    def write_together(self, changes: Sequence[Change], holding: Lease | None = None) -> bool:
        """All or none, and none without the lease's znode."""
        if holding is not None and holding.path not in self._znodes.states[-1]:
            self._reach()
            holding.lose("its znode is gone")
            return False
        assert all(isinstance(one, Create | Replace) for one in changes), "nothing else is needed here"
        return self._write({one.path: _expected(one) for one in changes if isinstance(one, Create | Replace)})

    def _look(self) -> Mapping[str, Found]:
        self._reach()
        rng, newest = self.scheduler.rng, self._znodes.newest
        if rng.random() >= LAGS:
            self.seen = rng.randint(self.seen, newest)
        return self._znodes.states[self.seen]

    def _write(self, writes: Writes) -> bool:
        self._reach()
        written = self._znodes.change(writes)
        if written:
            self.scheduler.note(f"writes {sorted(writes)}")
        self._reach()  # the answer may be lost
        self.seen = self._znodes.newest
        return written

    def _reach(self) -> None:
        if self._sent_ms is None:
            if self.scheduler.rng.random() < PAUSES:
                self.scheduler.pause()
            self.scheduler.check_alive()
        if self.cut or self.lost.is_set():
            raise ZooKeeperUnavailable("ZooKeeper does not answer")


def _expected(change: Create | Replace) -> tuple[bytes, int | None]:
    return change.data, change.version if isinstance(change, Replace) else None


@dataclass(frozen=True)
class Fixed(Generic[T]):
    """Stands for a value that is watched and never changes."""

    known: T

    def value(self, timeout_s: float = 0.0) -> T:
        """The value."""
        return self.known

    def as_watched(self) -> Watched[T]:
        """For the product's eyes."""
        return cast(Watched[T], self)
