"""fold: a batch of reactions and of events of authors becomes rows of likes and counts, in one transaction, exactly
once.

Input: a batch and the state that the last fold left. Output: rows, the next state, and the counts that changed. The
transaction begins by raising the number of folds by compare and set, and ends with how far each partition was folded.
So folds have one order, a crash repeats none, and a process that another one has overtaken writes nothing.

Likes change counts by the rows that really came and went. Retweets and replies are counted anew, whatever an event
says, so reading it twice does no harm. Next: streams/folded_nodes.py tells the clusters.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import sqlalchemy as sa

from infra.counts import SHARD, FoldedCounts, TweetCounts
from infra.database import limit_waits, reading, transaction
from infra.errors import Superseded
from infra.reactions import Reaction, ReactionType, reactions_partition
from infra.topics import ACTIVITY, REACTIONS

Place = tuple[str, int]  # topic and partition
Pair = tuple[int, int]  # tweet and user
FOLDED = (ACTIVITY, REACTIONS)

DEAD_LIKES_MAX = 5_000  # likes of deleted tweets that go in one transaction: 50 ms


@dataclass(frozen=True, slots=True)
class FoldState:
    """What the last fold left: its number, and where each partition goes on. `log_ids`: Kafka's ids of the topics."""

    fold: int
    next_offsets: Mapping[Place, int]
    log_ids: Mapping[str, str]

    def offset_of(self, tweet_id: int) -> int:
        """Where the partition of the reactions to a tweet goes on."""
        return self.next_offsets.get((REACTIONS.name, reactions_partition(tweet_id)), 0)


@dataclass(frozen=True, slots=True)
class Batch:
    """What was read: the last word of each pair of tweet and user, the tweets that events name, and how far it goes."""

    words: Mapping[Pair, bool] = field(default_factory=dict)
    named: frozenset[int] = frozenset()
    next_offsets: Mapping[Place, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Touched:
    """What events changed by the database as it is now: tweets whose retweets and replies are to be counted, and tweets
    that are deleted."""

    counted: frozenset[int] = frozenset()
    dead: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Folded:
    """What a fold left, and the counts of every tweet that it was about."""

    state: FoldState
    counts: Mapping[int, FoldedCounts]


def last_words(reactions: Sequence[Reaction]) -> dict[Pair, bool]:
    """Of each user about each tweet what he said last: whether he likes it. In the order of their log."""
    return {(one.tweet_id, one.user_id): one.type is ReactionType.LIKED for one in reactions}


def read_touched(engine: sa.Engine, named: Collection[int], alive: Callable[[], None] = lambda: None) -> Touched:
    """What the tweets that events name touch. Likes of dead ones are removed here."""
    if not named:
        return Touched()
    with reading(engine) as connection:
        rows = connection.execute(_NAMED, {"ids": list(named)}).all()
    counted = {one for row in rows for one in (row.reply_to, row.retweet_of) if one is not None}
    dead = [row.id for row in rows if row.deleted]
    remove_likes(engine, dead, alive)
    return Touched(frozenset(counted), frozenset(dead))


def remove_likes(engine: sa.Engine, dead: Sequence[int], alive: Callable[[], None]) -> None:
    """Removes the likes of deleted tweets, some in each transaction. They get no more, so it needs no order of folds; a
    fold under way elsewhere may add one, which goes with the fold that reads the delete."""
    removed = DEAD_LIKES_MAX
    while dead and removed == DEAD_LIKES_MAX:
        with transaction(engine) as connection:
            removed = connection.execute(_REMOVE_DEAD_LIKES, {"ids": list(dead), "limit": DEAD_LIKES_MAX}).rowcount
        alive()


def fold(engine: sa.Engine, state: FoldState, batch: Batch, touched: Touched) -> Folded:
    """One fold. Raises `Superseded` when another process has folded since `state`: nothing is written then."""
    new = replace(state, fold=state.fold + 1, next_offsets={**state.next_offsets, **batch.next_offsets})
    about = {tweet_id for tweet_id, _ in batch.words} | touched.counted | touched.dead
    with transaction(engine) as connection:
        raise_fold(connection, state.fold, new.fold)
        _fold_words(connection, batch.words)
        _bury(connection, touched.dead)
        recount(connection, touched.counted)
        write_offsets(connection, new, batch.next_offsets)
        counts = _read_counts(connection, about)
        # A crash before the commit folds nothing, and the batch is read again; one after it leaves nodes that have
        # missed this fold, and forget their counts when they hear of the next one.
    return Folded(new, {one: FoldedCounts(counts.get(one, TweetCounts()), new.offset_of(one)) for one in about})


def raise_fold(connection: sa.Connection, before: int, fold_number: int) -> None:
    """First in every transaction that writes counts: compare and set. Raises `Superseded`."""
    limit_waits(connection)
    if not connection.execute(_RAISE, {"shard": SHARD, "before": before, "fold": fold_number}).rowcount:
        raise Superseded(f"another process has folded counts since fold {before}")


def write_offsets(connection: sa.Connection, state: FoldState, places: Collection[Place]) -> None:
    """How far these partitions are folded."""
    if places:
        columns = {
            "topics": [topic for topic, _ in places],
            "partitions": [partition for _, partition in places],
            "log_ids": [state.log_ids[topic] for topic, _ in places],
            "offsets": [state.next_offsets[place] for place in places],
        }
        connection.execute(_OFFSETS, columns)


def recount(connection: sa.Connection, tweets: Collection[int]) -> None:
    """Counts the live retweets and replies of live tweets anew. The time grows with their number: 1 s for a million."""
    if tweets:
        connection.execute(_RECOUNT, {"ids": sorted(tweets)})


def read_state(engine: sa.Engine) -> FoldState:
    """What the last fold left. The number is read first: an old one with newer offsets is refused, but the other way
    round a fold would be done twice."""
    with reading(engine) as connection:
        number = connection.execute(_FOLD, {"shard": SHARD}).scalar_one()
        rows = connection.execute(_STATE).all()
    return FoldState(
        number,
        {(row.topic, row.partition): row.next_offset for row in rows},
        {row.topic: row.log_id for row in rows},
    )


def _fold_words(connection: sa.Connection, words: Mapping[Pair, bool]) -> None:
    """A like of a user or a tweet that is deleted by now is none: what is deleted never gets likes again."""
    change: dict[int, int] = {}
    for statement, wanted, sign in ((_LIKE, True, 1), (_UNLIKE, False, -1)):
        pairs = sorted(pair for pair, likes in words.items() if likes is wanted)
        if pairs:
            columns = {"tweets": [tweet for tweet, _ in pairs], "users": [user for _, user in pairs]}
            for tweet_id, rows in connection.execute(statement, columns):
                change[tweet_id] = change.get(tweet_id, 0) + sign * rows
    for statement, changed in (
        (_RAISE_LIKES, {one: by for one, by in sorted(change.items()) if by > 0}),
        (_LOWER_LIKES, {one: by for one, by in sorted(change.items()) if by < 0}),
    ):
        if changed:
            connection.execute(statement, {"ids": list(changed), "changes": list(changed.values())})


def _bury(connection: sa.Connection, dead: Collection[int]) -> None:
    if dead:
        connection.execute(_REMOVE_DEAD_LIKES, {"ids": list(dead), "limit": DEAD_LIKES_MAX})
        connection.execute(_REMOVE_DEAD_COUNTS, {"ids": list(dead)})


def _read_counts(connection: sa.Connection, about: Collection[int]) -> dict[int, TweetCounts]:
    rows = connection.execute(_COUNTS, {"ids": list(about)})
    return {row.tweet_id: TweetCounts(row.likes, row.retweets, row.replies) for row in rows}


_RAISE = sa.text("UPDATE counters SET fold = :fold WHERE shard = :shard AND fold = :before")
_FOLD = sa.text("SELECT fold FROM counters WHERE shard = :shard")
_STATE = sa.text("SELECT topic, partition, log_id, next_offset FROM folded")
_OFFSETS = sa.text(
    """
    INSERT INTO folded (topic, partition, log_id, next_offset)
    SELECT * FROM unnest(CAST(:topics AS text[]), CAST(:partitions AS integer[]), CAST(:log_ids AS text[]),
                         CAST(:offsets AS bigint[]))
    ON CONFLICT (topic, partition) DO UPDATE SET log_id = excluded.log_id, next_offset = excluded.next_offset
    """
)
_NAMED = sa.text(
    """
    SELECT id, reply_to, retweet_of, deleted_at IS NOT NULL AS deleted
    FROM tweets WHERE id = ANY (CAST(:ids AS bigint[]))
      AND (reply_to IS NOT NULL OR retweet_of IS NOT NULL OR deleted_at IS NOT NULL)
    """
)
_LIKE = sa.text(
    """
    WITH added AS (
        INSERT INTO likes (tweet_id, user_id)
        SELECT word.tweet_id, word.user_id
        FROM unnest(CAST(:tweets AS bigint[]), CAST(:users AS bigint[])) AS word (tweet_id, user_id)
        JOIN tweets ON tweets.id = word.tweet_id AND tweets.deleted_at IS NULL
        JOIN users ON users.id = word.user_id AND users.deleted_at IS NULL
        ON CONFLICT DO NOTHING RETURNING tweet_id
    )
    SELECT tweet_id, count(*) FROM added GROUP BY tweet_id
    """
)
_UNLIKE = sa.text(
    """
    WITH gone AS (
        DELETE FROM likes USING unnest(CAST(:tweets AS bigint[]), CAST(:users AS bigint[])) AS word (tweet_id, user_id)
        WHERE likes.tweet_id = word.tweet_id AND likes.user_id = word.user_id RETURNING likes.tweet_id
    )
    SELECT tweet_id, count(*) FROM gone GROUP BY tweet_id
    """
)
_RAISE_LIKES = sa.text(
    """
    INSERT INTO tweet_counts (tweet_id, likes)
    SELECT * FROM unnest(CAST(:ids AS bigint[]), CAST(:changes AS bigint[]))
    ON CONFLICT (tweet_id) DO UPDATE SET likes = tweet_counts.likes + excluded.likes
    """
)
# Apart, since a row that is proposed for insertion is checked before it is found to be there.
_LOWER_LIKES = sa.text(
    """
    UPDATE tweet_counts SET likes = likes + change.by
    FROM unnest(CAST(:ids AS bigint[]), CAST(:changes AS bigint[])) AS change (tweet_id, by)
    WHERE tweet_counts.tweet_id = change.tweet_id
    """
)
_REMOVE_DEAD_LIKES = sa.text(
    """
    DELETE FROM likes WHERE (tweet_id, user_id) IN (
        SELECT tweet_id, user_id FROM likes WHERE tweet_id = ANY (CAST(:ids AS bigint[])) LIMIT :limit
    )
    """
)
_REMOVE_DEAD_COUNTS = sa.text("DELETE FROM tweet_counts WHERE tweet_id = ANY (CAST(:ids AS bigint[]))")
_RECOUNT = sa.text(
    """
    INSERT INTO tweet_counts (tweet_id, retweets, replies)
    SELECT tweets.id,
           (SELECT count(*) FROM tweets AS one WHERE one.retweet_of = tweets.id AND one.deleted_at IS NULL),
           (SELECT count(*) FROM tweets AS one WHERE one.reply_to = tweets.id AND one.deleted_at IS NULL)
    FROM tweets WHERE tweets.id = ANY (CAST(:ids AS bigint[])) AND tweets.deleted_at IS NULL
    ON CONFLICT (tweet_id) DO UPDATE SET retweets = excluded.retweets, replies = excluded.replies
    """
)
_COUNTS = sa.text(
    "SELECT tweet_id, likes, retweets, replies FROM tweet_counts WHERE tweet_id = ANY (CAST(:ids AS bigint[]))"
)
