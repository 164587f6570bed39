"""What comes by itself after some steps: a thaw, a restart, the end of a session."""

import heapq
from collections.abc import Callable
from itertools import count

from tests.simulator.scheduler import Scheduler


class Later:
    """Calls that are due at some step."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler
        self._due: list[tuple[int, int, Callable[[], None]]] = []
        self._tickets = count()

    def __len__(self) -> int:
        return len(self._due)

    def after(self, steps_max: int, call: Callable[[], None], *, exactly: bool = False) -> None:
        """At one of the next steps."""
        steps = steps_max if exactly else self._scheduler.rng.randint(1, steps_max)
        heapq.heappush(self._due, (self._scheduler.steps + steps, next(self._tickets), call))

    def tend(self) -> None:
        """Calls what is due by now."""
        while self._due and self._due[0][0] <= self._scheduler.steps:
            heapq.heappop(self._due)[2]()

    def hurry(self) -> None:
        """All is due now, in its order."""
        self._due = [(self._scheduler.steps, ticket, call) for _, ticket, call in sorted(self._due, key=_place)]


def _place(due: tuple[int, int, Callable[[], None]]) -> tuple[int, int]:
    return due[:2]
