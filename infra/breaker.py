"""Breaker: who called a node in vain is not followed by others who wait for it as well.

After a call that got no answer the node is in doubt: one probe looks at it, on a thread of its own and with a fresh
connection, and whoever must call it meanwhile waits for what the probe finds. A node that has only closed an idle
connection answers in a millisecond and is as before. One that does not answer the probe either is away: calls fail at
once, and when somebody asks again later, the next probe looks. Used by: redis_node.py.
"""

import threading
import time
from collections.abc import Callable
from enum import Enum

PROBE_TIMEOUT_S = 0.3  # to connect, and again for the answer; a node that works answers a PING in some milliseconds
AWAY_S = 0.5  # no other probe for so long: a node that is back is used that much later
DECIDED_WITHIN_S = 2 * PROBE_TIMEOUT_S + 0.2  # a probe, and a thread that gets no time at first

Run = Callable[[Callable[[], None]], None]


class State(Enum):
    """What is known of a node."""

    ANSWERS = "answers"
    DOUBTED = "doubted"  # a probe is under way
    AWAY = "away"


def on_a_thread(call: Callable[[], None]) -> None:
    """Runs beside the caller."""
    threading.Thread(target=call, name="probe", daemon=True).start()


class Breaker:
    """Of one node in one process. Safe to share between threads. `probe` says in bounded time whether the node
    answers."""

    def __init__(
        self, probe: Callable[[], bool], clock_s: Callable[[], float] = time.monotonic, run: Run = on_a_thread
    ) -> None:
        self._probe = probe
        self._clock_s = clock_s
        self._run = run
        self._state = State.ANSWERS
        self._away_until_s = 0.0
        self._lock = threading.Lock()
        self._decided = threading.Event()

    @property
    def answers(self) -> bool:
        """Whether the node answers, as far as is known; waits for nothing."""
        if self._state is State.AWAY:
            self._doubt(State.AWAY)
        return self._state is State.ANSWERS

    def lets_through(self) -> bool:
        """Whether a call may be made; waits for a probe that is under way."""
        if self.answers:
            return True
        if self._state is State.DOUBTED:
            self._decided.wait(DECIDED_WITHIN_S)
        return self.answers

    def note_failure(self) -> None:
        """A call got no answer."""
        self._doubt(State.ANSWERS)

    def _doubt(self, before: State) -> None:
        """Begins a probe, if nobody has and the time has come."""
        with self._lock:
            if self._state is not before or self._clock_s() < self._away_until_s:
                return
            self._state = State.DOUBTED
            self._decided.clear()
        try:
            self._run(self._decide)
        except RuntimeError:  # no thread is to be had: as if it did not answer
            self._set(answers=False)

    def _decide(self) -> None:
        answers = False
        try:
            answers = self._probe()
        finally:
            self._set(answers=answers)

    def _set(self, *, answers: bool) -> None:
        with self._lock:
            self._state = State.ANSWERS if answers else State.AWAY
            self._away_until_s = 0.0 if answers else self._clock_s() + AWAY_S
            self._decided.set()
