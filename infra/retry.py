"""Trying again: how long to wait before each further try. What is worth another try is for the caller to say.

Exponential back-off with full jitter: each wait is drawn anew from 0 to a bound that doubles, so that many who failed
together do not come back together (M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Backoff:
    """The bounds of the waits: `first_s` for the first one, doubled each time up to `max_s`."""

    first_s: float
    max_s: float

    def waits_s(self, rng: Random) -> Iterator[float]:
        """The waits before the second try, the third and so on, without end: a caller that gives up takes a slice."""
        bound_s = self.first_s
        while True:
            yield rng.uniform(0, bound_s)
            bound_s = min(bound_s * 2, self.max_s)


def retried(
    step: Callable[[], T],
    waits_s: Iterator[float],
    wait: Callable[[float, Exception], None],
    on: type[Exception] = Exception,
) -> T:
    """Tries again after each wait when `on` was raised; raises what the last try raised.

    `wait` sleeps so many seconds and says why. The next of `waits_s` is drawn after a failure, never before a try.
    """
    while True:
        try:
            return step()
        except on as error:
            wait_s = next(waits_s, None)
            if wait_s is None:
                raise
            wait(wait_s, error)
