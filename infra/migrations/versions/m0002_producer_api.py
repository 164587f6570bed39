"""Blocks, former follows, idempotency keys, bearer tokens and deleted users; the outbox holds unsent rows only."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Changes the tables to what they were on the day of this migration."""
    for statement in STATEMENTS:
        op.execute(sa.text(statement))


STATEMENTS = (
    "ALTER TABLE users ADD COLUMN deleted_at timestamptz, ADD COLUMN erased_at timestamptz",
    "CREATE INDEX users_deleted ON users (id) WHERE deleted_at IS NOT NULL",
    """
    CREATE TABLE blocks (
        blocker_id bigint NOT NULL,
        blocked_id bigint NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (blocker_id, blocked_id),
        CONSTRAINT blocks_another CHECK (blocker_id <> blocked_id)
    )
    """,
    "CREATE INDEX blocks_by_blocked ON blocks (blocked_id, blocker_id)",
    """
    CREATE TABLE idempotency_keys (
        user_id bigint NOT NULL,
        key text NOT NULL,
        request_hash bytea NOT NULL,
        answer text NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (user_id, key)
    )
    """,
    "CREATE INDEX idempotency_keys_by_age ON idempotency_keys (created_at)",
    """
    CREATE TABLE bearer_tokens (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        user_id bigint NOT NULL,
        secret_hash bytea NOT NULL,
        scopes text NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        revoked_at timestamptz
    )
    """,
    "CREATE INDEX bearer_tokens_by_user ON bearer_tokens (user_id)",
    """
    CREATE TABLE former_follows (
        follower_id bigint NOT NULL,
        author_id bigint NOT NULL,
        PRIMARY KEY (follower_id, author_id)
    )
    """,
    """
    INSERT INTO former_follows
    SELECT DISTINCT CAST(CAST(payload AS json) ->> 'follower_id' AS bigint), CAST(aggregateid AS bigint)
    FROM outbox WHERE type = 'unfollowed'
    """,
    "DELETE FROM outbox WHERE sent_at IS NOT NULL",
    "DROP INDEX outbox_unsent",
    "ALTER TABLE outbox DROP COLUMN sent_at",
    "ALTER TABLE outbox ADD COLUMN traceparent text",
)
