"""Erasing a user: the tweets, the follows both ways, the likes and the rest, in bounded batches with their events.

The first transaction says that the user is deleted: from then on nobody finds him and he can do nothing. Each batch
after it is repeatable, so whoever calls again goes on; the relay's housekeeping does so for those left behind. One at a
time erases a user, by a lock of the database; one that froze may find that another one has gone on, and does no harm:
what it has read is removed already, and before its next batch it learns that its lock is gone. The row stays: an id is
never given out twice.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa

from infra import outbox
from infra.advisory_lock import AdvisoryLock, LockClass
from infra.database import AUTHOR_LOCKS_MAX, lock_authors, reading, transaction
from infra.errors import NotFound
from infra.events import Activity, ActivityType
from infra.reaction_log import ReactionLog
from infra.tweet_bodies import TweetBodies
from producers.following import remove_follows
from producers.liking import take_back

BATCH_TWEETS_MAX = 500  # with their events, 0.1 s
BATCH_FOLLOWERS_MAX = 1_000
# A batch waits for locks (5 s), nodes or Kafka; a lock whose holder shows nothing for longer is free again.
BATCH_LONGEST_MS = 60_000
LOCK_NUMBERS = 1 << 31  # of two users with the same low bits, one is erased after the other


@dataclass(frozen=True, slots=True)
class Erased:
    """What one call removed; `complete` when nothing is left."""

    tweets: int
    follows: int
    complete: bool


Progress = Callable[[int, int], None]  # tweets and follows removed so far


class Eraser:
    """Erases users. Safe to share between threads."""

    def __init__(
        self, engine: sa.Engine, bodies: TweetBodies, reactions: ReactionLog, clock_ms: Callable[[], int]
    ) -> None:
        self._engine = engine
        self._bodies = bodies
        self._reactions = reactions
        self._clock_ms = clock_ms

    def erase(self, user_id: int, until_s: float, progress: Progress) -> Erased:
        """Goes on until nothing is left, or `until_s` on the monotonic clock. Idempotent: an erased user is erased.
        While another one erases this user, nothing is done.

        Raises `NotFound`, `RedisUnavailable` when a tombstone cannot be written, `KafkaUnavailable` when a like cannot
        be taken back, and `DatabaseUnavailable`, also when the lock is lost: what was done stays done.
        """
        if self.hide(user_id):
            return Erased(0, 0, complete=True)
        url = self._engine.url.render_as_string(hide_password=False)
        lock = AdvisoryLock(
            url, LockClass.ERASING, user_id % LOCK_NUMBERS, silent_ms=BATCH_LONGEST_MS, about=f"user {user_id}"
        )
        try:
            if not lock.try_take():
                return Erased(0, 0, complete=False)
            return self._erase_alone(user_id, until_s, progress, lock.show_alive)
        finally:
            lock.give_back()

    def _erase_alone(self, user_id: int, until_s: float, progress: Progress, check: Callable[[], None]) -> Erased:
        removed = dict.fromkeys((self._erase_tweets, self._erase_following, self._erase_followers), 0)
        for step in removed:
            while count := step(user_id):
                removed[step] += count
                outbox.wake_relay(self._engine)
                tweets, *follows = removed.values()
                progress(tweets, sum(follows))
                check()
                if time.monotonic() > until_s:
                    return Erased(tweets, sum(follows), complete=False)
        tweets, *follows = removed.values()
        complete = self._take_back_likes(user_id, until_s, check) and self._finish(user_id)
        return Erased(tweets, sum(follows), complete)

    def hide(self, user_id: int) -> bool:
        """The first step: from now on nobody finds the user. True when he is erased already. Raises `NotFound`."""
        with transaction(self._engine) as connection:
            lock_authors(connection, [user_id])
            row = connection.execute(_MARK, {"id": user_id}).one_or_none()
        if row is None:
            raise NotFound(f"user {user_id} does not exist")
        return row.erased_at is not None

    def _erase_tweets(self, user_id: int) -> int:
        """Tombstones first: a batch that is not committed after them is one of a user whom nobody may read. And outside
        of the transaction: a node that hangs then holds up nobody who waits for the lock or a row."""
        while ids := self._some(_TWEETS, user_id, BATCH_TWEETS_MAX):
            self._bodies.bury(ids)
            with transaction(self._engine) as connection:
                lock_authors(connection, [user_id])
                gone = sorted(connection.execute(_DELETE_TWEETS, {"ids": ids}).scalars())
                now_ms = self._clock_ms()
                outbox.append(connection, [Activity(ActivityType.DELETED, user_id, tweet, now_ms) for tweet in gone])
            if gone:
                return len(gone)
        return 0

    def _erase_following(self, user_id: int) -> int:
        while authors := self._some(_FOLLOWING, user_id, AUTHOR_LOCKS_MAX - 1):
            with transaction(self._engine) as connection:
                lock_authors(connection, authors, [user_id])
                gone = remove_follows(connection, [(user_id, author) for author in authors], self._clock_ms())
            if gone:
                return len(gone)
        return 0

    def _some(self, statement: sa.TextClause, user_id: int, limit: int) -> list[int]:
        with reading(self._engine) as connection:
            return list(connection.execute(statement, {"id": user_id, "limit": limit}).scalars())

    def _erase_followers(self, user_id: int) -> int:
        with transaction(self._engine) as connection:
            lock_authors(connection, [user_id])
            found = connection.execute(_FOLLOWERS, {"id": user_id, "limit": BATCH_FOLLOWERS_MAX}).scalars().all()
            return len(remove_follows(connection, [(follower, user_id) for follower in found], self._clock_ms()))

    def _take_back_likes(self, user_id: int, until_s: float, check: Callable[[], None]) -> bool:
        """Whether it was in time. Begun again, it takes them all back again, which does no harm."""
        above: int | None = 0
        while above is not None:
            above = take_back(self._engine, self._reactions, user_id, above, self._clock_ms())
            check()
            if above is not None and time.monotonic() > until_s:
                return False
        return True

    def _finish(self, user_id: int) -> bool:
        """False when something is left: the mark that it is done makes everybody look no more."""
        with transaction(self._engine) as connection:
            lock_authors(connection, [user_id])
            if connection.execute(_LEFT, {"id": user_id}).scalar_one():
                return False
            for statement in _FINISH:
                connection.execute(statement, {"id": user_id})
        return True


def left_behind(engine: sa.Engine, after_s: float) -> list[int]:
    """Users whose erasing somebody began so long ago and did not finish."""
    with reading(engine) as connection:
        return list(connection.execute(_LEFT_BEHIND, {"seconds": after_s}).scalars())


_MARK = sa.text(
    "UPDATE users SET deleted_at = coalesce(deleted_at, now()), active_until = NULL WHERE id = :id RETURNING erased_at"
)
_LEFT_BEHIND = sa.text(
    "SELECT id FROM users WHERE deleted_at < now() - make_interval(secs => :seconds) AND erased_at IS NULL ORDER BY id"
)
_TWEETS = sa.text("SELECT id FROM tweets WHERE author_id = :id AND deleted_at IS NULL ORDER BY id LIMIT :limit")
# The lowest id first, as whoever retweets locks them (posting.py).
_DELETE_TWEETS = sa.text(
    """
    UPDATE tweets SET deleted_at = now(), text = NULL
    WHERE id IN (
        SELECT id FROM tweets WHERE id = ANY (CAST(:ids AS bigint[])) AND deleted_at IS NULL ORDER BY id FOR UPDATE
    )
    RETURNING id
    """
)
_FOLLOWING = sa.text("SELECT author_id FROM follows WHERE follower_id = :id ORDER BY author_id LIMIT :limit")
_FOLLOWERS = sa.text("SELECT follower_id FROM follows WHERE author_id = :id ORDER BY follower_id LIMIT :limit")
_LEFT = sa.text(
    """
    SELECT EXISTS (SELECT FROM tweets WHERE author_id = :id AND deleted_at IS NULL)
        OR EXISTS (SELECT FROM follows WHERE follower_id = :id)
        OR EXISTS (SELECT FROM follows WHERE author_id = :id)
    """
)
_FINISH = (
    sa.text("DELETE FROM blocks WHERE blocker_id = :id OR blocked_id = :id"),
    sa.text("DELETE FROM idempotency_keys WHERE user_id = :id"),
    sa.text("DELETE FROM bearer_tokens WHERE user_id = :id"),
    # No handle begins with '#', so the old one is free again.
    sa.text("UPDATE users SET handle = '#' || id, erased_at = now() WHERE id = :id"),
)
