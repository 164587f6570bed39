"""Follows from a file: the pairs, the users they name, the events of the pairs, and the celebrities at the end."""

from collections.abc import Callable, Sequence

import sqlalchemy as sa

from infra import outbox
from infra.events import Activity, ActivityType
from infra.status import Status, side
from producers.import_files import Line
from producers.import_lines import Columns, Follow, parse_follow, read_header
from producers.import_rows import Numbered, Written, copy_rows


class FollowRows:
    """Follows, and the users they name."""

    kind = "follows"
    tables = "users, follows"

    def __init__(self, threshold: int, clock_ms: Callable[[], int]) -> None:
        self._threshold = threshold
        self._clock_ms = clock_ms
        self._columns = Columns()

    def is_header(self, first: Line) -> bool:
        """Also remembers the order of the columns."""
        columns = read_header(first.data)
        self._columns = columns or Columns()
        return columns is not None

    def parse(self, data: bytes) -> Follow:
        """A pair of user ids."""
        return parse_follow(data, self._columns)

    def stage(self, connection: sa.Connection, rows: Sequence[Numbered[Follow]]) -> None:
        """Line, follower, author."""
        connection.execute(_STAGE)
        copy_rows(connection, "line, follower_id, author_id", ((number, *pair) for number, pair in rows))

    def lock(self, connection: sa.Connection) -> None:
        """Users: they are also created without the lock that imports and publishes share."""
        connection.execute(_LOCK_USERS)

    def refused(self, connection: sa.Connection, rows: Sequence[Numbered[Follow]]) -> dict[int, str]:
        """A missing user cannot be created when another one has the handle he would get; a deleted one is gone, and a
        block stays in force."""
        ids = sorted({user_id for _, pair in rows for user_id in pair})
        reasons = {
            row.id: f"user {row.id} cannot be created: user {row.holder} has the handle u{row.id}"
            for row in connection.execute(_HANDLE_TAKEN, {"ids": ids})
        }
        reasons |= {
            user_id: f"user {user_id} is deleted" for user_id in connection.execute(_DELETED, {"ids": ids}).scalars()
        }
        refused = {
            number: reasons[user_id]
            for number, pair in (rows if reasons else ())
            for user_id in pair
            if user_id in reasons
        }
        for row in connection.execute(_BLOCKS, _columns(rows)):
            refused.setdefault(row.line, f"user {row.blocker_id} blocks user {row.blocked_id}")
        return refused

    def write(self, connection: sa.Connection, rows: Sequence[Numbered[Follow]]) -> Written:
        """Writes no `followed` events while nobody is active and no tweet was ever posted: whoever becomes active later
        reads the follows, and no worker holds an author's followers yet, which only his events would correct."""
        users = connection.execute(_INSERT_USERS).rowcount
        if not connection.execute(_EVENTS_ARE_NEEDED).scalar_one():
            return Written(connection.execute(_INSERT_FOLLOWS).scalar_one(), users)
        added = {(row.follower_id, row.author_id) for row in connection.execute(_INSERT_FOLLOWS_RETURNING)}
        in_order = dict.fromkeys(pair for _, pair in rows if pair in added)
        now_ms = self._clock_ms()
        outbox.append(connection, [Activity(ActivityType.FOLLOWED, a, f, now_ms) for f, a in in_order])
        return Written(len(added), users, len(added))

    def finish(self, connection: sa.Connection) -> None:
        """Sets the status of the new celebrities, while nobody has to be told."""
        if connection.execute(_EVENTS_ARE_NEEDED).scalar_one():
            return  # the status keeper takes them there, with the events that tell everybody
        rows = connection.execute(_PUSHED, {"threshold": self._threshold}).all()
        pulled = [row.id for row in rows if side(Status.PUSH, row.followers, self._threshold) is Status.PULL]
        connection.execute(_PULL, {"ids": pulled})


def _columns(rows: Sequence[Numbered[Follow]]) -> dict[str, list[int]]:
    return {
        "lines": [number for number, _ in rows],
        "followers": [follower for _, (follower, _) in rows],
        "authors": [author for _, (_, author) in rows],
    }


# The users it would create whose handle somebody else has. The inner SELECTs make it look up each user by an index,
# whatever the statistics say: they are old during an import, and a join would read all users for every batch.
_HANDLE_TAKEN = sa.text(
    """
    SELECT id, holder
    FROM (
        SELECT id, (SELECT users.id FROM users WHERE users.handle = 'u' || missing.id) AS holder
        FROM unnest(CAST(:ids AS bigint[])) AS missing (id)
        WHERE (SELECT users.id FROM users WHERE users.id = missing.id) IS NULL
        OFFSET 0
    ) AS looked_up
    WHERE holder IS NOT NULL
    """
)

_DELETED = sa.text("SELECT id FROM users WHERE deleted_at IS NOT NULL AND id = ANY (CAST(:ids AS bigint[]))")

_BLOCKS = sa.text(
    """
    SELECT line, blocker_id, blocked_id
    FROM blocks
    JOIN unnest(CAST(:lines AS bigint[]), CAST(:followers AS bigint[]), CAST(:authors AS bigint[])) AS new (line, f, a)
      ON (blocker_id = f AND blocked_id = a) OR (blocker_id = a AND blocked_id = f)
    """
)

_LOCK_USERS = sa.text("LOCK TABLE users IN SHARE ROW EXCLUSIVE MODE")

_STAGE = sa.text("CREATE TEMPORARY TABLE staged (line bigint, follower_id bigint, author_id bigint) ON COMMIT DROP")

_INSERT_USERS = sa.text(
    """
    INSERT INTO users (id, handle)
    SELECT id, 'u' || id FROM (SELECT follower_id FROM staged UNION SELECT author_id FROM staged) AS named (id)
    ORDER BY id
    ON CONFLICT (id) DO NOTHING
    """
)

# The authors' followers are counted as well.
_ADDED = """
    WITH added AS (
        INSERT INTO follows (follower_id, author_id)
        SELECT follower_id, author_id FROM staged ORDER BY follower_id, author_id
        ON CONFLICT DO NOTHING RETURNING follower_id, author_id
    ), counted AS (
        INSERT INTO follower_counts AS count (author_id, followers)
        SELECT author_id, count(*) FROM added GROUP BY author_id
        ON CONFLICT (author_id) DO UPDATE SET followers = count.followers + excluded.followers
    )
"""
_INSERT_FOLLOWS, _INSERT_FOLLOWS_RETURNING = (
    sa.text(f"{_ADDED} SELECT {columns} FROM added")  # noqa: S608 - both are written here
    for columns in ("count(*)", "follower_id, author_id")
)

_EVENTS_ARE_NEEDED = sa.text(
    "SELECT (SELECT coalesce(max(active_until) > now(), false) FROM users) OR EXISTS (SELECT FROM tweets)"
)

_PUSHED = sa.text(
    """
    SELECT id, followers FROM follower_counts JOIN users ON id = author_id
    WHERE followers >= :threshold AND status = 'push'
    """
)
_PULL = sa.text("UPDATE users SET status = 'pull' WHERE id = ANY (CAST(:ids AS bigint[]))")
