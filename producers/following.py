"""Following and blocking: rows and events in one transaction, each pair with its own result.

A follow is an event of the author who is followed. A block ends the follows both ways and forbids new ones.
"""

from collections.abc import Sequence

import sqlalchemy as sa

from infra import outbox
from infra.database import lock_authors
from infra.errors import Forbidden, NotFound, UseError
from infra.events import Activity, ActivityType

Pair = tuple[int, int]  # follower and author


def follow_batch(connection: sa.Connection, pairs: Sequence[Pair], now_ms: int) -> list[bool | UseError]:
    """For each pair whether that is new: False when he follows already."""
    lock_authors(connection, [author for _, author in pairs], [follower for follower, _ in pairs])
    refused = _missing(connection, pairs) | _blocked(connection, pairs)
    wanted = [pair for pair in pairs if pair not in refused]
    added = _changed(connection, _INSERT, wanted)
    _tell(connection, ActivityType.FOLLOWED, [pair for pair in dict.fromkeys(wanted) if pair in added], now_ms)
    return _results(pairs, refused, added)


def unfollow_batch(connection: sa.Connection, pairs: Sequence[Pair], now_ms: int) -> list[bool | UseError]:
    """For each pair whether that is new: False when he does not follow."""
    lock_authors(connection, [author for _, author in pairs], [follower for follower, _ in pairs])
    refused = _missing(connection, pairs)
    wanted = [pair for pair in pairs if pair not in refused]
    return _results(pairs, refused, set(remove_follows(connection, wanted, now_ms)))


def remove_follows(connection: sa.Connection, pairs: Sequence[Pair], now_ms: int) -> list[Pair]:
    """Removes those of these follows that are there, with their events; the caller holds their authors' locks."""
    gone = _changed(connection, _DELETE, pairs)
    removed = [pair for pair in dict.fromkeys(pairs) if pair in gone]
    _tell(connection, ActivityType.UNFOLLOWED, removed, now_ms)
    return removed


def block(connection: sa.Connection, blocker_id: int, blocked_id: int, now_ms: int) -> bool:
    """False when the block is there already. Ends the follows both ways in any case."""
    lock_authors(connection, [blocker_id, blocked_id])
    for error in _missing(connection, [(blocker_id, blocked_id)]).values():
        raise error
    new = connection.execute(_BLOCK, {"blocker": blocker_id, "blocked": blocked_id}).rowcount > 0
    remove_follows(connection, [(blocker_id, blocked_id), (blocked_id, blocker_id)], now_ms)
    return new


def unblock(connection: sa.Connection, blocker_id: int, blocked_id: int) -> bool:
    """False when there is no block. Nobody follows again by it."""
    lock_authors(connection, [blocker_id, blocked_id])
    for error in _missing(connection, [(blocker_id, blocked_id)]).values():
        raise error
    return connection.execute(_UNBLOCK, {"blocker": blocker_id, "blocked": blocked_id}).rowcount > 0


def _results(pairs: Sequence[Pair], refused: dict[Pair, UseError], changed: set[Pair]) -> list[bool | UseError]:
    """A pair that stands there twice is new the first time only."""
    results: list[bool | UseError] = []
    left = set(changed)
    for pair in pairs:
        results.append(refused.get(pair, pair in left))
        left.discard(pair)
    return results


def _missing(connection: sa.Connection, pairs: Sequence[Pair]) -> dict[Pair, UseError]:
    """The pairs that name a user who does not exist. Users are locked: none of them is deleted before the commit."""
    wanted = {user for pair in pairs for user in pair}
    found = set(connection.execute(_USERS, {"ids": list(wanted)}).scalars())
    if len(found) == len(wanted):
        return {}
    return {
        pair: NotFound(f"user {next(user for user in pair if user not in found)} does not exist")
        for pair in pairs
        if not found.issuperset(pair)
    }


def _blocked(connection: sa.Connection, pairs: Sequence[Pair]) -> dict[Pair, UseError]:
    rows = connection.execute(_BLOCKS, _columns(pairs)).all()
    reason = "user {} blocks user {}, so neither can follow the other"
    return {(row.f, row.a): Forbidden(reason.format(row.blocker_id, row.blocked_id)) for row in rows}


def _changed(connection: sa.Connection, statement: sa.TextClause, pairs: Sequence[Pair]) -> set[Pair]:
    if not pairs:
        return set()
    return {(row.follower_id, row.author_id) for row in connection.execute(statement, _columns(pairs))}


def _tell(connection: sa.Connection, kind: ActivityType, pairs: Sequence[Pair], now_ms: int) -> None:
    outbox.append(connection, [Activity(kind, author, follower, now_ms) for follower, author in pairs])


def _columns(pairs: Sequence[Pair]) -> dict[str, list[int]]:
    return {"followers": [follower for follower, _ in pairs], "authors": [author for _, author in pairs]}


_USERS = sa.text("SELECT id FROM users WHERE id = ANY (CAST(:ids AS bigint[])) AND deleted_at IS NULL")

# Both count the followers of each author as well: his lock is held, so no other transaction has the row of his count.
_INSERT = sa.text(
    """
    WITH added AS (
        INSERT INTO follows (follower_id, author_id)
        SELECT * FROM unnest(CAST(:followers AS bigint[]), CAST(:authors AS bigint[]))
        ON CONFLICT DO NOTHING RETURNING follower_id, author_id
    ), counted AS (
        INSERT INTO follower_counts AS count (author_id, followers)
        SELECT author_id, count(*) FROM added GROUP BY author_id
        ON CONFLICT (author_id) DO UPDATE SET followers = count.followers + excluded.followers
    )
    SELECT follower_id, author_id FROM added
    """
)

_DELETE = sa.text(
    """
    WITH gone AS (
        DELETE FROM follows USING unnest(CAST(:followers AS bigint[]), CAST(:authors AS bigint[])) AS pair (f, a)
        WHERE follower_id = pair.f AND author_id = pair.a RETURNING follower_id, author_id
    ), noted AS (
        INSERT INTO former_follows SELECT follower_id, author_id FROM gone ON CONFLICT DO NOTHING
    ), counted AS (
        UPDATE follower_counts SET followers = followers - lost.many
        FROM (SELECT author_id, count(*) AS many FROM gone GROUP BY author_id) AS lost
        WHERE follower_counts.author_id = lost.author_id
    )
    SELECT follower_id, author_id FROM gone
    """
)

_BLOCKS = sa.text(
    """
    SELECT f, a, blocker_id, blocked_id
    FROM unnest(CAST(:followers AS bigint[]), CAST(:authors AS bigint[])) AS pair (f, a)
    JOIN blocks ON (blocker_id = f AND blocked_id = a) OR (blocker_id = a AND blocked_id = f)
    """
)

_BLOCK = sa.text("INSERT INTO blocks (blocker_id, blocked_id) VALUES (:blocker, :blocked) ON CONFLICT DO NOTHING")

_UNBLOCK = sa.text("DELETE FROM blocks WHERE blocker_id = :blocker AND blocked_id = :blocked")
