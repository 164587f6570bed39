"""Tweets from a file: ids made from their times, the rows, and their events. Next: relay.py."""

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta

import sqlalchemy as sa

from infra import outbox
from infra.events import Activity, ActivityType
from producers.import_files import Line
from producers.import_lines import UNIX_START, ImportedTweet, parse_tweet
from producers.import_rows import Numbered, Written, copy_rows
from producers.snowflake import snowflake


class TweetRows:
    """Tweets of users that are there."""

    kind = "tweets"
    tables = "tweets"

    def __init__(self, clock_ms: Callable[[], int]) -> None:
        self._clock_ms = clock_ms

    def is_header(self, _first: Line) -> bool:
        """JSON lines have none."""
        return False

    def parse(self, data: bytes) -> ImportedTweet:
        """A tweet without an id."""
        return parse_tweet(data, self._clock_ms())

    def stage(self, connection: sa.Connection, rows: Sequence[Numbered[ImportedTweet]]) -> None:
        """Line, author, text, time."""
        connection.execute(_STAGE)
        staged = (
            (number, tweet.author_id, tweet.text, UNIX_START + timedelta(milliseconds=tweet.time_ms))
            for number, tweet in rows
        )
        copy_rows(connection, "line, author_id, text, created_at", staged)

    def lock(self, connection: sa.Connection) -> None:
        """Nothing more."""

    def refused(self, connection: sa.Connection, rows: Sequence[Numbered[ImportedTweet]]) -> dict[int, str]:
        """The author must be there."""
        authors = list({tweet.author_id for _, tweet in rows})
        known = set(connection.execute(_KNOWN_USERS, {"ids": authors}).scalars())
        return {
            number: f"user {tweet.author_id} does not exist" for number, tweet in rows if tweet.author_id not in known
        }

    def write(self, connection: sa.Connection, rows: Sequence[Numbered[ImportedTweet]]) -> Written:
        """Each tweet gets the next free id of its millisecond."""
        ids = make_ids([tweet.time_ms for _, tweet in rows], lambda times_ms: _last_ids(connection, times_ms))
        connection.execute(_INSERT_TWEETS, {"lines": [number for number, _ in rows], "ids": ids})
        now_ms = self._clock_ms()
        events = [
            Activity(ActivityType.POSTED, tweet.author_id, tweet_id, now_ms)
            for tweet_id, (_, tweet) in zip(ids, rows, strict=True)
        ]
        outbox.append(connection, events)
        return Written(len(ids), events=len(events))

    def finish(self, connection: sa.Connection) -> None:
        """Nothing more."""


def make_ids(times_ms: Sequence[int], last_ids: Callable[[Sequence[int]], Mapping[int, int]]) -> list[int]:
    """An id for each time, in order, above all that its millisecond has: next sequence, next node, next millisecond.

    `last_ids` answers for milliseconds with the highest id in use; those without one are left out.
    """
    ids = [0] * len(times_ms)
    free: dict[int, int] = {}
    left = list(enumerate(times_ms))
    while left:
        unknown = sorted({time_ms for _, time_ms in left} - free.keys())
        used = last_ids(unknown) if unknown else {}
        free |= {time_ms: used.get(time_ms, snowflake(time_ms, 0, 0) - 1) + 1 for time_ms in unknown}
        full: list[tuple[int, int]] = []
        for place, time_ms in left:
            if free[time_ms] == snowflake(time_ms + 1, 0, 0):
                full.append((place, time_ms + 1))
            else:
                ids[place] = free[time_ms]
                free[time_ms] += 1
        left = full
    return ids


def _last_ids(connection: sa.Connection, times_ms: Sequence[int]) -> dict[int, int]:
    firsts = [snowflake(time_ms, 0, 0) for time_ms in times_ms]
    nexts = [snowflake(time_ms + 1, 0, 0) for time_ms in times_ms]
    rows = connection.execute(_LAST_IDS, {"times": list(times_ms), "firsts": firsts, "nexts": nexts})
    return {row.time_ms: row.id for row in rows}


_KNOWN_USERS = sa.text("SELECT id FROM users WHERE id = ANY (CAST(:ids AS bigint[])) AND deleted_at IS NULL")

_STAGE = sa.text(
    "CREATE TEMPORARY TABLE staged (line bigint, author_id bigint, text text, created_at timestamptz) ON COMMIT DROP"
)

_INSERT_TWEETS = sa.text(
    """
    INSERT INTO tweets (id, author_id, text, created_at)
    SELECT made.id, author_id, text, created_at
    FROM staged JOIN unnest(CAST(:lines AS bigint[]), CAST(:ids AS bigint[])) AS made (line, id) USING (line)
    ORDER BY made.id
    """
)

_LAST_IDS = sa.text(
    """
    SELECT asked.time_ms, used.id
    FROM unnest(CAST(:times AS bigint[]), CAST(:firsts AS bigint[]), CAST(:nexts AS bigint[]))
         AS asked (time_ms, first, next)
    CROSS JOIN LATERAL (
        SELECT id FROM tweets WHERE id >= asked.first AND id < asked.next ORDER BY id DESC LIMIT 1
    ) AS used
    """
)
