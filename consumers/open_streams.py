"""The open streams of one kind in one process: who may open one, how it begins, and its end. On the event loop.

Used by live_streams.py and activity_streams.py, whose feeds have threads.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from fastapi import HTTPException
from prometheus_client import Gauge

from consumers.live_frames import EventQueue, Reason, farewell
from infra import metrics
from infra.errors import Closed, KafkaUnavailable

STREAMS_PER_USER_MAX = 10  # open at once in one process: some devices with some windows
BEGUN_WITHIN_S = 5.0  # tenths of a second are usual
# When a server stops, its clients come again spread over some seconds, and not all at once.
RETRY_FIRST_MS, RETRY_LAST_MS = 1_000, 5_000


@dataclass(frozen=True, slots=True)
class Feed:
    """What tells the streams: `leave` is told of one that has ended, `close` ends the threads."""

    leave: Callable[[EventQueue], None]
    close: Callable[[], None]


class OpenStreams:
    """Streams of one kind, called `what` where one is refused; at most `streams_max` of them, if that is given."""

    def __init__(self, feed: Feed, what: str, gauge: Gauge, streams_max: int | None = None) -> None:
        self._feed = feed
        self._what = what
        self._gauge = gauge
        self._streams_max = streams_max
        self._open: dict[EventQueue, int] = {}
        self._of_user: Counter[int] = Counter()
        self._stopping = False

    @property
    def count(self) -> int:
        """How many are open."""
        return len(self._open)

    def open(self, user_id: int, begin: Callable[[EventQueue], None]) -> EventQueue:
        """The queue of a new stream, which `begin` gives to the feed; `close` it. Raises `Closed`, and an
        `HTTPException` 429 or 503."""
        if self._stopping:
            raise Closed("the server stops; open the stream again in a moment")
        if self._of_user[user_id] >= STREAMS_PER_USER_MAX:
            detail = f"user {user_id} has {STREAMS_PER_USER_MAX} {self._what} open, which is the most; close one"
            raise HTTPException(429, detail, {"Retry-After": "1"})
        if self._streams_max is not None and self.count >= self._streams_max:
            raise HTTPException(503, f"{self._streams_max} {self._what} are open; try again", {"Retry-After": "1"})
        queue = EventQueue()
        begin(queue)
        self._open[queue] = user_id
        self._of_user[user_id] += 1
        self._gauge.inc()
        return queue

    async def begun(self, queue: EventQueue) -> EventQueue:
        """The same one once its first event is there. Raises `KafkaUnavailable`, and closes it then."""
        try:
            async with asyncio.timeout(BEGUN_WITHIN_S):
                await queue.wait()
        except BaseException as error:
            self.close(queue)
            if isinstance(error, TimeoutError):
                raise KafkaUnavailable(f"a stream did not begin within {BEGUN_WITHIN_S:g} s") from None
            raise
        return queue

    def close(self, queue: EventQueue) -> None:
        """The client is gone, or has got the last event."""
        user_id = self._open.pop(queue)
        self._of_user[user_id] -= 1
        if not self._of_user[user_id]:
            del self._of_user[user_id]
        self._gauge.dec()
        queue.end(Reason.GONE, b"")
        metrics.STREAMS_ENDED.labels(queue.ended).inc()
        self._feed.leave(queue)

    def end(self) -> None:
        """The server stops: every stream ends with a hint when to come again. New ones are refused."""
        self._stopping = True
        for queue in self._open:
            retry_ms = random.randint(RETRY_FIRST_MS, RETRY_LAST_MS)  # noqa: S311 - nobody gains by guessing it
            queue.end(Reason.STOPPING, farewell(retry_ms))

    def shut(self) -> None:
        """Ends the feed's threads."""
        self.end()
        self._feed.close()
