"""How far each partition of the workers' logs was worked off, for the guards of a worker that starts."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Changes the tables to what they were on the day of this migration."""
    for statement in STATEMENTS:
        op.execute(sa.text(statement))


STATEMENTS = (
    """
    CREATE TABLE worked_logs (
        topic text NOT NULL,
        partition integer NOT NULL,
        log_id text NOT NULL,
        next_offset bigint NOT NULL,
        worked_until timestamptz NOT NULL,
        PRIMARY KEY (topic, partition)
    )
    """,
)
