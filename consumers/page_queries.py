"""The reader's questions to the database: below the floor, during a rebuild, and who is a celebrity."""

import sqlalchemy as sa

from infra.database import reading
from infra.ids import ID_MAX
from infra.timelines import Kind

# The authors of a home page: the followed ones, celebrities too, and the reader himself.
_AUTHORS = {
    Kind.HOME: "SELECT author_id FROM follows WHERE follower_id = :user UNION SELECT CAST(:user AS bigint)",
    Kind.USER: "SELECT CAST(:user AS bigint) AS author_id",
}

_PAGE = """
    SELECT tweet.id FROM ({authors}) AS author
    CROSS JOIN LATERAL (
        SELECT id FROM live_tweets
        WHERE author_id = author.author_id AND id < :below AND id > :above
        ORDER BY id {order} LIMIT :wanted
    ) AS tweet
    ORDER BY tweet.id {order} LIMIT :wanted
"""

_BELOW = {kind: sa.text(_PAGE.format(authors=authors, order="DESC")) for kind, authors in _AUTHORS.items()}
_ABOVE = {kind: sa.text(_PAGE.format(authors=authors, order="ASC")) for kind, authors in _AUTHORS.items()}

_CELEBRITIES = sa.text(
    "SELECT author_id FROM follows JOIN users ON users.id = author_id AND status IN ('both', 'pull') "
    "WHERE follower_id = :user"
)


def below(engine: sa.Engine, kind: Kind, user_id: int, max_id: int | None, wanted: int) -> list[int]:
    """Up to `wanted` live tweet ids below `max_id`, newest first."""
    limits = {"user": user_id, "below": ID_MAX if max_id is None else max_id, "above": 0, "wanted": wanted}
    with reading(engine) as connection:
        return list(connection.execute(_BELOW[kind], limits).scalars())


def above(engine: sa.Engine, kind: Kind, user_id: int, min_id: int, max_id: int | None, wanted: int) -> list[int]:
    """Up to `wanted` live tweet ids above `min_id` and below `max_id`, oldest first."""
    limits = {"user": user_id, "below": ID_MAX if max_id is None else max_id, "above": min_id, "wanted": wanted}
    with reading(engine) as connection:
        return list(connection.execute(_ABOVE[kind], limits).scalars())


def celebrities(engine: sa.Engine, user_id: int) -> list[int]:
    """The celebrities whom a user follows."""
    with reading(engine) as connection:
        return list(connection.execute(_CELEBRITIES, {"user": user_id}).scalars())


def user_exists(engine: sa.Engine, user_id: int) -> bool:
    """Whether there is such a user."""
    with reading(engine) as connection:
        return bool(connection.execute(_USER, {"id": user_id}).scalar())


_USER = sa.text("SELECT 1 FROM users WHERE id = :id AND deleted_at IS NULL")
