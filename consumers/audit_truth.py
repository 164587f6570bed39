"""The audit's questions to the database: who is active, and what each home timeline must hold.

Written apart from the rebuild's and the readers' queries, from the tables and without the view of live tweets: a
checker must not share the bug that it looks for. Next: audit_compare.py.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from consumers.audit_compare import Expected
from consumers.audit_report import TweetFacts
from infra.database import reading
from infra.tweet_bodies import Body

# The status and the original are looked up row by row: no statistics can make the planner read a whole table for each
# reader. Each author's newest are enough, since the newest of a union are among the newest of its parts.
_EXPECTED = sa.text(
    """
    SELECT reader.id, count(entry.id), coalesce(string_agg(CAST(entry.id AS text), ' ' ORDER BY entry.id), '')
    FROM unnest(CAST(:users AS bigint[])) AS reader (id)
    LEFT JOIN LATERAL (
        SELECT posted.id
        FROM follows AS pair
        CROSS JOIN LATERAL (
            SELECT t.id FROM tweets AS t
            WHERE t.author_id = pair.author_id AND t.deleted_at IS NULL
              AND (t.retweet_of IS NULL
                   OR (SELECT o.deleted_at IS NULL FROM tweets AS o WHERE o.id = t.retweet_of))
            ORDER BY t.id DESC
            LIMIT :limit
        ) AS posted
        WHERE pair.follower_id = reader.id
          AND (SELECT u.status <> 'pull' FROM users AS u WHERE u.id = pair.author_id)
        ORDER BY posted.id DESC
        LIMIT :limit
    ) AS entry ON true
    GROUP BY reader.id
    """
)

# What may once have been in a timeline: tweets that are deleted by now, of authors who were unfollowed or became
# celebrities.
_FLOORS = sa.text(
    """
    WITH pair AS (
        SELECT follower_id, author_id FROM follows WHERE follower_id = ANY (CAST(:users AS bigint[]))
        UNION
        SELECT follower_id, author_id FROM former_follows WHERE follower_id = ANY (CAST(:users AS bigint[]))
    )
    SELECT follower_id, id
    FROM (
        SELECT pair.follower_id, t.id, row_number() OVER (PARTITION BY pair.follower_id ORDER BY t.id DESC) AS place
        FROM pair JOIN tweets AS t ON t.author_id = pair.author_id
    ) AS once
    WHERE place = :length
    """
)

_ACTIVE = sa.text("SELECT id FROM users WHERE active_until > now() AND id > :after ORDER BY id LIMIT :wanted")
_SAMPLE = sa.text("SELECT id FROM users WHERE active_until > now() ORDER BY random() LIMIT :wanted")
_COUNT = sa.text("SELECT count(*) FROM users WHERE active_until > now()")

_FACTS = sa.text(
    """
    SELECT t.author_id,
           t.deleted_at IS NULL AND (t.retweet_of IS NULL OR o.deleted_at IS NULL AND o.id IS NOT NULL),
           u.status = 'pull',
           EXISTS (SELECT 1 FROM follows WHERE follower_id = :user AND author_id = t.author_id)
    FROM tweets AS t
    JOIN users AS u ON u.id = t.author_id
    LEFT JOIN tweets AS o ON o.id = t.retweet_of
    WHERE t.id = :tweet
    """
)


def count_active(engine: sa.Engine) -> int:
    """How many users are active."""
    with reading(engine) as connection:
        return int(connection.execute(_COUNT).scalar_one())


def sample_active(engine: sa.Engine, wanted: int) -> list[int]:
    """Up to `wanted` active users, drawn at random."""
    with reading(engine) as connection:
        return sorted(connection.execute(_SAMPLE, {"wanted": wanted}).scalars())


def active_batches(engine: sa.Engine, size: int) -> Iterator[list[int]]:
    """All active users in batches, by id."""
    after = 0
    while True:
        with reading(engine) as connection:
            batch = list(connection.execute(_ACTIVE, {"after": after, "wanted": size}).scalars())
        if not batch:
            return
        yield batch
        after = batch[-1]


def read_expected(engine: sa.Engine, users: Sequence[int], limit: int) -> dict[int, Expected]:
    """The newest `limit` live tweets of the followed authors who are not celebrities, for each user."""
    with reading(engine) as connection:
        rows = connection.execute(_EXPECTED, {"users": list(users), "limit": limit})
        return {user_id: Expected(user_id, ids.encode("ascii"), count, limit) for user_id, count, ids in rows}


def read_floors(engine: sa.Engine, users: Sequence[int], length: int) -> dict[int, int]:
    """The highest floor that each user's timeline can have by right, where removals took entries above it: the
    `length`-th newest of all that may once have been there. Users with fewer are left out."""
    if not users:
        return {}
    with reading(engine) as connection:
        rows = connection.execute(_FLOORS, {"users": list(users), "length": length})
        return {row.follower_id: row.id for row in rows}


def read_facts(engine: sa.Engine, user_id: int, tweet_id: int) -> TweetFacts | None:
    """Why a tweet belongs into a user's home timeline or not; None when there is no such tweet."""
    with reading(engine) as connection:
        row = connection.execute(_FACTS, {"user": user_id, "tweet": tweet_id}).one_or_none()
        return None if row is None else TweetFacts(*row)


_OWN = sa.text(
    """
    SELECT author.id, count(posted.id), coalesce(string_agg(CAST(posted.id AS text), ' ' ORDER BY posted.id), '')
    FROM unnest(CAST(:users AS bigint[])) AS author (id)
    LEFT JOIN LATERAL (
        SELECT t.id FROM tweets AS t
        WHERE t.author_id = author.id AND t.deleted_at IS NULL
          AND (t.retweet_of IS NULL OR (SELECT o.deleted_at IS NULL FROM tweets AS o WHERE o.id = t.retweet_of))
        ORDER BY t.id DESC
        LIMIT :limit
    ) AS posted ON true
    GROUP BY author.id
    """
)

_OWN_FLOORS = sa.text(
    """
    SELECT author_id, id
    FROM (
        SELECT author_id, id, row_number() OVER (PARTITION BY author_id ORDER BY id DESC) AS place
        FROM tweets WHERE author_id = ANY (CAST(:users AS bigint[]))
    ) AS once
    WHERE place = :length
    """
)

_CELEBRITIES = sa.text(
    """
    SELECT pair.follower_id, pair.author_id
    FROM follows AS pair JOIN users AS u ON u.id = pair.author_id AND u.status <> 'push'
    WHERE pair.follower_id = ANY (CAST(:users AS bigint[]))
    """
)

_BODIES = sa.text(
    """
    SELECT t.id, t.author_id, t.text, t.created_at, t.reply_to, t.retweet_of, t.deleted_at IS NOT NULL AS deleted,
           t.retweet_of IS NOT NULL AND (o.id IS NULL OR o.deleted_at IS NOT NULL) AS hidden
    FROM tweets AS t LEFT JOIN tweets AS o ON o.id = t.retweet_of
    WHERE t.id = ANY (CAST(:ids AS bigint[]))
    """
)


@dataclass(frozen=True, slots=True)
class Stored:
    """A tweet as the database has it."""

    body: Body
    deleted: bool
    hidden: bool  # what it repeats was deleted

    @property
    def live(self) -> bool:
        """Whether readers may see it."""
        return not self.deleted and not self.hidden


def read_own(engine: sa.Engine, users: Sequence[int], limit: int) -> dict[int, Expected]:
    """The newest `limit` live tweets of each user himself."""
    with reading(engine) as connection:
        rows = connection.execute(_OWN, {"users": list(users), "limit": limit})
        return {user_id: Expected(user_id, ids.encode("ascii"), count, limit) for user_id, count, ids in rows}


def read_own_floors(engine: sa.Engine, users: Sequence[int], length: int) -> dict[int, int]:
    """As `read_floors`, of user timelines."""
    with reading(engine) as connection:
        rows = connection.execute(_OWN_FLOORS, {"users": list(users), "length": length})
        return {row.author_id: row.id for row in rows}


def read_celebrities(engine: sa.Engine, users: Sequence[int]) -> dict[int, set[int]]:
    """The authors whom each user follows and who are not simply pushed."""
    found: dict[int, set[int]] = {user_id: set() for user_id in users}
    with reading(engine) as connection:
        for follower_id, author_id in connection.execute(_CELEBRITIES, {"users": list(users)}):
            found[follower_id].add(author_id)
    return found


def read_bodies(engine: sa.Engine, ids: Sequence[int]) -> dict[int, Stored]:
    """These tweets, deleted ones among them."""
    with reading(engine) as connection:
        rows = connection.execute(_BODIES, {"ids": list(ids)}).all()
    return {row.id: Stored(Body(*row[:6]), row.deleted, row.hidden) for row in rows}
