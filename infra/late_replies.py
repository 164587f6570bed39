"""Replies that nobody waits for any more: kept aside, so that their connections are used again once they have come.

While one is outstanding its node is late, and readers ask other copies first: so a node that hangs holds up the calls
under way and no others. Next: ask_copies.py.
"""

import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from infra.errors import FanfoldError

LATE_MAX = 16  # of one node: as many callers as an API process has at once on a busy machine; more are closed
LATE_S_MAX = 2.0  # then the connection is closed, and the node is tried again: a peer that is gone never answers
LOOK_EVERY_S = 0.005  # at most: so many callers look that each would do little else


class LateReply(Protocol):
    """A reply as `RedisNode.start` gives it."""

    def poll(self) -> list[Any] | None:
        """The answers when all have come; their connection is given back then."""

    def drop(self) -> None:
        """Closes the connection."""


class LateReplies:
    """Those of one node; `lost` is called for each that does not come. Safe to share between threads."""

    def __init__(self, lost: Callable[[], None], clock_s: Callable[[], float] = time.monotonic) -> None:
        self._lost = lost
        self._clock_s = clock_s
        self._waiting: list[tuple[LateReply, float]] = []  # and since when
        self._looked_s = 0.0
        self._lock = threading.Lock()

    def add(self, reply: LateReply) -> None:
        """Keeps one aside; closes it when there are too many."""
        with self._lock:
            if len(self._waiting) < LATE_MAX:
                self._waiting.append((reply, self._clock_s()))
                return
        reply.drop()

    def any(self) -> bool:
        """Whether one is outstanding. What has come is read to its end and forgotten."""
        if not self._waiting:
            return False
        now_s = self._clock_s()
        if now_s - self._looked_s >= LOOK_EVERY_S:
            with self._lock:
                self._looked_s = now_s
                self._waiting = [one for one in self._waiting if not self._is_over(*one, now_s)]
        return bool(self._waiting)

    def close(self) -> None:
        """Closes all of them."""
        with self._lock:
            for reply, _ in self._waiting:
                reply.drop()
            self._waiting = []

    def _is_over(self, reply: LateReply, since_s: float, now_s: float) -> bool:
        try:
            if reply.poll() is not None:
                return True
        except FanfoldError:  # closed with its connection; whoever asks the node next hears why
            return True
        if now_s - since_s < LATE_S_MAX:
            return False
        reply.drop()
        self._lost()
        return True
