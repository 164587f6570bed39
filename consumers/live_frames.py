"""Server-sent events as bytes (WHATWG HTML, section 9.2), and the bounded queue of one stream. Pure, but for waiting.

A client's `Last-Event-ID` moves with every `id` line, also with one that brings no event: heartbeats have one, so that
a stream on which nothing happens is not resumed from long ago.
"""

import asyncio
import json
from collections import deque
from enum import StrEnum

EVENTS_MAX = 256  # that wait for a client to take them: seconds of a very busy timeline
QUEUE_BYTES_MAX = 256 * 1024  # a tweet has 300 bytes, and 2 kB at most
RETRY_MS = 2_000  # after which a client whose connection broke asks again


class Reason(StrEnum):
    """Why a timeline has to be read again, or a stream is ended."""

    FOLLOWS_CHANGED = "follows_changed"
    POSITION_EXPIRED = "position_expired"
    POSITION_TOO_FAR = "position_too_far"
    POSITION_UNKNOWN = "position_unknown"
    TOO_SLOW = "too_slow"
    TOKEN_REFUSED = "token_refused"  # noqa: S105 - the word for it
    STOPPING = "stopping"
    GONE = "gone"  # the client itself


DETAILS = {
    Reason.FOLLOWS_CHANGED: "whom the user follows has changed; read the home timeline again",
    Reason.POSITION_EXPIRED: "the log no longer has what came after Last-Event-ID; read the home timeline again",
    Reason.POSITION_TOO_FAR: "too much came after Last-Event-ID to be told; read the home timeline again",
    Reason.POSITION_UNKNOWN: "Last-Event-ID is of logs that are no longer there; read the home timeline again",
    Reason.TOO_SLOW: f"more than {EVENTS_MAX} events or {QUEUE_BYTES_MAX} bytes waited; take them faster, and resume",
    Reason.TOKEN_REFUSED: "the token was revoked, or its user was deleted",
}


def event(name: str, data: str) -> bytes:
    """An event without its id. `data` is one line."""
    return f"event: {name}\ndata: {data}\n\n".encode()


def because(name: str, reason: Reason) -> bytes:
    """An event that says why."""
    return event(name, json.dumps({"reason": reason, "detail": DETAILS[reason]}))


def with_id(position: str, rest: bytes) -> bytes:
    """An event with its id; without an event, what moves a client's position."""
    return b"id: %b\n%b" % (position.encode(), rest or b"\n")


def opening(position: str) -> bytes:
    """What a stream begins with."""
    return b"retry: %d\n%b" % (RETRY_MS, with_id(position, b""))


def heartbeat(position: str | None) -> bytes:
    """A comment, and where the client is when all was told."""
    return b": heartbeat\n" + (with_id(position, b"") if position else b"\n")


def farewell(retry_ms: int) -> bytes:
    """What a stream ends with when the server stops."""
    return b"retry: %d\n\n" % retry_ms


class EventQueue:
    """What one client has still to take. For one event loop. It ends itself when there is too much."""

    def __init__(self) -> None:
        self.ended: Reason | None = None
        self._waiting: deque[bytes] = deque()
        self._bytes = 0
        self._mark: str | None = None
        self._more = asyncio.Event()

    @property
    def half_full(self) -> bool:
        """Whether whoever can wait should. May be asked by any thread."""
        return len(self._waiting) * 2 > EVENTS_MAX or self._bytes * 2 > QUEUE_BYTES_MAX

    def put(self, frame: bytes) -> None:
        """One more event; at a bound, instead of all that wait, a last one that says so. It has no id: what was not
        told is told when the client comes again."""
        if self.ended is not None:
            return
        self._waiting.append(frame)
        self._bytes += len(frame)
        self._mark = None
        self._more.set()
        if len(self._waiting) > EVENTS_MAX or self._bytes > QUEUE_BYTES_MAX:
            self.end(Reason.TOO_SLOW, because("dropped", Reason.TOO_SLOW))

    def mark(self, position: str) -> None:
        """Where the client is once he has taken all that waits."""
        self._mark = position

    def end(self, reason: Reason, last: bytes) -> None:
        """Nothing comes after `last`. The first reason counts."""
        if self.ended is None:
            self.ended = reason
            self._waiting.clear()
            self._waiting.append(last)
            self._more.set()

    def take(self) -> bytes:
        """All that waits."""
        taken = b"".join(self._waiting)
        self._waiting.clear()
        self._bytes = 0
        self._more.clear()
        return taken

    def take_mark(self) -> str | None:
        """The position to tell with a heartbeat, each once."""
        mark, self._mark = self._mark, None
        return mark

    async def wait(self) -> None:
        """Returns when something waits."""
        await self._more.wait()
