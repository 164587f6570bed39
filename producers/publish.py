"""Publish: what users do, as rows and events in one transaction (G1). Singles are batches of one.

Each transaction takes the locks of its events' authors before any write, so an author's outbox ids are in commit order
(G2). A batch that breaks a rule changes nothing. Next: relay.py.
"""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

import sqlalchemy as sa

from infra import outbox
from infra.database import AUTHOR_LOCKS_MAX, lock_authors, transaction
from infra.errors import Conflict, Forbidden, InvalidInput, NotFound
from infra.events import Activity, ActivityType
from infra.tweet_bodies import TweetBodies
from producers.rules import check_handle, check_id, check_not_self, check_text
from producers.snowflake import NODES, Snowflakes, time_ms_of

ID_ATTEMPTS_MAX = 16  # each further one needs a collision of node number, millisecond and sequence

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class NewTweet:
    """What an author posts. A retweet points to an original and repeats its text."""

    author_id: int
    text: str
    reply_to: int | None = None
    retweet_of: int | None = None


@dataclass(frozen=True, slots=True)
class Tweet:
    """A tweet as it was stored."""

    id: int
    author_id: int
    text: str
    created_at: datetime
    reply_to: int | None = None
    retweet_of: int | None = None


@dataclass(frozen=True, slots=True)
class User:
    """A user as he was stored."""

    id: int
    handle: str


def now_ms() -> int:
    """Unix time in milliseconds."""
    return time.time_ns() // 1_000_000


class Publisher:
    """The publishing calls over one database. Safe to share between threads.

    Raises `InvalidInput`, `NotFound`, `Conflict` and `Forbidden` for what callers can mend, `DatabaseUnavailable` and
    `RedisUnavailable` for what may be tried again.
    """

    def __init__(self, engine: sa.Engine, bodies: TweetBodies, clock_ms: Callable[[], int] = now_ms) -> None:
        self._engine = engine
        self._bodies = bodies
        self._clock_ms = clock_ms
        self._snowflakes = Snowflakes(random.SystemRandom().randrange(NODES), clock_ms)

    def create_user(self, handle: str, user_id: int | None = None) -> User:
        """A new user. Raises `Conflict` when the id or the handle is taken."""
        check_handle(handle)
        new_id = self._snowflakes.next() if user_id is None else check_id(user_id, "user")
        with transaction(self._engine) as connection:
            taken = connection.execute(
                sa.text("SELECT id, handle FROM users WHERE id = :id OR handle = :handle"),
                {"id": new_id, "handle": handle},
            ).first()
            if taken is None:
                taken = self._insert_user(connection, new_id, handle)
        if taken is not None:
            what = f"user id {new_id}" if taken.id == new_id else f"handle {handle!r}"
            raise Conflict(f"the {what} is taken")
        return User(new_id, handle)

    def post(self, tweet: NewTweet) -> Tweet:
        """One tweet."""
        return self.post_many([tweet])[0]

    def post_many(self, tweets: Sequence[NewTweet]) -> list[Tweet]:
        """Tweets, in this order; each run of at most `AUTHOR_LOCKS_MAX` is one transaction."""
        checked = [_checked(tweet) for tweet in tweets]
        stored = [tweet for batch in _batches(checked) for tweet in self._post_batch(batch)]
        outbox.wake_relay(self._engine)
        return stored

    def delete(self, tweet_id: int, acting_id: int | None = None) -> None:
        """Deletes one tweet; when it returns, no read shows it. Deleting again is safe.

        `acting_id`, when given, must be the author. Raises `RedisUnavailable` when a tombstone could not be written:
        the tweet is deleted then, and the call has to be repeated.
        """
        check_id(tweet_id, "tweet")
        with transaction(self._engine) as connection:
            author_id = connection.execute(
                sa.text("SELECT author_id FROM tweets WHERE id = :id"), {"id": tweet_id}
            ).scalar_one_or_none()
            if author_id is None:
                raise NotFound(f"tweet {tweet_id} does not exist")
            if acting_id is not None and acting_id != author_id:
                raise Forbidden(f"tweet {tweet_id} is of user {author_id}; only its author can delete it")
            self._delete_row(connection, tweet_id, author_id)
        outbox.wake_relay(self._engine)
        self._bodies.bury([tweet_id])

    def follow(self, follower_id: int, author_id: int) -> None:
        """`follower_id` follows `author_id`. Raises `Conflict` when he does already."""
        self.follow_many([(follower_id, author_id)])

    def follow_many(self, pairs: Sequence[tuple[int, int]]) -> None:
        """Follows as (follower, author); each run of at most `AUTHOR_LOCKS_MAX` is one transaction."""
        for follower_id, author_id in pairs:
            check_id(follower_id, "user")
            check_id(author_id, "user")
            check_not_self(follower_id, author_id)
        self._change_follows(pairs, ActivityType.FOLLOWED, _INSERT_FOLLOWS, "already follows")

    def unfollow(self, follower_id: int, author_id: int) -> None:
        """`follower_id` no longer follows `author_id`. Raises `Conflict` when he does not."""
        self.unfollow_many([(follower_id, author_id)])

    def unfollow_many(self, pairs: Sequence[tuple[int, int]]) -> None:
        """The inverse of `follow_many`."""
        for follower_id, author_id in pairs:
            check_id(follower_id, "user")
            check_id(author_id, "user")
        self._change_follows(pairs, ActivityType.UNFOLLOWED, _DELETE_FOLLOWS, "does not follow")

    def _insert_user(self, connection: sa.Connection, user_id: int, handle: str) -> "sa.Row[tuple[int, str]] | None":
        inserted = connection.execute(
            sa.text("INSERT INTO users (id, handle) VALUES (:id, :handle) ON CONFLICT DO NOTHING"),
            {"id": user_id, "handle": handle},
        ).rowcount
        if inserted:
            return None
        return connection.execute(
            sa.text("SELECT id, handle FROM users WHERE id = :id OR handle = :handle"),
            {"id": user_id, "handle": handle},
        ).first()

    def _post_batch(self, batch: Sequence[NewTweet]) -> list[Tweet]:
        with transaction(self._engine) as connection:
            lock_authors(connection, [tweet.author_id for tweet in batch])
            _need_users(connection, [tweet.author_id for tweet in batch])
            originals = _need_tweets(connection, [t.retweet_of for t in batch] + [t.reply_to for t in batch])
            stored = self._store(connection, [_of_original(tweet, originals) for tweet in batch])
            events = [Activity(ActivityType.POSTED, tweet.author_id, tweet.id, self._clock_ms()) for tweet in stored]
            outbox.append(connection, events)
        return stored

    def _store(self, connection: sa.Connection, batch: Sequence[NewTweet]) -> list[Tweet]:
        """Inserts rows under new ids; a row whose id is taken gets another one."""
        stored: list[Tweet] = []
        left = list(batch)
        for _ in range(ID_ATTEMPTS_MAX):
            rows = [self._with_id(tweet) for tweet in left]
            taken = {row.id for row in rows} - _insert_tweets(connection, rows)
            stored += [row for row in rows if row.id not in taken]
            left = [tweet for tweet, row in zip(left, rows, strict=True) if row.id in taken]
            if not left:
                return stored
        raise Conflict(f"no free tweet id after {ID_ATTEMPTS_MAX} tries: is another node using the same number?")

    def _with_id(self, new: NewTweet) -> Tweet:
        tweet_id = self._snowflakes.next()
        created_at = datetime.fromtimestamp(time_ms_of(tweet_id) / 1000, UTC)
        return Tweet(tweet_id, new.author_id, new.text, created_at, new.reply_to, new.retweet_of)

    def _delete_row(self, connection: sa.Connection, tweet_id: int, author_id: int) -> None:
        lock_authors(connection, [author_id])
        changed = connection.execute(
            sa.text("UPDATE tweets SET deleted_at = now(), text = NULL WHERE id = :id AND deleted_at IS NULL"),
            {"id": tweet_id},
        ).rowcount
        if changed:
            event = Activity(ActivityType.DELETED, author_id, tweet_id, self._clock_ms())
            outbox.append(connection, [event])

    def _change_follows(
        self, pairs: Sequence[tuple[int, int]], kind: ActivityType, statement: sa.TextClause, otherwise: str
    ) -> None:
        for batch in _batches(pairs):
            with transaction(self._engine) as connection:
                lock_authors(connection, [author_id for _, author_id in batch])
                _need_users(connection, [user_id for pair in batch for user_id in pair])
                changed = {
                    (row.follower_id, row.author_id)
                    for row in connection.execute(
                        statement, {"followers": [f for f, _ in batch], "authors": [a for _, a in batch]}
                    )
                }
                for pair in batch:
                    if pair not in changed:
                        raise Conflict(f"user {pair[0]} {otherwise} user {pair[1]}")
                outbox.append(connection, [Activity(kind, a, f, self._clock_ms()) for f, a in batch])
        outbox.wake_relay(self._engine)


_INSERT_FOLLOWS = sa.text(
    """
    INSERT INTO follows (follower_id, author_id)
    SELECT * FROM unnest(CAST(:followers AS bigint[]), CAST(:authors AS bigint[]))
    ON CONFLICT DO NOTHING RETURNING follower_id, author_id
    """
)

_DELETE_FOLLOWS = sa.text(
    """
    WITH gone AS (
        DELETE FROM follows USING unnest(CAST(:followers AS bigint[]), CAST(:authors AS bigint[])) AS pair (f, a)
        WHERE follower_id = pair.f AND author_id = pair.a RETURNING follower_id, author_id
    ), noted AS (
        INSERT INTO former_follows SELECT follower_id, author_id FROM gone ON CONFLICT DO NOTHING
    )
    SELECT follower_id, author_id FROM gone
    """
)

_INSERT_TWEETS = sa.text(
    """
    INSERT INTO tweets (id, author_id, text, created_at, reply_to, retweet_of)
    SELECT * FROM unnest(CAST(:ids AS bigint[]), CAST(:authors AS bigint[]), CAST(:texts AS text[]),
                         CAST(:times AS timestamptz[]), CAST(:replies AS bigint[]), CAST(:originals AS bigint[]))
    ON CONFLICT DO NOTHING RETURNING id
    """
)


def _checked(tweet: NewTweet) -> NewTweet:
    check_id(tweet.author_id, "user")
    if tweet.retweet_of is not None:
        if tweet.text or tweet.reply_to is not None:
            raise InvalidInput("a retweet has no text and no reply_to of its own; leave them out")
        check_id(tweet.retweet_of, "tweet")
        return tweet
    if tweet.reply_to is not None:
        check_id(tweet.reply_to, "tweet")
    return NewTweet(tweet.author_id, check_text(tweet.text), tweet.reply_to)


def _of_original(tweet: NewTweet, originals: dict[int, "sa.Row[tuple[int, str, int | None]]"]) -> NewTweet:
    if tweet.retweet_of is None:
        return tweet
    original = originals[tweet.retweet_of]
    return NewTweet(tweet.author_id, original.text, None, original.retweet_of or original.id)


def _insert_tweets(connection: sa.Connection, rows: Sequence[Tweet]) -> set[int]:
    parameters = {
        "ids": [row.id for row in rows],
        "authors": [row.author_id for row in rows],
        "texts": [row.text for row in rows],
        "times": [row.created_at for row in rows],
        "replies": [row.reply_to for row in rows],
        "originals": [row.retweet_of for row in rows],
    }
    return set(connection.execute(_INSERT_TWEETS, parameters).scalars())


def _need_users(connection: sa.Connection, users: Sequence[int]) -> None:
    """Raises `NotFound` naming a user that does not exist; the others cannot go before the commit."""
    wanted = set(users)
    found = connection.execute(
        sa.text("SELECT id FROM users WHERE id = ANY (CAST(:ids AS bigint[])) FOR KEY SHARE"), {"ids": list(wanted)}
    ).scalars()
    for missing in sorted(wanted - set(found)):
        raise NotFound(f"user {missing} does not exist")


def _need_tweets(
    connection: sa.Connection, ids: Sequence[int | None]
) -> dict[int, "sa.Row[tuple[int, str, int | None]]"]:
    """The live tweets with these ids. Raises `NotFound` naming one that is not live."""
    wanted = {tweet_id for tweet_id in ids if tweet_id is not None}
    if not wanted:
        return {}
    rows = connection.execute(
        sa.text("SELECT id, text, retweet_of FROM live_tweets WHERE id = ANY (CAST(:ids AS bigint[]))"),
        {"ids": list(wanted)},
    )
    found = {row.id: row for row in rows}
    for missing in sorted(wanted - set(found)):
        raise NotFound(f"tweet {missing} does not exist")
    return found


def _batches(items: Sequence[T]) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), AUTHOR_LOCKS_MAX):
        yield items[start : start + AUTHOR_LOCKS_MAX]
