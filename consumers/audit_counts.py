"""The audit of counts: rows against what they count, and what each cluster holds against the rows.

Written apart from the fold's queries: a checker must not share the bug that it looks for. What differs is looked at
again with fresh reads before it counts, since the system may be live. applied.py waits before it.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import sqlalchemy as sa

from consumers.audit_pauses import LOOK_AGAIN_AFTER_S, Pauses
from consumers.audit_report import DIFFERENCES_SAID_MAX
from infra import redis_keys
from infra.counts import TweetCounts, decode_counts
from infra.database import reading
from infra.redis_clusters import RedisClusters
from infra.shard_map import CLUSTERS

BATCH_TWEETS = 2_000  # one call a node: some 10 ms of its time

Pause = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class WrongCounts:
    """One tweet whose counts are wrong: in its row, in a cluster, or as likes of a tweet that is deleted."""

    tweet_id: int
    where: str  # row, likes, or cluster and its letter
    has: TweetCounts
    wanted: TweetCounts

    def in_words(self) -> str:
        """One sentence."""
        return f"tweet {self.tweet_id}, {self.where}: counts are {_said(self.has)}, and must be {_said(self.wanted)}"


@dataclass(frozen=True, slots=True)
class CountsResult:
    """What an audit of counts found: tweets compared, and wrong ones in rows and in each cluster."""

    tweets: int
    held: int  # counts that clusters held
    wrong_rows: int
    wrong_held: Mapping[str, int]
    differences: tuple[str, ...]

    @property
    def wrong(self) -> int:
        """All that is wrong."""
        return self.wrong_rows + sum(self.wrong_held.values())

    def as_json(self) -> dict[str, object]:
        """What `fanfold audit --json` prints under `counts`."""
        return {
            "tweets": self.tweets,
            "held": self.held,
            "wrong_rows": self.wrong_rows,
            "wrong_held": dict(self.wrong_held),
            "differences": list(self.differences),
        }


def audit_counts(
    engine: sa.Engine, clusters: RedisClusters, *, sample: int | None = None, pause: Pause = time.sleep
) -> CountsResult:
    """Compares the counts of all tweets, or of `sample` random ones. Raises `DatabaseUnavailable` and
    `RedisUnavailable`."""
    tweets = held = 0
    pauses = Pauses(pause)
    wrong: list[WrongCounts] = []
    wrong_by = dict.fromkeys(("row", "likes", *CLUSTERS), 0)
    for ids in _batches(engine, sample):
        look = _Look(engine, clusters, ids, pauses)
        tweets, held = tweets + len(ids), held + look.held
        for one in _confirmed(engine, clusters, look, pauses):
            wrong_by[one.where.removeprefix("cluster ")] += 1
            wrong += [one] if len(wrong) < DIFFERENCES_SAID_MAX else []
    rows = wrong_by.pop("row") + wrong_by.pop("likes")
    return CountsResult(tweets, held, rows, wrong_by, tuple(one.in_words() for one in wrong))


class _Look:
    """One look at the counts of some tweets: what clusters hold first, then what they must be."""

    def __init__(self, engine: sa.Engine, clusters: RedisClusters, ids: Sequence[int], pauses: Pauses) -> None:
        copies = {cluster: pauses.answered(partial(_held, clusters, cluster, ids)) for cluster in CLUSTERS}
        rows, wanted = _rows(engine, _ROWS, ids), _rows(engine, _WANTED, ids)
        none = TweetCounts()
        self.held = sum(len(copy) for copy in copies.values())
        self.wrong = [
            WrongCounts(one, "row", rows.get(one, none), wanted.get(one, none))
            for one in ids
            if rows.get(one, none) != wanted.get(one, none)
        ]
        self.wrong += [WrongCounts(one, "likes", has, none) for one, has in _rows(engine, _STRAY, ids).items()]
        self.wrong += [
            WrongCounts(one, f"cluster {cluster}", has, rows.get(one, none))
            for cluster, copy in copies.items()
            for one, has in copy.items()
            if has != rows.get(one, none)
        ]


def _confirmed(engine: sa.Engine, clusters: RedisClusters, look: _Look, pauses: Pauses) -> list[WrongCounts]:
    """What every look finds; as the last one sees it."""
    for pause_s in LOOK_AGAIN_AFTER_S:
        if not look.wrong:
            break
        pauses.take(pause_s)
        places = {(one.tweet_id, one.where) for one in look.wrong}
        look = _Look(engine, clusters, sorted({tweet_id for tweet_id, _ in places}), pauses)
        look.wrong = [one for one in look.wrong if (one.tweet_id, one.where) in places]
    return look.wrong


def _held(clusters: RedisClusters, cluster: str, ids: Sequence[int]) -> dict[int, TweetCounts]:
    parts = clusters.shard_map.readable_by_node(cluster, ids)
    found: dict[int, TweetCounts] = {}
    for node, part in parts.items():
        shown = decode_counts(part, clusters.node(node).look("counts_read", *map(redis_keys.counts, part)))
        found |= {tweet_id: counts for tweet_id, counts in shown.items() if counts is not None}
    return found


def _rows(engine: sa.Engine, statement: sa.TextClause, ids: Sequence[int]) -> dict[int, TweetCounts]:
    with reading(engine) as connection:
        rows = connection.execute(statement, {"ids": list(ids)})
        return {row.id: TweetCounts(row.likes, row.retweets, row.replies) for row in rows}


def _batches(engine: sa.Engine, sample: int | None) -> Iterable[list[int]]:
    return _all(engine) if sample is None else _drawn(engine, sample)


def _all(engine: sa.Engine) -> Iterator[list[int]]:
    """Every id that is a tweet, or stands in a row of counts or likes."""
    above = 0
    while True:
        with reading(engine) as connection:
            ids = list(connection.execute(_IDS, {"above": above, "limit": BATCH_TWEETS}).scalars())
        if not ids:
            return
        yield ids
        above = ids[-1]


def _drawn(engine: sa.Engine, sample: int) -> Iterator[list[int]]:
    with reading(engine) as connection:
        ids = sorted(connection.execute(_SAMPLE, {"limit": sample}).scalars())
    for at in range(0, len(ids), BATCH_TWEETS):
        yield ids[at : at + BATCH_TWEETS]


def _said(counts: TweetCounts) -> str:
    return f"{counts.likes} likes, {counts.retweets} retweets, {counts.replies} replies"


_IDS = sa.text(
    """
    SELECT id FROM (
        (SELECT id FROM tweets WHERE id > :above ORDER BY id LIMIT :limit)
        UNION
        (SELECT tweet_id FROM tweet_counts WHERE tweet_id > :above ORDER BY tweet_id LIMIT :limit)
        UNION
        (SELECT tweet_id FROM likes WHERE tweet_id > :above GROUP BY tweet_id ORDER BY tweet_id LIMIT :limit)
    ) AS known ORDER BY id LIMIT :limit
    """
)
_SAMPLE = sa.text("SELECT id FROM tweets ORDER BY random() LIMIT :limit")
_ROWS = sa.text(
    "SELECT tweet_id AS id, likes, retweets, replies FROM tweet_counts WHERE tweet_id = ANY (CAST(:ids AS bigint[]))"
)
_STRAY = sa.text(
    """
    SELECT l.tweet_id AS id, count(*) AS likes, 0 AS retweets, 0 AS replies
    FROM likes AS l LEFT JOIN tweets AS t ON t.id = l.tweet_id AND t.deleted_at IS NULL
    WHERE l.tweet_id = ANY (CAST(:ids AS bigint[])) AND t.id IS NULL GROUP BY l.tweet_id
    """
)
# The likes of a user who is deleted are taken back while he is erased; then there must be none.
_WANTED = sa.text(
    """
    WITH live AS (SELECT id FROM tweets WHERE id = ANY (CAST(:ids AS bigint[])) AND deleted_at IS NULL),
    likes_of AS (
        SELECT l.tweet_id AS id, count(*) AS n
        FROM likes AS l JOIN users AS u ON u.id = l.user_id AND u.erased_at IS NULL
        WHERE l.tweet_id IN (SELECT id FROM live) GROUP BY l.tweet_id
    ),
    retweets_of AS (
        SELECT t.retweet_of AS id, count(*) AS n FROM tweets AS t
        WHERE t.retweet_of IN (SELECT id FROM live) AND t.deleted_at IS NULL GROUP BY t.retweet_of
    ),
    replies_of AS (
        SELECT t.reply_to AS id, count(*) AS n FROM tweets AS t
        WHERE t.reply_to IN (SELECT id FROM live) AND t.deleted_at IS NULL GROUP BY t.reply_to
    )
    SELECT live.id, coalesce(likes_of.n, 0) AS likes, coalesce(retweets_of.n, 0) AS retweets,
           coalesce(replies_of.n, 0) AS replies
    FROM live LEFT JOIN likes_of USING (id) LEFT JOIN retweets_of USING (id) LEFT JOIN replies_of USING (id)
    """
)
