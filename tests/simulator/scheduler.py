"""The scheduler: actors that run the product's code, one at a time, from one pause to the next.

An actor is a greenlet, so blocking code is interleaved at each of its calls to a server. All that decides is one random
generator. A process is a group of actors that freeze, thaw and die together.
"""

import hashlib
import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from random import Random

from greenlet import getcurrent, greenlet

FIRST_MS = 1_790_000_000_000  # autumn 2026


class Killed(BaseException):
    """Raised inside an actor whose process has died; nothing that it still calls has an effect."""


@dataclass(eq=False, slots=True)
class Process:
    """What lives and dies together."""

    name: str
    alive: bool = True
    frozen: bool = False
    pace: float = 1.0  # the chance to go on when it is its turn
    turns: int = 0
    stalls_at: int = 0  # the turn at which it stands still for some steps; 0 is none
    stall_steps: int = 0
    goes_on_at: int = 0
    actors: list["Actor"] = field(default_factory=list)
    belongs_to: "Process | None" = None  # a call of a user can freeze and die alone, and with the process that it is in

    @property
    def root(self) -> "Process":
        """The process that it is in, or itself."""
        return self.belongs_to or self


@dataclass(eq=False, slots=True)
class Actor:
    """One thread of a process."""

    name: str
    process: Process
    greenlet: greenlet
    parked: bool = False


class Scheduler:
    """Runs actors step by step. For one thread."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.now_ms = FIRST_MS
        self.steps = 0  # that were tried: the clock of faults and stalls
        self.made = 0  # those in which something happened
        self.current: Actor | None = None
        self.trace: list[str] | None = None
        self._digest = hashlib.blake2b(digest_size=8)
        self._hub = getcurrent()
        self._ready: list[Actor] = []
        self._sleeping: list[tuple[int, int, Actor]] = []
        self._tickets = count()

    # For the simulation

    def spawn(self, process: Process, name: str, run: Callable[[], None]) -> Actor:
        """A new actor; its first step comes later."""

        def body() -> None:
            try:
                run()
            except Killed:
                pass
            finally:
                process.actors.remove(actor)

        actor = Actor(name, process, greenlet(body, self._hub))
        process.actors.append(actor)
        self._ready.append(actor)
        return actor

    def kill(self, process: Process) -> None:
        """Ends a process as SIGKILL does: its code has no effect from now on."""
        process.alive = False
        for actor in list(process.actors):
            self._ready = [one for one in self._ready if one is not actor]
            self.current = actor
            if actor.greenlet:
                actor.greenlet.throw(Killed)
            elif actor in process.actors:  # it never began
                process.actors.remove(actor)
            self.current = None

    def runnable(self) -> int:
        """How many actors could go on now."""
        while self._sleeping and self._sleeping[0][0] <= self.now_ms:
            actor = heapq.heappop(self._sleeping)[2]
            if actor.process.alive:
                self._ready.append(actor)
        return len(self._ready)

    def run_one(self, place: int) -> bool:
        """Lets one of the runnable actors go on to its next pause. False when it does not, being slow or frozen."""
        actor = self._ready[place]
        if not self._may_go_on(actor.process):
            return False
        self._ready[place] = self._ready[-1]
        self._ready.pop()
        self.note(actor.name)
        self.current = actor
        actor.greenlet.switch()
        self.current = None
        return True

    def _may_go_on(self, process: Process) -> bool:
        if process.frozen or process.root.frozen or self.steps < process.goes_on_at:
            return False
        if process.pace < 1.0 and self.rng.random() > process.pace:
            return False
        process.turns += 1
        if process.turns == process.stalls_at:
            process.goes_on_at = self.steps + process.stall_steps
            return False
        return True

    def skip_to_next(self) -> bool:
        """Lets the time pass until a sleeper wakes. False when nobody sleeps."""
        if not self._sleeping:
            return False
        self.now_ms = max(self.now_ms, self._sleeping[0][0])
        return True

    def note(self, what: str) -> None:
        """Writes down a step that is made."""
        self.made += 1
        self._digest.update(what.encode())
        if self.trace is not None:
            self.trace.append(f"{self.now_ms - FIRST_MS:>7} ms  {what}")

    def digest(self) -> str:
        """A hash of all steps so far: equal for equal runs."""
        return self._digest.hexdigest()

    # For the code inside an actor; outside of one nobody else runs meanwhile

    def pause(self) -> None:
        """A place where others may run."""
        if self.current is not None:
            self._ready.append(self._alive())
            self._to_hub()

    def sleep(self, seconds: float) -> None:
        """Others run for some time."""
        wake_ms = self.now_ms + max(1, int(seconds * 1000))
        if self.current is None:
            self.now_ms = wake_ms
        else:
            heapq.heappush(self._sleeping, (wake_ms, next(self._tickets), self._alive()))
            self._to_hub()

    def park(self) -> None:
        """Waits until somebody says `wake`."""
        actor = self._alive()
        actor.parked = True
        self._to_hub()

    def wake(self, actor: Actor) -> None:
        """Ends a wait."""
        if actor.parked and actor.process.alive:
            actor.parked = False
            self._ready.append(actor)

    def monotonic(self) -> float:
        """Seconds."""
        return self.now_ms / 1000

    def clock_ms(self) -> int:
        """Milliseconds of the time of day."""
        return self.now_ms

    def check_alive(self) -> None:
        """Ahead of an effect that takes no step: a dead process has none."""
        if self.current is not None and not self.current.process.alive:
            raise Killed

    def _alive(self) -> Actor:
        assert self.current is not None
        if not self.current.process.alive:
            raise Killed
        return self.current

    def _to_hub(self) -> None:
        actor = self.current
        assert actor is not None
        self._hub.switch()
        if not actor.process.alive:
            raise Killed
