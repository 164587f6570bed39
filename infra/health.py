"""Health of one process: alive while its loops beat, ready while it does its work or waits to take over.

Alive asks whether a restart would help, so a server that is away makes nobody unhealthy. Ready asks whether the process
does what it is there for. Time is a parameter; health_server.py shows the answers to the world.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

Check = Callable[[float], Sequence[str]]  # seconds of the monotonic clock → the reasons against, none when all is well
Clock = Callable[[], float]


class State(StrEnum):
    """What a role is doing. It starts, and then goes between the other three as often as it must."""

    STARTING = "starting"
    WAITING = "waiting"  # for a server that it cannot work without
    STANDBY = "standby"  # another process leads; this one takes over when that ends
    SERVING = "serving"


READY = {State.STANDBY: "standby", State.SERVING: "ready"}


@dataclass(frozen=True, slots=True)
class Answer:
    """What is said to whoever asks: one word, the reasons when it is a bad one, and what else is of use."""

    status: str
    reasons: tuple[str, ...] = ()
    fields: Mapping[str, Any] = field(default_factory=dict)

    @property
    def http_status(self) -> int:
        """200 when all is well."""
        return 503 if self.reasons else 200

    def as_json(self) -> dict[str, Any]:
        """The object of the HTTP answer."""
        return {"status": self.status, "reasons": list(self.reasons), **self.fields}


@dataclass(frozen=True, slots=True)
class Beat:
    """When a loop last went round, and how long one round of a healthy one takes at most."""

    at_s: float
    within_s: float


def silent_loops(beats: Mapping[str, Beat], now_s: float) -> list[str]:
    """A sentence for each loop that has not gone round in time."""
    return [
        f"{name} has not gone round for {now_s - beat.at_s:.0f} s; {beat.within_s:.0f} s are the most it takes"
        for name, beat in sorted(beats.items())
        if now_s - beat.at_s > beat.within_s
    ]


def say_alive(reasons: Sequence[str], fields: Mapping[str, Any]) -> Answer:
    """The answer of /healthz."""
    return Answer("unhealthy" if reasons else "alive", tuple(reasons), fields)


def say_ready(state: State, why: str, lacking: Sequence[str], fields: Mapping[str, Any]) -> Answer:
    """The answer of /readyz. One that waits for leadership is ready: it is there to take over."""
    reasons = [] if state in READY else [why or f"it is {state}"]
    reasons += lacking
    return Answer("unready" if reasons else READY[state], tuple(reasons), fields)


class Health:
    """What one process knows of itself. Safe to share between threads."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._beats: dict[str, Beat] = {}
        self._excuses: dict[str, Callable[[], bool]] = {}
        self._alive_checks: list[Check] = []
        self._ready_checks: list[Check] = []
        self._fields: Callable[[], Mapping[str, Any]] = dict
        self._state, self._why = State.STARTING, ""
        self.was_ready = threading.Event()  # set for good when the role is first there

    def loop(self, name: str, within_s: float, excused: Callable[[], bool] = lambda: False) -> Callable[[], None]:
        """Makes a loop known and returns what it calls each time it goes round. `excused`: it may well stand still."""

        def beat() -> None:
            self._beats[name] = Beat(self._clock(), within_s)

        self._excuses[name] = excused
        beat()
        return beat

    def end_loop(self, name: str) -> None:
        """A loop that is done need not beat any more."""
        self._excuses.pop(name, None)
        self._beats.pop(name, None)

    def also_alive_if(self, check: Check) -> None:
        """One more condition of being alive."""
        self._alive_checks.append(check)

    def also_ready_if(self, check: Check) -> None:
        """One more condition of being ready."""
        self._ready_checks.append(check)

    def describe_by(self, fields: Callable[[], Mapping[str, Any]]) -> None:
        """What else /readyz shows."""
        self._fields = fields

    def enter(self, state: State, why: str = "") -> None:
        """The role does something else from now on; `why` is for a state that is not ready."""
        self._state, self._why = state, why
        if state in READY:
            self.was_ready.set()

    @property
    def state(self) -> State:
        """What the role is doing."""
        return self._state

    def alive(self) -> Answer:
        """Whether a restart would not help."""
        now_s = self._clock()
        for name, excused in list(self._excuses.items()):
            if excused():
                self._beats[name] = Beat(now_s, self._beats[name].within_s)
        return say_alive([*silent_loops(dict(self._beats), now_s), *_reasons(self._alive_checks, now_s)], {})

    def ready(self) -> Answer:
        """Whether the role is there for its work."""
        return say_ready(self._state, self._why, _reasons(self._ready_checks, self._clock()), self._fields())


def _reasons(checks: Sequence[Check], now_s: float) -> list[str]:
    reasons: list[str] = []
    for check in checks:
        try:
            reasons += check(now_s)
        except Exception as error:  # noqa: BLE001 - a condition that cannot be looked at does not hold
            reasons.append(f"a check failed: {error!r}")
    return reasons
