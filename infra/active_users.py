"""Active users, in groups of about the same lifetime: whoever goes over all of them reads them here.

Next: repair.py and anti_entropy.py.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import takewhile

import sqlalchemy as sa

from infra.database import reading
from infra.rebuild import ACTIVE_MARGIN

READ_USERS = 2_000  # of one look: 20 kB of keys and a few milliseconds of a node
LIFETIME_SPAN = timedelta(days=1)  # of users who are read together: the shortest of their lifetimes goes for all

# Users who become active later, or again, come behind those of before.
_ACTIVE = sa.text(
    """
    SELECT id, active_until FROM users WHERE (active_until, id) > (:until, :after)
    ORDER BY active_until, id LIMIT :wanted
    """
)
_COUNT = sa.text("SELECT count(*) FROM users WHERE active_until > :until")


def active_groups(engine: sa.Engine) -> Iterator[tuple[list[int], int]]:
    """All active users whose timelines may still live, in groups of about the same lifetime: users, and seconds.

    A copy that is built now lives for as long as the other ones may: repair makes nobody active for longer.
    """
    until, after = datetime.now(UTC) + ACTIVE_MARGIN, 0
    while True:
        with reading(engine) as connection:
            rows = connection.execute(_ACTIVE, {"until": until, "after": after, "wanted": READ_USERS}).all()
        if not rows:
            return
        last = rows[0].active_until + LIFETIME_SPAN
        taken = list(takewhile(lambda row: row.active_until <= last, rows))  # noqa: B023 - used up at once
        ttl_s = int((rows[0].active_until - ACTIVE_MARGIN - datetime.now(UTC)).total_seconds())
        yield [row.id for row in taken], ttl_s
        until, after = taken[-1].active_until, taken[-1].id


def count_active(engine: sa.Engine) -> int:
    """How many users a pass will look at."""
    with reading(engine) as connection:
        return int(connection.execute(_COUNT, {"until": datetime.now(UTC) + ACTIVE_MARGIN}).scalar_one())
