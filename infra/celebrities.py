"""Questions to the database about celebrities: who is one, and whom of them a user follows."""

from collections.abc import Iterator, Mapping, Sequence

import sqlalchemy as sa

from infra.database import reading

USERS_MAX = 500  # of one query

_CELEBRITIES = sa.text(
    """
    SELECT follower_id, array_agg(author_id ORDER BY author_id) FROM follows
    JOIN users ON users.id = author_id AND status IN ('both', 'pull')
    WHERE follower_id = ANY (CAST(:ids AS bigint[]))
    GROUP BY follower_id
    """
)

_ALL = sa.text("SELECT id FROM users WHERE status <> 'push' AND id > :after ORDER BY id LIMIT :wanted")


def celebrities_of(engine: sa.Engine, user_ids: Sequence[int]) -> Mapping[int, frozenset[int]]:
    """The celebrities whom each of these users follows."""
    found = dict.fromkeys(user_ids, frozenset[int]())
    for start in range(0, len(user_ids), USERS_MAX):
        with reading(engine) as connection:
            rows = connection.execute(_CELEBRITIES, {"ids": list(user_ids[start : start + USERS_MAX])})
            found |= {row[0]: frozenset(row[1]) for row in rows}
    return found


def all_celebrities(engine: sa.Engine) -> Iterator[list[int]]:
    """Everybody whose tweets are not simply pushed, in batches of up to `USERS_MAX`, by id."""
    after = 0
    while True:
        with reading(engine) as connection:
            batch = list(connection.execute(_ALL, {"after": after, "wanted": USERS_MAX}).scalars())
        if not batch:
            return
        yield batch
        after = batch[-1]
