"""What streams ask the database: which celebrities their users follow."""

from collections.abc import Mapping, Sequence

import sqlalchemy as sa

from infra.database import reading

USERS_MAX = 500  # of one query

_CELEBRITIES = sa.text(
    """
    SELECT follower_id, array_agg(author_id) FROM follows
    JOIN users ON users.id = author_id AND status IN ('both', 'pull')
    WHERE follower_id = ANY (CAST(:ids AS bigint[]))
    GROUP BY follower_id
    """
)


def celebrities_of(engine: sa.Engine, user_ids: Sequence[int]) -> Mapping[int, frozenset[int]]:
    """The celebrities whom each of these users follows, as a reader of their pages would find them."""
    found = dict.fromkeys(user_ids, frozenset[int]())
    for start in range(0, len(user_ids), USERS_MAX):
        with reading(engine) as connection:
            rows = connection.execute(_CELEBRITIES, {"ids": list(user_ids[start : start + USERS_MAX])})
            found |= {row[0]: frozenset(row[1]) for row in rows}
    return found
