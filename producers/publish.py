"""Publish: the calls by which a service posts, follows and blocks, as rows and events in one transaction (G1),
and likes.

Each call is safe to repeat, and each item of a batch has its own result. Posts of many callers become few transactions.
The steps are in posting.py, following.py, liking.py and erasing.py. Next: relay.py.
"""

import reprlib
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import NamedTuple

import sqlalchemy as sa

from infra import outbox, social
from infra.composition import Stores
from infra.database import lock_authors, transaction, try_lock_authors
from infra.errors import AuthorBusy, InvalidInput, UseError
from infra.gathering import Gathering
from infra.paging import Cursor
from infra.reactions import ReactionType
from infra.social import UserPage
from infra.tweet_bodies import Body
from producers import following, users
from producers.batches import authors_of, in_batches, name_of, need_all, parts_of
from producers.deleting import delete_tweet
from producers.erasing import Erased, Eraser, Progress
from producers.following import Pair
from producers.liking import Liking
from producers.node_lease import NodeLease
from producers.posting import NewTweet, Tweet, checked, post_batch, try_lock_originals
from producers.rules import check_id, check_not_self
from producers.snowflake import Snowflakes
from producers.users import User

__all__ = ["NewTweet", "Publisher", "Tweet", "User", "need_all", "now_ms"]

POSTS_AT_ONCE = 2  # transactions with the posts of many callers: one waits for the disk while the other is prepared
POSTS_MAX = 100  # of one such transaction
WAITING_MAX = 4  # posts that wait for an author whom another publisher has; with more of them callers wait
ERASE_LIMIT_S = 3_600.0


class Posted(NamedTuple):
    """A tweet as it is stored, and whether it was just now: else whoever stored it writes the caches."""

    tweet: Tweet
    is_new: bool


def now_ms() -> int:
    """Unix time in milliseconds."""
    return time.time_ns() // 1_000_000


def ignore_progress(_tweets: int, _follows: int) -> None:
    """For callers who do not show it."""


class Publisher:
    """What a service embeds to publish. Safe to share between threads; close it once, or use it in a `with`.

    Ids get a node number that is leased in ZooKeeper, unless `snowflakes` are given. Coroutines have the same calls in
    publish_async.py. Raises `InvalidInput`, `NotFound`, `Conflict` and `Forbidden` for what callers can mend, and
    retriable errors for what cannot be done now: every call can be repeated, one that makes something new when it has a
    key.
    """

    def __init__(
        self, stores: Stores, snowflakes: Snowflakes | None = None, clock_ms: Callable[[], int] = now_ms
    ) -> None:
        self._engine = stores.engine
        self._bodies = stores.bodies
        self._write_through = stores.write_through
        self._clock_ms = clock_ms
        self._lease = NodeLease(stores.zookeeper)
        if snowflakes is None:
            self._lease.begin()
        self._snowflakes = snowflakes or Snowflakes(self._lease.number, clock_ms)
        self._eraser = Eraser(stores.engine, stores.bodies, stores.reactions, clock_ms)
        self.liking = Liking(stores.engine, stores.reactions, stores.counts, clock_ms)
        self._posts: Gathering[NewTweet, Posted] = Gathering(
            self._post_gathered, POSTS_MAX, POSTS_AT_ONCE, "posts", self._write_posted
        )
        self._waiting = ThreadPoolExecutor(WAITING_MAX, "posts-waiting")

    def __enter__(self) -> "Publisher":
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Ends the posts under way and gives the node number back. The stores are the caller's, and closed after it."""
        self._posts.close()
        self._waiting.shutdown(wait=True)
        self._lease.close()

    # Posting

    def post(self, new: NewTweet) -> Tweet:
        """One tweet, durable when it returns."""
        return self.submit(new).result()

    def submit(self, new: NewTweet) -> "Future[Tweet]":
        """The same without waiting. Raises `InvalidInput` at once."""
        one, result = checked(new), Future[Tweet]()
        self._posts.submit(one).add_done_callback(partial(self._hand_over, one, result))
        return result

    def reply(self, author_id: int, to: int, text: str, key: str | None = None) -> Tweet:
        """An answer to the tweet `to`. Raises `NotFound` when that is not live."""
        return self.post(NewTweet(author_id, text, reply_to=to, key=key))

    def retweet(self, author_id: int, of: int, key: str | None = None) -> Tweet:
        """A retweet of the original behind `of`, which may be a retweet itself. Raises `NotFound`."""
        return self.post(NewTweet(author_id, retweet_of=of, key=key))

    def post_many(self, tweets: Iterable[NewTweet]) -> list[Tweet | UseError]:
        """Many tweets, in this order, with a result for each. At most `AUTHOR_LOCKS_MAX` are one transaction; what a
        rule refuses changes nothing and holds up no other."""
        return in_batches(tweets, checked, authors_of, self._post_batch)

    def delete(self, tweet_id: int, acting_id: int | None = None) -> bool:
        """Deletes one tweet; when it returns, no read shows it. False when it was deleted before.

        `acting_id`, when given, must be the author. Raises `RedisUnavailable` when a tombstone could not be written:
        the tweet is deleted then, and the call has to be repeated.
        """
        check_id(tweet_id, "tweet")
        if acting_id is not None:
            check_id(acting_id, "user")
        with transaction(self._engine) as connection:
            new = delete_tweet(connection, tweet_id, acting_id, self._clock_ms())
        outbox.wake_relay(self._engine)
        self._bodies.bury([tweet_id])
        return new

    # Following

    def follow(self, follower_id: int, author_id: int) -> bool:
        """`follower_id` follows `author_id` from now on. False when he did before."""
        return need_all(self.follow_many([(follower_id, author_id)]))[0]

    def follow_many(self, pairs: Iterable[Pair]) -> list[bool | UseError]:
        """Follows as (follower, author), in this order, with a result for each as `post_many` has."""
        return self._change(pairs, _checked_follow, following.follow_batch)

    def unfollow(self, follower_id: int, author_id: int) -> bool:
        """`follower_id` no longer follows `author_id`. False when he did not."""
        return need_all(self.unfollow_many([(follower_id, author_id)]))[0]

    def unfollow_many(self, pairs: Iterable[Pair]) -> list[bool | UseError]:
        """The inverse of `follow_many`."""
        return self._change(pairs, _checked_pair, following.unfollow_batch)

    def block(self, blocker_id: int, blocked_id: int) -> bool:
        """Ends the follows both ways; neither can follow the other while it lasts. False when it was there before."""
        _checked_pair((blocker_id, blocked_id))
        if blocker_id == blocked_id:
            raise InvalidInput(f"user {blocker_id} cannot block himself")
        with transaction(self._engine) as connection:
            new = following.block(connection, blocker_id, blocked_id, self._clock_ms())
        outbox.wake_relay(self._engine)
        return new

    def unblock(self, blocker_id: int, blocked_id: int) -> bool:
        """Takes a block back; nobody follows again by it. False when there was none."""
        _checked_pair((blocker_id, blocked_id))
        with transaction(self._engine) as connection:
            return following.unblock(connection, blocker_id, blocked_id)

    # Liking

    def like(self, user_id: int, tweet_id: int) -> None:
        """A user likes a tweet from now on. Raises `NotFound` when either is not live."""
        self.liking.say(ReactionType.LIKED, user_id, tweet_id)

    def unlike(self, user_id: int, tweet_id: int) -> None:
        """A user no longer likes a tweet. Raises `NotFound` when either is not live."""
        self.liking.say(ReactionType.UNLIKED, user_id, tweet_id)

    # Users

    def create_user(self, handle: str, user_id: int | None = None, key: str | None = None) -> User:
        """A new user; the same one when it is repeated with the id or the key. Raises `Conflict` when somebody else has
        the id or the handle."""
        users.check_new(handle, user_id, key)
        with transaction(self._engine) as connection:
            return users.create(connection, handle, user_id, key, self._snowflakes)

    def delete_user(self, user_id: int, progress: Progress = ignore_progress, limit_s: float = ERASE_LIMIT_S) -> Erased:
        """Deletes a user: from the first moment nobody finds him; his tweets, follows and entries go in batches. Not
        `complete` after `limit_s`, and while somebody else erases him: call it again, or leave the rest to the relay's
        housekeeping."""
        check_id(user_id, "user")
        return self._eraser.erase(user_id, time.monotonic() + limit_s, progress)

    def hide_user(self, user_id: int) -> None:
        """The first moment of `delete_user` alone: nobody finds him any more, and the relay's housekeeping goes on from
        there unless somebody else does. Raises `NotFound`."""
        self._eraser.hide(check_id(user_id, "user"))

    def followers(self, user_id: int, cursor: Cursor = Cursor()) -> UserPage:
        """A page of a user's followers, by id, the highest first. Raises `NotFound`."""
        return social.followers(self._engine, check_id(user_id, "user"), cursor)

    def following(self, user_id: int, cursor: Cursor = Cursor()) -> UserPage:
        """A page of those whom a user follows. Raises `NotFound`."""
        return social.following(self._engine, check_id(user_id, "user"), cursor)

    # Batches

    def _post_gathered(self, batch: Sequence[NewTweet]) -> Sequence[Posted | Exception]:
        """The posts of several callers, in one transaction unless a key stands there twice."""
        results: dict[int, Posted | Exception] = {}
        for part in parts_of(range(len(batch)), lambda at: authors_of(batch[at]), lambda at: name_of(batch[at])):
            try:
                results.update(zip(part, self._post_without_waiting([batch[at] for at in part]), strict=True))
            except Exception as error:  # noqa: BLE001 - its callers get it and decide; what was before is committed
                results |= dict.fromkeys(part, error)
        return [results[at] for at in range(len(batch))]

    def _write_posted(self, results: Sequence[Posted | Exception]) -> None:
        """What transactions have stored, into the caches: the next ones do not wait for it."""
        self._write([one.tweet for one in results if isinstance(one, Posted) and one.is_new])

    def _post_without_waiting(self, batch: Sequence[NewTweet]) -> list[Posted | UseError | AuthorBusy]:
        """Nobody waits here for somebody else's author or original: whose is busy is told so."""
        with transaction(self._engine) as connection:
            busy = try_lock_authors(connection, [new.author_id for new in batch])
            free = [at for at, new in enumerate(batch) if new.author_id not in busy]
            going = try_lock_originals(connection, [batch[at] for at in free])
            free = [at for at in free if batch[at].retweet_of not in going]
            done, stored = self._post_locked(connection, [batch[at] for at in free])
        self._wake_relay(stored)
        new = {tweet.id for tweet in stored}
        posted = [Posted(one, one.id in new) if isinstance(one, Tweet) else one for one in done]
        results = dict(zip(free, posted, strict=True))
        return [results.get(at, AuthorBusy("somebody else has the lock")) for at in range(len(batch))]

    def _hand_over(self, new: NewTweet, result: "Future[Tweet]", gathered: "Future[Posted]") -> None:
        if isinstance(gathered.exception(), AuthorBusy):
            with suppress(RuntimeError):  # it was closed meanwhile, or no thread can be started: then he is told so
                self._waiting.submit(_settle, result, lambda: need_all(self._post_batch([new]))[0])
                return
        _settle(result, lambda: gathered.result().tweet)

    def _post_batch(self, batch: Sequence[NewTweet]) -> list[Tweet | UseError]:
        with transaction(self._engine) as connection:
            lock_authors(connection, [new.author_id for new in batch])
            results, new = self._post_locked(connection, batch)
        self._wake_relay(new)
        self._write(new)
        return results

    def _post_locked(
        self, connection: sa.Connection, batch: Sequence[NewTweet]
    ) -> tuple[list[Tweet | UseError], list[Tweet]]:
        return post_batch(connection, batch, self._snowflakes, self._clock_ms()) if batch else ([], [])

    def _wake_relay(self, new: Sequence[Tweet]) -> None:
        if new:
            outbox.wake_relay(self._engine)

    def _write(self, new: Sequence[Tweet]) -> None:
        if new:
            self._write_through.put([_body(tweet) for tweet in new])

    def _change(
        self,
        pairs: Iterable[Pair],
        check: Callable[[Pair], Pair],
        batch: Callable[[sa.Connection, Sequence[Pair], int], list[bool | UseError]],
    ) -> list[bool | UseError]:
        def work(part: Sequence[Pair]) -> list[bool | UseError]:
            with transaction(self._engine) as connection:
                results = batch(connection, part, self._clock_ms())
            if True in results:
                outbox.wake_relay(self._engine)
            return results

        return in_batches(pairs, check, lambda pair: pair, work)


def _settle(result: "Future[Tweet]", call: Callable[[], Tweet]) -> None:
    if not result.set_running_or_notify_cancel():
        return  # its caller went away
    try:
        result.set_result(call())
    except Exception as error:  # noqa: BLE001 - its caller gets it and decides
        result.set_exception(error)


def _checked_pair(pair: Pair) -> Pair:
    if not isinstance(pair, Sequence) or len(pair) != 2:
        raise InvalidInput(f"{reprlib.repr(pair)} is not a pair of two user ids, as (follower, author)")
    first, second = (check_id(user_id, "user") for user_id in pair)
    return first, second


def _checked_follow(pair: Pair) -> Pair:
    check_not_self(*_checked_pair(pair))
    return pair


def _body(tweet: Tweet) -> Body:
    return Body(tweet.id, tweet.author_id, tweet.text, tweet.created_at, tweet.reply_to, tweet.retweet_of)
