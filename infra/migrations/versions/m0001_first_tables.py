"""Users, follows, tweets, outbox, relays, imports, and the view of live tweets."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Creates the tables as they were on the day of this migration."""
    for statement in STATEMENTS:
        op.execute(sa.text(statement))


STATEMENTS = (
    """
    CREATE TABLE users (
        id bigint PRIMARY KEY CONSTRAINT users_id_positive CHECK (id > 0),
        handle text NOT NULL UNIQUE,
        status text NOT NULL DEFAULT 'push' CONSTRAINT users_status CHECK (status IN ('push', 'both', 'pull')),
        active_until timestamptz,
        created_at timestamptz NOT NULL DEFAULT now()
    )
    """,
    """
    CREATE TABLE follows (
        follower_id bigint NOT NULL,
        author_id bigint NOT NULL,
        created_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (follower_id, author_id),
        CONSTRAINT follows_another CHECK (follower_id <> author_id)
    )
    """,
    "CREATE INDEX follows_by_author ON follows (author_id, follower_id)",
    """
    CREATE TABLE tweets (
        id bigint PRIMARY KEY,
        author_id bigint NOT NULL,
        text text,
        reply_to bigint,
        retweet_of bigint,
        created_at timestamptz NOT NULL,
        deleted_at timestamptz
    )
    """,
    "CREATE INDEX tweets_by_author ON tweets (author_id, id DESC) WHERE deleted_at IS NULL",
    "CREATE INDEX tweets_by_original ON tweets (retweet_of) WHERE retweet_of IS NOT NULL",
    """
    CREATE TABLE outbox (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        aggregatetype text NOT NULL,
        aggregateid text NOT NULL,
        type text NOT NULL,
        payload text NOT NULL,
        created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
        sent_at timestamptz
    )
    """,
    "CREATE INDEX outbox_unsent ON outbox (id) WHERE sent_at IS NULL",
    "CREATE TABLE relays (shard integer PRIMARY KEY, sleeping boolean NOT NULL)",
    "INSERT INTO relays VALUES (0, false)",
    """
    CREATE TABLE imports (
        name text PRIMARY KEY,
        lines bigint NOT NULL,
        updated_at timestamptz NOT NULL DEFAULT now()
    )
    """,
    "CREATE INDEX users_active ON users (active_until) WHERE active_until IS NOT NULL",
    """
    CREATE VIEW live_tweets AS
    SELECT id, author_id, text, reply_to, retweet_of, created_at
    FROM tweets AS t
    WHERE deleted_at IS NULL
      AND (retweet_of IS NULL
           OR EXISTS (SELECT 1 FROM tweets AS o WHERE o.id = t.retweet_of AND o.deleted_at IS NULL))
    """,
)
