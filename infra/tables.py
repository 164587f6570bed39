"""The tables: the truth. Ids are 64-bit; migrations/ creates exactly these.

There are no foreign keys: COPY would check each line twice, and every writer here locks and checks the rows it names.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    func,
    text,
)

metadata = MetaData()

users = Table(
    "users",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("handle", Text, nullable=False, unique=True),
    Column("status", Text, nullable=False, server_default="push"),
    Column("active_until", DateTime(timezone=True)),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("deleted_at", DateTime(timezone=True)),  # gone for everybody; then tweets and follows go
    Column("erased_at", DateTime(timezone=True)),  # and then all of it is gone but this row: its id stays taken
    Column("status_before", Text, nullable=False, server_default="push"),
    Column("status_event", BigInteger),  # the outbox id of the event that told the status; none before the first
    CheckConstraint("status IN ('push', 'both', 'pull')", name="users_status"),
    CheckConstraint("status_before IN ('push', 'both', 'pull')", name="users_status_before"),
    CheckConstraint("id > 0", name="users_id_positive"),
    Index("users_active", "active_until", postgresql_where=text("active_until IS NOT NULL")),
    Index("users_deleted", "id", postgresql_where=text("deleted_at IS NOT NULL")),
    Index("users_celebrities", "id", postgresql_where=text("status <> 'push'")),
)

follows = Table(
    "follows",
    metadata,
    Column("follower_id", BigInteger, primary_key=True, autoincrement=False),
    Column("author_id", BigInteger, primary_key=True, autoincrement=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    CheckConstraint("follower_id <> author_id", name="follows_another"),
    Index("follows_by_author", "author_id", "follower_id"),
)

# How many rows of `follows` each author has; changed with them, under the author's lock. A row may say 0.
follower_counts = Table(
    "follower_counts",
    metadata,
    Column("author_id", BigInteger, primary_key=True, autoincrement=False),
    Column("followers", BigInteger, nullable=False),
    Index("follower_counts_by_followers", "followers"),
)

# Who once followed whom and unfollowed: what may have been in a timeline, for the audit.
former_follows = Table(
    "former_follows",
    metadata,
    Column("follower_id", BigInteger, primary_key=True, autoincrement=False),
    Column("author_id", BigInteger, primary_key=True, autoincrement=False),
)

# Neither follows the other while a row is here.
blocks = Table(
    "blocks",
    metadata,
    Column("blocker_id", BigInteger, primary_key=True, autoincrement=False),
    Column("blocked_id", BigInteger, primary_key=True, autoincrement=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    CheckConstraint("blocker_id <> blocked_id", name="blocks_another"),
    Index("blocks_by_blocked", "blocked_id", "blocker_id"),
)

tweets = Table(
    "tweets",
    metadata,
    Column("id", BigInteger, primary_key=True, autoincrement=False),
    Column("author_id", BigInteger, nullable=False),
    Column("text", Text),
    Column("reply_to", BigInteger),
    Column("retweet_of", BigInteger),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("deleted_at", DateTime(timezone=True)),
    Index("tweets_by_author", "author_id", text("id DESC"), postgresql_where=text("deleted_at IS NULL")),
    Index("tweets_by_original", "retweet_of", postgresql_where=text("retweet_of IS NOT NULL")),
    Index("tweets_by_parent", "reply_to", postgresql_where=text("reply_to IS NOT NULL AND deleted_at IS NULL")),
)

# Who likes which tweet, as far as the reactions log was folded. Written by `fanfold counters` only.
likes = Table(
    "likes",
    metadata,
    Column("tweet_id", BigInteger, primary_key=True, autoincrement=False),
    Column("user_id", BigInteger, primary_key=True, autoincrement=False),
    Index("likes_by_user", "user_id", "tweet_id"),
)

# The counts of live tweets that have or had any, changed in the transaction that changes what they count.
tweet_counts = Table(
    "tweet_counts",
    metadata,
    Column("tweet_id", BigInteger, primary_key=True, autoincrement=False),
    Column("likes", BigInteger, nullable=False, server_default="0"),
    Column("retweets", BigInteger, nullable=False, server_default="0"),
    Column("replies", BigInteger, nullable=False, server_default="0"),
    CheckConstraint("likes >= 0 AND retweets >= 0 AND replies >= 0", name="tweet_counts_not_negative"),
)

# One row: the number of folds, which every fold raises by compare and set. So folds have one order.
counters = Table(
    "counters",
    metadata,
    Column("shard", Integer, primary_key=True, autoincrement=False),
    Column("fold", BigInteger, nullable=False),
)

# How far each partition was folded, written with the fold's effect; `log_id` is Kafka's id of the topic.
folded = Table(
    "folded",
    metadata,
    Column("topic", Text, primary_key=True),
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("log_id", Text, nullable=False),
    Column("next_offset", BigInteger, nullable=False),
)

# How far the workers were seen to have worked off each partition of their logs: all before `next_offset`, and all that
# was published before `worked_until`. Kafka's committed offsets are what they go on from; this is how a worker that
# starts knows that something is missing. `log_id` is Kafka's id of the topic.
worked_logs = Table(
    "worked_logs",
    metadata,
    Column("topic", Text, primary_key=True),
    Column("partition", Integer, primary_key=True, autoincrement=False),
    Column("log_id", Text, nullable=False),
    Column("next_offset", BigInteger, nullable=False),
    Column("worked_until", DateTime(timezone=True), nullable=False),
)

# Debezium's outbox columns; `type` is the CloudEvents type. The relay deletes what it has sent.
outbox = Table(
    "outbox",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("aggregatetype", Text, nullable=False),
    Column("aggregateid", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("payload", Text, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.clock_timestamp()),
    Column("traceparent", Text),
)

# One row a relay shard: whether its relay sleeps and wants to be woken.
relays = Table(
    "relays",
    metadata,
    Column("shard", Integer, primary_key=True, autoincrement=False),
    Column("sleeping", Boolean, nullable=False),
)

# What a call with an idempotency key was answered, for a day; written in the call's transaction.
idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("user_id", BigInteger, primary_key=True, autoincrement=False),
    Column("key", Text, primary_key=True),
    Column("request_hash", LargeBinary, nullable=False),
    Column("answer", Text, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Index("idempotency_keys_by_age", "created_at"),
)

# Who may act as whom over HTTP. Of a token's secret only the SHA-256 is kept. Scopes: words separated by spaces.
bearer_tokens = Table(
    "bearer_tokens",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("user_id", BigInteger, nullable=False),
    Column("secret_hash", LargeBinary, nullable=False),
    Column("scopes", Text, nullable=False),
    Column("created_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
    Column("revoked_at", DateTime(timezone=True)),
    Index("bearer_tokens_by_user", "user_id"),
)

# How far each imported file got; written with the rows it brought.
imports = Table(
    "imports",
    metadata,
    Column("name", Text, primary_key=True),
    Column("lines", BigInteger, nullable=False),
    Column("updated_at", DateTime(timezone=True), nullable=False, server_default=func.now()),
)

# One row: the highest epochs of the shard map that were about to be written to ZooKeeper, and that are known to be
# there. Only ever raised. A ZooKeeper that lost its data begins again at lower ones, and is refused by these.
shard_epochs = Table(
    "shard_epochs",
    metadata,
    Column("deployment", Integer, primary_key=True, autoincrement=False),
    Column("planned", BigInteger, nullable=False),
    Column("written", BigInteger, nullable=False),
    CheckConstraint("deployment = 0", name="shard_epochs_one"),
    CheckConstraint("planned >= written AND written >= 0", name="shard_epochs_order"),
)

# Beside these, the view `live_tweets`: tweets that timelines may show, not deleted and their originals neither.
