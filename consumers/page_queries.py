"""The reader's questions to the database: ids of a page below the floor or during a rebuild."""

import sqlalchemy as sa

from infra.database import reading
from infra.ids import ID_MAX
from infra.timeline_windows import Span
from infra.timelines import Kind

# The authors of a home page: the followed ones, celebrities too, and the reader himself.
_AUTHORS = {
    Kind.HOME: "SELECT author_id FROM follows WHERE follower_id = :user UNION SELECT CAST(:user AS bigint)",
    Kind.USER: "SELECT CAST(:user AS bigint) AS author_id",
}

# First the nearest tweet of each author: a page of n comes from the n authors whose nearest tweets are nearest, and no
# tweet of it is further than the furthest of these. So one row is read of most authors.
_IDS = """
    WITH nearest AS MATERIALIZED (
        SELECT author.author_id, tweet.id FROM ({authors}) AS author
        CROSS JOIN LATERAL (
            SELECT id FROM live_tweets
            WHERE author_id = author.author_id AND id {beyond} CAST(:cursor AS bigint)
            ORDER BY id {order} LIMIT 1
        ) AS tweet
        ORDER BY tweet.id {order} LIMIT :count
    )
    SELECT tweet.id FROM nearest
    CROSS JOIN LATERAL (
        SELECT id FROM live_tweets
        WHERE author_id = nearest.author_id AND id {beyond} CAST(:cursor AS bigint)
          AND id {within} (SELECT CASE WHEN count(*) < :count THEN {furthest} ELSE {last}(id) END FROM nearest)
        ORDER BY id {order} LIMIT :count
    ) AS tweet
    ORDER BY tweet.id {order} LIMIT :count
"""

_DOWN = {"order": "DESC", "beyond": "<", "within": ">=", "last": "min", "furthest": 0}
_UP = {"order": "ASC", "beyond": ">=", "within": "<=", "last": "max", "furthest": ID_MAX}
_BELOW = {kind: sa.text(_IDS.format(authors=authors, **_DOWN)) for kind, authors in _AUTHORS.items()}
_FROM = {kind: sa.text(_IDS.format(authors=authors, **_UP)) for kind, authors in _AUTHORS.items()}

_USER = sa.text("SELECT 1 FROM users WHERE id = :id AND deleted_at IS NULL")


def ids_of(engine: sa.Engine, kind: Kind, user_id: int, span: Span) -> list[int]:
    """The live tweet ids of a span, the nearest to its cursor first."""
    query = _FROM[kind] if span.upwards else _BELOW[kind]
    cursor = ID_MAX if span.cursor is None else min(span.cursor, ID_MAX)
    with reading(engine) as connection:
        limits = {"user": user_id, "cursor": cursor, "count": span.count}
        return list(connection.execute(query, limits).scalars())


def user_exists(engine: sa.Engine, user_id: int) -> bool:
    """Whether there is such a user."""
    with reading(engine) as connection:
        return bool(connection.execute(_USER, {"id": user_id}).scalar())
