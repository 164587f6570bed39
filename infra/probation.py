"""Probation: a node that is dropped again soon after it came back stays out for a while, longer each time.

A node that is slow for those who write it, and not for its registrar, would be marked, emptied, admitted and marked
again every few seconds; each time deliveries stand still for a second, and its timelines are built anew for nothing.
Used by: registrar.py.
"""

import time
from collections.abc import Callable

import structlog

from infra.errors import RedisUnavailable

STEADY_S = 60.0  # a node that was well for so long is dropped for another reason than before
FIRST_S = 2.0
# A node that is out for longer than the live setting leave_after_s leaves the ring; this alone must not bring it about.
LONGEST_S = 30.0

log = structlog.get_logger()


class Probation:
    """Of one node. For one thread."""

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clock_s = clock_s
        self._back_since_s = float("-inf")
        self._dropped = ""
        self._wait_s = 0.0
        self._until_s = float("-inf")

    def note_back(self) -> None:
        """It was emptied because it had been dropped, and may be admitted."""
        self._back_since_s = self._clock_s()

    def check(self, name: str, incarnation: str) -> None:
        """Raises `RedisUnavailable` while the node, which was dropped under this incarnation, has to stay out, and says
        so once: its member stays fit, or its slots would move."""
        is_new = incarnation != self._dropped
        if self.left_s(incarnation) <= 0:
            return
        if is_new:
            log.warning("node stays out: it was marked down again soon after", node=name, seconds=self._wait_s)
        raise RedisUnavailable(
            f"Redis node {name} was marked down again soon after it had come back: it stays out for {self._wait_s:g} s"
        )

    def left_s(self, incarnation: str) -> float:
        """For how many seconds the node, which was dropped under this incarnation, stays as it is; zero or less when it
        may come back."""
        now_s = self._clock_s()
        if incarnation != self._dropped:
            again = now_s - self._back_since_s < STEADY_S
            self._wait_s = min(max(2 * self._wait_s, FIRST_S), LONGEST_S) if again else 0.0
            self._dropped, self._until_s = incarnation, now_s + self._wait_s
        return self._until_s - now_s
