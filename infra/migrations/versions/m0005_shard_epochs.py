"""The highest epochs of the shard map that were planned and written."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Changes the tables to what they were on the day of this migration."""
    for statement in STATEMENTS:
        op.execute(sa.text(statement))


STATEMENTS = (
    """
    CREATE TABLE shard_epochs (
        deployment integer PRIMARY KEY,
        planned bigint NOT NULL,
        written bigint NOT NULL,
        CONSTRAINT shard_epochs_one CHECK (deployment = 0),
        CONSTRAINT shard_epochs_order CHECK (planned >= written AND written >= 0)
    )
    """,
    "INSERT INTO shard_epochs (deployment, planned, written) VALUES (0, 0, 0)",
)
