"""A view that joins late: how many live tweets each author has, in SQLite, right from the first tweet on.

    python docs/examples/late_view.py prepare authors.db       # 1. notes where the log ends now: the seam
    fanfold replay --source database --topic authors-backfill --execute
    python docs/examples/late_view.py run authors.db --backfill authors-backfill
    python docs/examples/late_view.py show authors.db

The third step begins once the second one says that the replay is done: what a paused one has not sent yet would lack.
The seam is noted before the replay begins. Whatever was posted before it is in the replay, whatever comes behind it is
read from the log, and what is in both is one row: the tweet's id is the key. So there is no gap and no double. Deletes
behind the seam are read after the replay, and a tweet that is dead by then is left out. Stopped or killed anywhere,
`run` goes on where it was. Without `--backfill` it reads the log from its beginning, as far as its retention goes back.
"""

import argparse
import json
import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from confluent_kafka import Consumer

from consumers.tweet_stream import TweetStream
from consumers.tweet_stream_events import Deleted, Event, Posted
from consumers.tweet_stream_filter import Filter
from consumers.tweet_stream_options import Commit, StreamOptions
from infra.composition import stores
from infra.events import ActivityType
from infra.log_start import Start, start_offsets
from infra.settings import load_settings
from infra.topics import ACTIVITY
from infra.tweet_bodies import TweetBodies

GROUP = "late-view"
ONLY = Filter(types=frozenset({ActivityType.POSTED, ActivityType.DELETED}))
BATCH_EVENTS_MAX = 500  # of one transaction

TABLES = """
    CREATE TABLE IF NOT EXISTS tweets (id INTEGER PRIMARY KEY, author INTEGER NOT NULL);
    CREATE TABLE IF NOT EXISTS seam (partition INTEGER PRIMARY KEY, next_offset INTEGER NOT NULL);
    CREATE TABLE IF NOT EXISTS backfilled (topic TEXT PRIMARY KEY);
"""


class View:
    """The rows, and where the log is joined."""

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path)
        self._database.executescript(TABLES)

    def prepare(self, bootstrap: str, topic: str) -> dict[int, int]:
        """Notes the seam, once: a second call leaves the first one, which the backfill began behind."""
        if not (seam := self.seam()):
            consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": GROUP})
            seam = start_offsets(consumer, topic, Start.now())
            consumer.close()
            with self._database:
                self._database.executemany("INSERT INTO seam VALUES (?, ?)", seam.items())
        return seam

    def seam(self) -> dict[int, int]:
        """The offset of each partition at which reading live begins; nothing before `prepare`."""
        return dict(self._database.execute("SELECT partition, next_offset FROM seam"))

    def apply(self, events: Sequence[Event]) -> None:
        """Idempotent by the tweets' ids; in the order of the events."""
        with self._database:
            for event in events:
                match event:
                    case Posted(tweet=tweet) if tweet is not None:  # else it is dead by now
                        row = event.tweet_id, event.author_id
                        self._database.execute("INSERT OR IGNORE INTO tweets VALUES (?, ?)", row)
                    case Deleted():
                        self._database.execute("DELETE FROM tweets WHERE id = ?", (event.tweet_id,))

    def backfill(self, bootstrap: str, bodies: TweetBodies, topic: str) -> None:
        """Reads a replay to its end, once; after a crash on the way from its beginning."""
        if self._database.execute("SELECT 1 FROM backfilled WHERE topic = ?", (topic,)).fetchone():
            return
        options = StreamOptions(start=Start.beginning(), only=ONLY, follow=False, topic=topic)
        with TweetStream(bootstrap, options, bodies) as stream:
            for batch in stream.batches(BATCH_EVENTS_MAX):
                self.apply(batch)
        with self._database:
            self._database.execute("INSERT INTO backfilled VALUES (?)", (topic,))

    def follow(self, stream: TweetStream) -> None:
        """Goes on live until the stream is stopped. A crash before the commit of a batch brings it again."""
        for batch in stream.batches(BATCH_EVENTS_MAX):
            self.apply(batch)

    def counts(self) -> dict[int, int]:
        """The number of live tweets of each author."""
        return dict(self._database.execute("SELECT author, count(*) FROM tweets GROUP BY author ORDER BY author"))

    def close(self) -> None:
        """Ends it."""
        self._database.close()


def live_options(view: View, group: str = GROUP, topic: str = ACTIVITY.name) -> StreamOptions:
    """Where the group has a place it goes on there, and else at the seam; without one at the beginning of the log."""
    seam = view.seam()
    start = Start.offsets(seam) if seam else Start.beginning()
    return StreamOptions(group=group, start=start, only=ONLY, commit=Commit.AFTER_EACH, topic=topic)


def main() -> None:
    """One of prepare, run and show."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("prepare", "run", "show"))
    parser.add_argument("database", type=Path)
    parser.add_argument("--backfill", metavar="TOPIC", help="the topic that the replay was sent to")
    parser.add_argument("--topic", default=ACTIVITY.name, help="the log (default: activity)")
    parser.add_argument("--group", default=GROUP)
    given = parser.parse_args()
    settings, view = load_settings(os.environ), View(given.database)
    try:
        match given.step:
            case "prepare":
                view.prepare(settings.need("kafka_bootstrap"), given.topic)
            case "run":
                _run(view, given)
            case _:
                print(json.dumps(view.counts()))
    finally:
        view.close()


def _run(view: View, given: argparse.Namespace) -> None:
    settings = load_settings(os.environ)
    bootstrap = settings.need("kafka_bootstrap")
    if given.backfill and not view.seam():
        raise SystemExit("note the seam first: late_view.py prepare, before the replay begins")
    with stores(settings) as opened:
        if given.backfill:
            view.backfill(bootstrap, opened.bodies, given.backfill)
        with TweetStream(bootstrap, live_options(view, given.group, given.topic), opened.bodies) as stream:
            stream.stop_on_signals()
            view.follow(stream)


if __name__ == "__main__":
    main()
