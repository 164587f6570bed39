"""The hashtags of the last minutes: a Faust agent over Fanfold's activity, with a sliding window.

    python docs/examples/trending_hashtags.py

Each time the first five change it prints a JSON line: {"trending": [["#kafka", 12], …]}. The window slides by the time
at which tweets were published; a tweet counts once for each of its tags. It is kept in memory and begins with what is
posted from now on, so a restart begins an empty window: for a picture of the last minutes that is enough. Start it
once: each process would count the partitions that it has. To spread it, send (tag, time) to a topic that is keyed by
the tag, and count there.
"""

import asyncio
import json
import os
import re
import secrets
import sys
import tempfile
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterable

import faust

from consumers.read_tweet import read_live
from infra.composition import Stores, stores
from infra.errors import DependencyError, Undecodable
from infra.events import ActivityType, decode_activity, is_replayed
from infra.settings import load_settings
from infra.topics import ACTIVITY

WINDOW_MS = 10 * 60_000
TOP = 5
BATCH_MAX, BATCH_WITHIN_S = 500, 0.2  # texts are read for many tweets at once
AGAIN_AFTER_S = 1.0  # when a server does not answer
TAG = re.compile(r"(?<!\w)#\w+")


class SlidingWindow:
    """Counts of what was added in the last `length_ms` before the newest. Adding is O(1) for each item that leaves."""

    def __init__(self, length_ms: int) -> None:
        self._length_ms = length_ms
        self._items: deque[tuple[int, str]] = deque()
        self._counts: Counter[str] = Counter()

    def add(self, time_ms: int, names: Iterable[str]) -> None:
        """Whatever is older than the window by then leaves it. Times may be out of order by little."""
        for name in names:
            self._items.append((time_ms, name))
            self._counts[name] += 1
        while self._items and self._items[0][0] <= time_ms - self._length_ms:
            _, name = self._items.popleft()
            self._counts[name] -= 1
            if not self._counts[name]:
                del self._counts[name]

    def top(self, count: int) -> list[tuple[str, int]]:
        """The most frequent ones; of equal ones the first in the alphabet."""
        return sorted(self._counts.items(), key=lambda pair: (-pair[1], pair[0]))[:count]


def posted(values: list[bytes]) -> list[tuple[int, int]]:
    """Tweet and time of each posted event. What is not readable is not counted."""
    found = []
    for value in values:
        try:
            event = decode_activity(value)
        except Undecodable:
            continue
        if event.type is ActivityType.POSTED:
            found.append((event.other_id, event.published_ms))
    return found


def tags_of(opened: Stores, tweet_ids: list[int]) -> dict[int, set[str]]:
    """The tags of those of these tweets that are live."""
    return {body.id: {tag.lower() for tag in TAG.findall(body.text)} for body in read_live(opened.bodies, tweet_ids)}


def create_app(bootstrap: str, opened: Stores) -> faust.App:
    """The app with its one agent; it needs no tables, and makes no topics."""
    app = faust.App(
        f"trending-hashtags-{secrets.token_hex(4)}",  # a group of its own: it begins now
        broker=f"kafka://{bootstrap}",
        value_serializer="raw",
        topic_allow_declare=False,
        topic_disable_leader=True,
        consumer_auto_offset_reset="latest",
        worker_redirect_stdouts=False,
        web_enabled=False,
        datadir=tempfile.mkdtemp(prefix="trending-hashtags-"),  # Faust wants one; tables would be kept there
    )
    window = SlidingWindow(WINDOW_MS)

    @app.agent(app.topic(ACTIVITY.name, value_serializer="raw"))  # type: ignore[untyped-decorator]
    async def trending(values: AsyncIterator[bytes]) -> None:
        shown: list[tuple[str, int]] = []
        async for events in values.take_events(BATCH_MAX, within=BATCH_WITHIN_S):  # type: ignore[attr-defined]
            # What a replay has sent is no news: it was counted when it came first.
            tweets = posted([event.value for event in events if not is_replayed(event.headers)])
            tags = await patiently(opened, [tweet_id for tweet_id, _ in tweets])
            for tweet_id, time_ms in tweets:
                window.add(time_ms, tags.get(tweet_id, ()))
            if window.top(TOP) != shown:
                shown = window.top(TOP)
                print(json.dumps({"trending": shown}), flush=True)

    return app


async def patiently(opened: Stores, tweet_ids: list[int]) -> dict[int, set[str]]:
    """No exception may leave an agent: the batch would count as processed."""
    while True:
        try:
            return await asyncio.to_thread(tags_of, opened, tweet_ids)
        except DependencyError:
            await asyncio.sleep(AGAIN_AFTER_S)


def main() -> None:
    settings = load_settings(os.environ)
    with stores(settings) as opened:
        app = create_app(settings.need("kafka_bootstrap"), opened)
        # Standard output is for our lines alone.
        worker = faust.Worker(app, loglevel="warn", quiet=True, stdout=sys.stderr, redirect_stdouts=False)
        worker.execute_from_commandline()


if __name__ == "__main__":
    main()
