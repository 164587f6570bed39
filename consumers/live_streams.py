"""The open streams of one process: who may open one, and their end. On the event loop; the feed has threads.

Next: api_stream.py.
"""

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Sequence
from functools import partial

from fastapi import HTTPException

from consumers.live_catch_up import Arrival, CatchUp
from consumers.live_feed import LiveFeed
from consumers.live_frames import EventQueue, Reason, farewell
from consumers.live_position import Position
from consumers.live_telling import Call, payloads_of
from consumers.page_queries import celebrities_of
from infra import metrics
from infra.composition import Stores
from infra.errors import Closed, KafkaUnavailable

STREAMS_PER_USER_MAX = 10  # open at once in one process: some devices with some windows; all streams: http_frame.py
BEGUN_WITHIN_S = 5.0  # tenths of a second are usual
STOPPED_POLL_S = 0.1
# When a server stops, its clients come again spread over some seconds, and not all at once.
RETRY_FIRST_MS, RETRY_LAST_MS = 1_000, 5_000


class Streams:
    """All streams of a process. Made on its event loop."""

    def __init__(self, stores: Stores, bootstrap: str) -> None:
        self._loop = asyncio.get_running_loop()
        self._open: dict[EventQueue, int] = {}
        self._of_user: Counter[int] = Counter()
        self._stopping = False
        self._feed = LiveFeed(
            bootstrap,
            partial(celebrities_of, stores.engine),
            partial(payloads_of, stores.bodies, stores.counts),
            self._post,
        )
        self._catch_up = CatchUp(self._feed)

    @property
    def count(self) -> int:
        """How many are open."""
        return len(self._open)

    @property
    def live(self) -> int:
        """How many of them have caught up."""
        return self._feed.size

    async def begun(self, user_id: int, position: Position | None) -> EventQueue:
        """As `open`, and a stream from now on has its beginning: whoever reads a page behind that lacks nothing. Raises
        also `KafkaUnavailable`. A stream that is resumed waits for Kafka while it is open."""
        queue = self.open(user_id, position)
        try:
            if position is None:
                async with asyncio.timeout(BEGUN_WITHIN_S):
                    await queue.wait()
        except BaseException as error:
            self.close(queue)
            if isinstance(error, TimeoutError):
                raise KafkaUnavailable(f"a stream did not begin within {BEGUN_WITHIN_S:g} s") from None
            raise
        return queue

    def open(self, user_id: int, position: Position | None) -> EventQueue:
        """The queue of a new stream, from `position` on; `close` it. Raises `Closed`, and an `HTTPException` 429."""
        if self._stopping:
            raise Closed("the server stops; open the stream again in a moment")
        if self._of_user[user_id] >= STREAMS_PER_USER_MAX:
            detail = f"user {user_id} has {STREAMS_PER_USER_MAX} streams open, which is the most; close one"
            raise HTTPException(429, detail, {"Retry-After": "1"})
        queue = EventQueue()
        self._catch_up.begin(Arrival(user_id, position, queue))
        self._open[queue] = user_id
        self._of_user[user_id] += 1
        metrics.STREAMS.inc()
        return queue

    def close(self, queue: EventQueue) -> None:
        """The client is gone, or has got the last event."""
        user_id = self._open.pop(queue)
        self._of_user[user_id] -= 1
        if not self._of_user[user_id]:
            del self._of_user[user_id]
        metrics.STREAMS.dec()
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
        self._catch_up.close()

    def _post(self, calls: Sequence[Call]) -> None:
        """From the feed's threads: returns when the loop has made the calls, or the feed is stopped."""
        made = threading.Event()
        try:
            self._loop.call_soon_threadsafe(_make, calls, made)
        except RuntimeError:  # the loop has ended, and every stream with it
            return
        while not made.wait(STOPPED_POLL_S) and not self._feed.stopped.is_set():
            continue


def _make(calls: Sequence[Call], made: threading.Event) -> None:
    for call in calls:
        call()
    made.set()
