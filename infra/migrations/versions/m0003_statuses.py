"""How many followers each author has, and how far his status has come."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Changes the tables to what they were on the day of this migration."""
    for statement in STATEMENTS:
        op.execute(sa.text(statement))


STATEMENTS = (
    "CREATE TABLE follower_counts (author_id bigint PRIMARY KEY, followers bigint NOT NULL)",
    "INSERT INTO follower_counts SELECT author_id, count(*) FROM follows GROUP BY author_id",
    "CREATE INDEX follower_counts_by_followers ON follower_counts (followers)",
    """
    ALTER TABLE users
        ADD COLUMN status_before text NOT NULL DEFAULT 'push',
        ADD COLUMN status_event bigint,
        ADD CONSTRAINT users_status_before CHECK (status_before IN ('push', 'both', 'pull'))
    """,
    "CREATE INDEX users_celebrities ON users (id) WHERE status <> 'push'",
)
