"""Rebuild: timelines from the database by the one primitive: token, fresh read, merge if the token is still mine.

Deliveries stick to a timeline from the moment it holds a token, and the snapshot is read after that: what the snapshot
misses sticks, what both hold is one entry. A removal that meets a token replaces it, and the rebuild starts again.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import partial

import sqlalchemy as sa

from infra import metrics
from infra.database import IMPORT_LOCK, reading, transaction
from infra.errors import RedisUnavailable, TokenLost
from infra.shard_map import CLUSTERS
from infra.timelines import Kind, Snapshot, Timelines, new_token

BATCH_USERS_MAX = 500  # one rebuild: at most 400,000 entries in memory
ATTEMPTS_MAX = 20  # each lost token means that a removal came in between
ACTIVE_MARGIN = timedelta(days=1)  # active outlives every copy's time to live

Held = dict[str, list[int]]  # cluster → the users whose timelines hold our token there
Take = Callable[[Sequence[int], int], Held]  # users and a token

# Newest first up to one more than the length: the extra one, when there is one, is the floor.
# First a few of each author's newest tweets, twice as many in all as the timeline holds: nothing below the last of them
# that fits can be in it. So only an author who has all of his few above that is looked at again.
_HOME_SNAPSHOT = sa.text(
    """
    SELECT reader.id,
           coalesce(max(entry.id) FILTER (WHERE entry.place > :length), 0),
           coalesce(string_agg(entry.id::text, ' ' ORDER BY entry.id) FILTER (WHERE entry.place <= :length), '')
    FROM unnest(CAST(:users AS bigint[])) AS reader (id)
    LEFT JOIN LATERAL (
        WITH followed AS MATERIALIZED (
            SELECT author_id FROM follows
            WHERE follower_id = reader.id AND author_id NOT IN (SELECT id FROM users WHERE status = 'pull')
        ), depth AS MATERIALIZED (
            SELECT 1 + 2 * :length / greatest(count(*), 1) AS tweets FROM followed
        ), few AS MATERIALIZED (
            SELECT followed.author_id, tweet.id
            FROM followed CROSS JOIN LATERAL (
                SELECT id FROM live_tweets WHERE author_id = followed.author_id
                ORDER BY id DESC LIMIT (SELECT tweets FROM depth)
            ) AS tweet
        ), lowest AS MATERIALIZED (
            SELECT coalesce((SELECT id FROM few ORDER BY id DESC OFFSET :length LIMIT 1), 0) AS id
        ), deeper AS (
            SELECT author_id, min(id) AS below FROM few GROUP BY author_id
            HAVING count(*) = (SELECT tweets FROM depth) AND min(id) > (SELECT id FROM lowest)
        )
        SELECT tweet.id, row_number() OVER (ORDER BY tweet.id DESC) AS place
        FROM (
            SELECT id FROM few WHERE id >= (SELECT id FROM lowest)
            UNION ALL
            SELECT more.id FROM deeper CROSS JOIN LATERAL (
                SELECT id FROM live_tweets
                WHERE author_id = deeper.author_id AND id < deeper.below AND id >= (SELECT id FROM lowest)
                ORDER BY id DESC LIMIT :length
            ) AS more
        ) AS tweet
        ORDER BY tweet.id DESC
        LIMIT :length + 1
    ) AS entry ON true
    GROUP BY reader.id
    """
)

_USER_SNAPSHOT = sa.text(
    """
    SELECT author.id,
           coalesce(max(entry.id) FILTER (WHERE entry.place > :length), 0),
           coalesce(string_agg(entry.id::text, ' ' ORDER BY entry.id) FILTER (WHERE entry.place <= :length), '')
    FROM unnest(CAST(:users AS bigint[])) AS author (id)
    LEFT JOIN LATERAL (
        SELECT id, row_number() OVER (ORDER BY id DESC) AS place
        FROM live_tweets WHERE author_id = author.id ORDER BY id DESC LIMIT :length + 1
    ) AS entry ON true
    GROUP BY author.id
    """
)

_ACTIVATE = sa.text(
    """
    UPDATE users SET active_until = :until
    WHERE id = ANY (CAST(:users AS bigint[])) AND (active_until IS NULL OR active_until < :until - interval '1 hour')
    """
)


class Outcome(StrEnum):
    """What a rebuild did for one user."""

    REBUILT = "rebuilt"
    PRESENT = "present"
    BUSY = "busy"


def activate(engine: sa.Engine, users: Sequence[int], ttl_s: int, now: datetime) -> None:
    """Writes `active_until`. Before the snapshot, and under the import's lock: an import that sees no active user
    writes no follow events, so whoever becomes active after that look must read the follows it brought."""
    with transaction(engine) as connection:
        connection.execute(sa.text("SELECT pg_advisory_xact_lock_shared(:key)"), {"key": IMPORT_LOCK})
        connection.execute(_ACTIVATE, {"users": list(users), "until": now + timedelta(seconds=ttl_s) + ACTIVE_MARGIN})


def rebuild(
    engine: sa.Engine, timelines: Timelines, kind: Kind, users: Sequence[int], *, renew: Sequence[str] = ()
) -> dict[int, Outcome]:
    """Rebuilds the timelines of up to `BATCH_USERS_MAX` users in every copy that lacks them; idempotent.

    `renew` names clusters, usually all of them: there, one after another, present ones are rebuilt as well, and the
    others are left alone. Raises `TokenLost` after `ATTEMPTS_MAX` tries, and `RedisUnavailable` when a copy to renew
    cannot be written.
    """
    assert len(users) <= BATCH_USERS_MAX, "split the batch"
    timelines = timelines.steady()  # a longer time to live in between would outlast what makes the users active
    try:
        outcomes = _rebuild(engine, timelines, kind, users, renew=renew)
    except TokenLost:
        metrics.REBUILDS.labels(kind, "lost").inc(len(users))
        raise
    for outcome, count in Counter(outcomes.values()).items():
        metrics.REBUILDS.labels(kind, outcome).inc(count)
    return outcomes


def rebuild_each_copy(engine: sa.Engine, timelines: Timelines, kind: Kind, users: Sequence[int]) -> None:
    """Rebuilds timelines whatever they hold, also what should not be there. One copy after another, so that the others
    can be read meanwhile. Each is dropped first: a rebuild keeps what a present list holds, since deliveries may be in
    it that the snapshot lacks. Raises as `rebuild`."""
    for cluster in CLUSTERS if users else ():
        timelines.forget(cluster, kind.prefix, users)
        rebuild(engine, timelines, kind, users, renew=(cluster,))


def _rebuild(
    engine: sa.Engine, timelines: Timelines, kind: Kind, users: Sequence[int], *, renew: Sequence[str]
) -> dict[int, Outcome]:
    if kind is Kind.HOME:
        activate(engine, users, timelines.live.timeline_ttl_s, datetime.now(UTC))
    outcomes: dict[int, Outcome] = {}
    for cluster in renew:
        _repeat(engine, timelines, kind, users, partial(_renew, timelines, kind, cluster), must=True)
    if renew:
        return dict.fromkeys(users, Outcome.REBUILT)

    _repeat(engine, timelines, kind, users, partial(_claim, timelines, kind, outcomes), must=False)
    return outcomes


def read_snapshots(engine: sa.Engine, kind: Kind, users: Sequence[int], length: int) -> list[Snapshot]:
    """The newest `length` entries of each user's timeline, as the database has them at this moment."""
    query = _HOME_SNAPSHOT if kind is Kind.HOME else _USER_SNAPSHOT
    with reading(engine) as connection:
        rows = connection.execute(query, {"users": list(users), "length": length})
        return [Snapshot(user_id, floor, ids) for user_id, floor, ids in rows]


def _repeat(
    engine: sa.Engine, timelines: Timelines, kind: Kind, users: Sequence[int], take: Take, *, must: bool
) -> None:
    """Token, fresh read, merge; again for the timelines whose token was lost."""
    left = list(dict.fromkeys(users))
    for _ in range(ATTEMPTS_MAX):
        token = new_token()
        held = take(left, token)
        holders = sorted({user_id for part in held.values() for user_id in part})
        if not holders:
            return
        snapshots = read_snapshots(engine, kind, holders, timelines.live.timeline_entries)
        left = _merge(timelines, kind, held, snapshots, token, must)
        if not left:
            return
    raise TokenLost(f"{len(left)} timelines changed during {ATTEMPTS_MAX} rebuilds in a row, user {left[0]} among them")


def _claim(timelines: Timelines, kind: Kind, outcomes: dict[int, Outcome], users: Sequence[int], token: int) -> Held:
    """Single flight is decided on the first copy that lacks the timeline; its holder joins the others unasked."""
    held: Held = {}
    undecided, mine = list(users), list[int]()
    for cluster in CLUSTERS:
        joined = timelines.put_tokens(cluster, kind, mine, token, "join")
        claimed = timelines.put_tokens(cluster, kind, undecided, token, "claim")
        held[cluster] = [user_id for user_id, letter in (joined | claimed).items() if letter == "T"]
        mine += [user_id for user_id, letter in claimed.items() if letter == "T"]
        outcomes |= {user_id: Outcome.BUSY for user_id, letter in claimed.items() if letter == "B"}
        undecided = [user_id for user_id, letter in claimed.items() if letter in "PUD"]
    outcomes |= dict.fromkeys(mine, Outcome.REBUILT)
    for user_id in undecided:
        outcomes.setdefault(user_id, Outcome.PRESENT)
    return held


def _renew(timelines: Timelines, kind: Kind, cluster: str, users: Sequence[int], token: int) -> Held:
    letters = timelines.put_tokens(cluster, kind, users, token, "renew")
    if "U" in letters.values():
        raise RedisUnavailable(f"cluster {cluster} cannot be reached to rebuild its timelines")
    return {cluster: [user_id for user_id, letter in letters.items() if letter == "T"]}


def _merge(
    timelines: Timelines, kind: Kind, held: Held, snapshots: Sequence[Snapshot], token: int, must: bool
) -> list[int]:
    """The users whose token was lost in some copy. A copy that cannot be written stays absent, unless it `must`."""
    by_user = {snapshot.user_id: snapshot for snapshot in snapshots}
    lost: set[int] = set()
    for cluster, users in held.items():
        letters = timelines.merge(cluster, kind, [by_user[user_id] for user_id in users], token)
        if must and "U" in letters.values():
            raise RedisUnavailable(f"cluster {cluster} cannot be written to rebuild its timelines")
        lost |= {user_id for user_id, letter in letters.items() if letter == "L"}
    return sorted(lost)
