"""What `bench read` needs beside the audience: celebrities, readers with many followees, and one with very many.

Written straight into the tables, before anybody reads; nothing of it passes the logs.
"""

import time
from dataclasses import dataclass

import numpy as np
import sqlalchemy as sa

from benchmarks.warm_state import HISTORY_MS, Audience
from infra.composition import Stores
from infra.database import reading, transaction
from infra.live_settings import set_live_settings
from infra.tweet_ids import EPOCH_MS, TIME_SHIFT

CELEBRITIES = 10
CELEBRITY_TWEETS = 60  # over the same month as the audience's history: a third of a page or so
FEW_FOLLOWEES = 200  # of each reader whose rebuild is measured
FEW_READERS = 20
MANY_TWEETS = 100  # of each author of the reader with very many


@dataclass(frozen=True, slots=True)
class Readers:
    """Who reads: users who follow no celebrity, users who follow ten, and those whose timelines are rebuilt."""

    plain: range
    with_celebrities: range
    few_followees: range
    many_followees: int


def fill_readers(
    stores: Stores, audience: Audience, timelines: int, many_followees: int, rng: np.random.Generator
) -> Readers:
    """Writes them. The second half of the audience follows all celebrities, and is above the threshold for that."""
    set_live_settings(stores.zookeeper, threshold=min(stores.timelines.live.threshold, timelines // 2))
    middle, end = audience.first + timelines // 2, audience.first + timelines
    first = end  # the ids above the audience's are free
    few = range(first + CELEBRITIES, first + CELEBRITIES + FEW_READERS)
    many = few.stop
    authors = many + 1
    last = authors + many_followees - 1
    start_ms = time.time_ns() // 1_000_000 - 60_000 - HISTORY_MS
    with transaction(stores.engine) as connection:
        connection.execute(_USERS, {"first": first, "last": last, "celebrities_below": few.start})
        connection.execute(_FOLLOW_ALL, {"from": middle, "to": end - 1, "first": first, "last": few.start - 1})
        connection.execute(_FOLLOW_ALL, {"from": many, "to": many, "first": authors, "last": last})
        connection.execute(_FOLLOW, _some_follows(few, audience, rng))
        connection.execute(_COUNTS, {"first": first, "last": few.start - 1, "followers": end - middle})
        for first_author, last_author, tweets in (
            (first, few.start - 1, CELEBRITY_TWEETS),
            (authors, last, MANY_TWEETS),
        ):
            who = {"first": first_author, "last": last_author, "numbered_from": audience.first}
            times = {"start": start_ms - EPOCH_MS, "step": HISTORY_MS // tweets, "shift": TIME_SHIFT, "epoch": EPOCH_MS}
            connection.execute(_TWEETS, {**who, **times, "tweets": tweets})
    with reading(stores.engine) as connection:
        connection.execute(sa.text("VACUUM ANALYZE users, follows, tweets"))
    return Readers(range(audience.first, middle), range(middle, end), few, many)


def _some_follows(readers: range, audience: Audience, rng: np.random.Generator) -> dict[str, list[int]]:
    """Each reader follows as many of the audience's authors."""
    count = min(FEW_FOLLOWEES, audience.authors)
    authors = [audience.first + rng.choice(audience.authors, count, replace=False) for _ in readers]
    return {"followers": np.repeat(np.array(readers), count).tolist(), "authors": np.concatenate(authors).tolist()}


_USERS = sa.text(
    """
    INSERT INTO users (id, handle, status)
    SELECT n, 'bench_' || n, CASE WHEN n < :celebrities_below THEN 'pull' ELSE 'push' END
    FROM generate_series(CAST(:first AS bigint), CAST(:last AS bigint)) AS n
    """
)
_FOLLOW_ALL = sa.text(
    """
    INSERT INTO follows (follower_id, author_id)
    SELECT follower, author FROM generate_series(CAST(:from AS bigint), CAST(:to AS bigint)) AS follower,
                                 generate_series(CAST(:first AS bigint), CAST(:last AS bigint)) AS author
    """
)
_FOLLOW = sa.text(
    "INSERT INTO follows (follower_id, author_id) "
    "SELECT * FROM unnest(CAST(:followers AS bigint[]), CAST(:authors AS bigint[]))"
)
_COUNTS = sa.text(
    """
    INSERT INTO follower_counts (author_id, followers)
    SELECT author, :followers FROM generate_series(CAST(:first AS bigint), CAST(:last AS bigint)) AS author
    """
)
# The authors in turn, evenly over the month. The author's number is where other ids have node and sequence.
_TWEETS = sa.text(
    """
    INSERT INTO tweets (id, author_id, text, created_at)
    SELECT ((CAST(:start AS bigint) + n * :step) << :shift) + author - :numbered_from, author, 'Tweet ' || n,
           to_timestamp((CAST(:start AS bigint) + :epoch + n * :step) / 1000.0)
    FROM generate_series(CAST(0 AS bigint), :tweets - 1) AS n,
         generate_series(CAST(:first AS bigint), CAST(:last AS bigint)) AS author
    """
)
