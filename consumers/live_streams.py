"""The live timelines of one process as streams. On the event loop; the feed has threads.

Next: open_streams.py, api_stream.py.
"""

import asyncio
from functools import partial

from consumers.live_catch_up import Arrival, CatchUp
from consumers.live_feed import LiveFeed
from consumers.live_frames import EventQueue
from consumers.live_position import Position
from consumers.live_posting import post
from consumers.live_telling import payloads_of
from consumers.open_streams import Feed, OpenStreams
from infra import metrics
from infra.celebrities import celebrities_of
from infra.composition import Stores


class Streams(OpenStreams):
    """All live timelines of a process. Made on its event loop. How many there may be: http_frame.py."""

    def __init__(self, stores: Stores, bootstrap: str) -> None:
        loop = asyncio.get_running_loop()
        self._live = LiveFeed(
            bootstrap,
            partial(celebrities_of, stores.engine),
            partial(payloads_of, stores.bodies, stores.counts),
            lambda calls: post(loop, self._live.stopped, calls),
        )
        self._catch_up = CatchUp(self._live)
        super().__init__(Feed(self._live.leave, self._live.close), "streams", metrics.STREAMS)

    @property
    def live(self) -> int:
        """How many of them have caught up."""
        return self._live.size

    async def begun_for(self, user_id: int, position: Position | None) -> EventQueue:
        """The queue of a new stream, from `position` on; `close` it. One from now on has begun: whoever reads a page
        behind that lacks nothing. One that is resumed waits for Kafka while it is open. Raises as `open` and `begun`.
        """
        queue = self.open(user_id, lambda queue: self._catch_up.begin(Arrival(user_id, position, queue)))
        return await self.begun(queue) if position is None else queue

    def shut(self) -> None:
        """Ends the feed's threads."""
        super().shut()
        self._catch_up.close()
