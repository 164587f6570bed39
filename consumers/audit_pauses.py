"""What an audit asks of a node at a time, and when it waits: before it looks again at what differs, and before it
asks a node again that did not answer.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from random import SystemRandom
from typing import TypeVar

from infra.errors import RedisUnavailable
from infra.retry import Backoff, retried

LOOK_AGAIN_AFTER_S = (0.0, 0.5, 2.0)  # at what differs: an event in flight arrives meanwhile, a rebuild ends
LOOKS_MAX_S = 30.0  # of one part of an audit: with very many differences they count without more waiting
# Of one call to a cluster: some 43,000 entries at most. With 200 the nodes of a busy machine did not answer others
# within their 0.5 to 1 s, again and again, and one was marked down.
DUMP_USERS = 50
# An audit of millions of timelines takes most of an hour; a machine that stands still for a moment should not end it.
ASKS_MAX = 4
SILENT = Backoff(first_s=2.0, max_s=8.0)

T = TypeVar("T")


@dataclass(slots=True)
class Pauses:
    """The pauses of one part of an audit."""

    pause: Callable[[float], None]
    left_s: float = LOOKS_MAX_S

    def take(self, pause_s: float) -> None:
        """One before another look, if there is time left."""
        if self.left_s > 0:
            self.pause(pause_s)
            self.left_s -= pause_s

    def answered(self, ask: Callable[[], T]) -> T:
        """What nodes answer; asks again while they don't. Raises `RedisUnavailable` in the end."""
        waits_s = islice(SILENT.waits_s(SystemRandom()), ASKS_MAX - 1)
        return retried(ask, waits_s, lambda wait_s, _: self.pause(wait_s), RedisUnavailable)
