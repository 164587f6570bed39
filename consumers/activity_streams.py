"""The streams of activity of one process. On the event loop; the feed has threads.

Next: open_streams.py, api_activity.py.
"""

import asyncio

from consumers.activity_feed import ActivityFeed
from consumers.live_frames import EventQueue
from consumers.live_posting import post
from consumers.open_streams import Feed, OpenStreams
from consumers.tweet_stream_filter import Filter
from infra import metrics
from infra.composition import Stores
from infra.log_reader import Cut

# Open at once in one process: each event is held against the filter of each, a microsecond a time. They are for
# programs; who needs more of the log than this reads it with `TweetStream`.
STREAMS_MAX = 200


class ActivityStreams(OpenStreams):
    """All streams of activity of a process. Made on its event loop."""

    def __init__(self, stores: Stores, bootstrap: str) -> None:
        loop = asyncio.get_running_loop()
        self._activity = ActivityFeed(bootstrap, stores.bodies, lambda calls: post(loop, self._activity.stopped, calls))
        feed = Feed(self._activity.leave, self._activity.close)
        super().__init__(feed, "streams of activity", metrics.ACTIVITY_STREAMS, STREAMS_MAX)

    async def begun_for(self, user_id: int, only: Filter, position: tuple[str, Cut] | None) -> EventQueue:
        """The queue of a new stream; `close` it. One from now on has begun; one that is resumed waits for Kafka while
        it is open. Raises as `open` and `begun`."""
        queue = self.open(user_id, lambda queue: self._activity.begin(only, position, queue))
        return await self.begun(queue) if position is None else queue
