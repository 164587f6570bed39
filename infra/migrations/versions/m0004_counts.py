"""Likes, counts of tweets, and how far `fanfold counters` has folded the logs."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Changes the tables to what they were on the day of this migration."""
    for statement in STATEMENTS:
        op.execute(sa.text(statement))


STATEMENTS = (
    """
    CREATE TABLE likes (
        tweet_id bigint NOT NULL,
        user_id bigint NOT NULL,
        PRIMARY KEY (tweet_id, user_id)
    )
    """,
    "CREATE INDEX likes_by_user ON likes (user_id, tweet_id)",
    """
    CREATE TABLE tweet_counts (
        tweet_id bigint PRIMARY KEY,
        likes bigint NOT NULL DEFAULT 0,
        retweets bigint NOT NULL DEFAULT 0,
        replies bigint NOT NULL DEFAULT 0,
        CONSTRAINT tweet_counts_not_negative CHECK (likes >= 0 AND retweets >= 0 AND replies >= 0)
    )
    """,
    "CREATE TABLE counters (shard integer PRIMARY KEY, fold bigint NOT NULL)",
    "INSERT INTO counters (shard, fold) VALUES (0, 0)",
    """
    CREATE TABLE folded (
        topic text NOT NULL,
        partition integer NOT NULL,
        log_id text NOT NULL,
        next_offset bigint NOT NULL,
        PRIMARY KEY (topic, partition)
    )
    """,
    "CREATE INDEX tweets_by_parent ON tweets (reply_to) WHERE reply_to IS NOT NULL AND deleted_at IS NULL",
)
