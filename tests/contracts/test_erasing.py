"""Deleting a user on real servers: everything of his goes, as events, in batches that can be taken up again."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import sqlalchemy as sa

from consumers.read_tweet import read_tweet
from infra.advisory_lock import LockClass
from infra.composition import Stores
from infra.database import lock_authors, try_lock_authors
from infra.errors import Conflict, DatabaseUnavailable, NotFound, RedisUnavailable
from infra.settings import Settings
from infra.tweet_bodies import TweetBodies
from producers import erasing
from producers.erasing import Erased, Eraser, left_behind
from producers.housekeeping import erase_left_behind, sweep_keys
from producers.publish import NewTweet, Publisher, Tweet, ignore_progress, need_all, now_ms
from tests.contracts.test_publish import count, events

MakeUsers = Callable[[int], list[int]]


def test_a_deleted_user_is_gone_with_tweets_follows_and_blocks_and_each_has_its_event(
    publisher: Publisher, stores: Stores, make_users: MakeUsers
) -> None:
    user, fan, author, other = make_users(4)
    tweets = [one.id for one in need_all(publisher.post_many([NewTweet(user, "a"), NewTweet(user, "b")]))]
    publisher.follow_many([(fan, user), (user, author)])
    publisher.block(user, other)
    before = len(events(stores.engine))

    assert publisher.delete_user(user) == Erased(2, 2, complete=True)
    assert publisher.delete_user(user) == Erased(0, 0, complete=True)

    assert events(stores.engine)[before:] == [
        *[("deleted", user, tweet) for tweet in tweets],
        ("unfollowed", author, user),
        ("unfollowed", user, fan),
    ]
    assert [count(stores.engine, table) for table in ("follows", "blocks")] == [0, 0]
    for tweet in tweets:
        with pytest.raises(NotFound):
            read_tweet(stores.bodies, tweet)


def test_a_deleted_user_can_do_nothing_and_his_id_is_not_given_again(
    publisher: Publisher, make_users: MakeUsers
) -> None:
    user, other = make_users(2)
    handle = f"u{user}"
    publisher.delete_user(user)

    for call in (
        lambda: publisher.post(NewTweet(user, "hello")),
        lambda: publisher.follow(user, other),
        lambda: publisher.follow(other, user),
        lambda: publisher.block(user, other),
        lambda: publisher.followers(user),
    ):
        with pytest.raises(NotFound, match=f"user {user} does not exist"):
            call()
    with pytest.raises(Conflict, match=f"user id {user} is taken"):
        publisher.create_user("somebody", user)
    assert publisher.create_user(handle).handle == handle


def test_an_unknown_user_is_not_deleted(publisher: Publisher) -> None:
    with pytest.raises(NotFound, match="user 99 does not exist"):
        publisher.delete_user(99)


def test_erasing_goes_on_where_it_was_left(
    publisher: Publisher, stores: Stores, make_users: MakeUsers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(erasing, "BATCH_TWEETS_MAX", 2)
    [user] = make_users(1)
    publisher.post_many([NewTweet(user, f"{number}") for number in range(5)])
    seen: list[int] = []

    assert publisher.delete_user(user, limit_s=0) == Erased(2, 0, complete=False)
    assert publisher.delete_user(user, lambda tweets, _: seen.append(tweets)) == Erased(3, 0, complete=True)

    assert seen == [2, 3]
    assert [kind for kind, _, _ in events(stores.engine)] == ["posted"] * 5 + ["deleted"] * 5


@pytest.mark.parametrize("what", ["tweets", "following"])
def test_an_eraser_whose_batch_another_one_removed_goes_on_with_the_next(
    publisher: Publisher, stores: Stores, make_users: MakeUsers, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """It froze after it had read the batch, its lock was lost, and the other one went on from there."""
    monkeypatch.setattr(erasing, "AUTHOR_LOCKS_MAX", 3)  # two follows a batch
    monkeypatch.setattr(erasing, "BATCH_TWEETS_MAX", 2)
    user, *authors = make_users(6)
    if what == "tweets":
        publisher.post_many([NewTweet(user, "hello") for _ in authors])
    else:
        publisher.follow_many([(user, author) for author in authors])
    other, calls, outrun = Eraser(stores.engine, stores.bodies, stores.reactions, now_ms), [0], list[Erased]()

    def lock_after_the_other(connection: sa.Connection, locked: Sequence[int], others: Sequence[int] = ()) -> None:
        calls[0] += 1
        first_batch = others if what == "following" else calls[0] == 2  # the first lock is that of the mark
        if first_batch and calls[0] < 10:
            calls[0] = 10
            outrun.append(other._erase_alone(user, 0, ignore_progress, lambda: None))
        lock_authors(connection, locked, others)

    monkeypatch.setattr(erasing, "lock_authors", lock_after_the_other)
    erased = publisher.delete_user(user)

    assert outrun == [Erased(2, 0, complete=False) if what == "tweets" else Erased(0, 2, complete=False)]
    assert erased == (Erased(3, 0, complete=True) if what == "tweets" else Erased(0, 3, complete=True))
    assert count(stores.engine, "follows") == 0


def test_one_at_a_time_erases_a_user(
    publisher: Publisher, stores: Stores, make_users: MakeUsers, monkeypatch: pytest.MonkeyPatch
) -> None:
    user, free = make_users(2)
    publisher.post_many([NewTweet(user, "a"), NewTweet(free, "b")])
    other, meanwhile = Eraser(stores.engine, stores.bodies, stores.reactions, now_ms), list[Erased]()

    def progress(_tweets: int, _follows: int) -> None:
        meanwhile.extend(other.erase(one, time.monotonic() + 60, ignore_progress) for one in (user, free))

    assert publisher.delete_user(user, progress) == Erased(1, 0, complete=True)
    assert meanwhile == [Erased(0, 0, complete=False), Erased(1, 0, complete=True)]
    assert other.erase(user, 0, ignore_progress).complete


def test_whoever_lost_the_lock_of_an_erasing_stops_before_the_next_batch(
    publisher: Publisher, stores: Stores, make_users: MakeUsers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the server ends the session of a frozen process."""
    monkeypatch.setattr(erasing, "BATCH_TWEETS_MAX", 2)
    [user] = make_users(1)
    publisher.post_many([NewTweet(user, f"{number}") for number in range(5)])

    def end_session(_tweets: int, _follows: int) -> None:
        with stores.engine.begin() as connection:
            assert connection.execute(_END_SESSION, {"class": LockClass.ERASING.value}).scalars().all() == [True]

    with pytest.raises(DatabaseUnavailable, match="the session of a lock"):
        publisher.delete_user(user, end_session)
    assert [kind for kind, _, _ in events(stores.engine)] == ["posted"] * 5 + ["deleted"] * 2
    assert publisher.delete_user(user) == Erased(3, 0, complete=True)


_END_SESSION = sa.text(
    """
    SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND classid = :class
    AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
    """
)


@pytest.mark.parametrize("step", ["_erase_tweets", "_erase_following", "_erase_followers"])
def test_an_erasing_does_not_end_while_something_is_left(
    publisher: Publisher, make_users: MakeUsers, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    user, author = make_users(2)
    publisher.post(NewTweet(user, "hello"))
    publisher.follow_many([(user, author), (author, user)])

    with monkeypatch.context() as patch:
        patch.setattr(Eraser, step, lambda *_: 0)
        assert not publisher.delete_user(user).complete
    rest = publisher.delete_user(user)

    assert (rest.tweets + rest.follows, rest.complete) == (1, True)


def test_nobody_waits_for_an_erasing_whose_tombstones_take_long(
    publisher: Publisher, stores: Stores, make_users: MakeUsers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As they do when a node hangs."""
    user, other = make_users(2)
    tweet = publisher.post(NewTweet(user, "hello"))
    bury, made = TweetBodies.bury, list[Tweet]()

    def bury_late(bodies: TweetBodies, ids: Sequence[int]) -> None:
        made.append(publisher.submit(NewTweet(other, retweet_of=tweet.id)).result(3))
        with stores.engine.begin() as connection:
            assert try_lock_authors(connection, [user, other]) == set()
        bury(bodies, ids)

    monkeypatch.setattr(TweetBodies, "bury", bury_late)
    assert publisher.delete_user(user).complete

    told = events(stores.engine)
    assert told.index(("posted", other, made[0].id)) < told.index(("deleted", user, tweet.id))


def test_a_batch_whose_tombstones_cannot_be_written_stays_for_the_next_call(
    publisher: Publisher, stores: Stores, make_users: MakeUsers, monkeypatch: pytest.MonkeyPatch
) -> None:
    [user] = make_users(1)
    tweet = publisher.post(NewTweet(user, "hello"))

    def refuse(_ids: object) -> None:
        raise RedisUnavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr(type(stores.bodies), "bury", lambda _self, ids: refuse(ids))
        with pytest.raises(RedisUnavailable):
            publisher.delete_user(user)
    assert [kind for kind, _, _ in events(stores.engine)] == ["posted"]

    assert publisher.delete_user(user).complete
    with pytest.raises(NotFound):
        read_tweet(stores.bodies, tweet.id)


def test_housekeeping_ends_what_was_left_behind(
    publisher: Publisher, stores: Stores, settings: Settings, make_users: MakeUsers
) -> None:
    left, kept = make_users(2)
    publisher.post_many([NewTweet(left, "hello"), NewTweet(kept, "hello")])
    publisher.delete_user(left, limit_s=0)

    assert erase_left_behind(settings, stores.engine, 60) == 0
    with stores.engine.begin() as connection:
        connection.execute(sa.text("UPDATE users SET deleted_at = deleted_at - interval '2 minutes'"))
    assert erase_left_behind(settings, stores.engine, 60) == 1
    assert erase_left_behind(settings, stores.engine, 60) == 0

    assert publisher.delete_user(left) == Erased(0, 0, complete=True)
    assert publisher.post(NewTweet(kept, "still here")).author_id == kept


def test_a_user_who_cannot_be_erased_does_not_keep_the_housekeeping_from_the_next(
    publisher: Publisher, stores: Stores, settings: Settings, make_users: MakeUsers, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck, other = sorted(make_users(2))  # the lowest id is the first to be erased
    publisher.post_many([NewTweet(stuck, "hello"), NewTweet(other, "hello")])
    for user in (stuck, other):
        publisher.delete_user(user, limit_s=0)
    with stores.engine.begin() as connection:
        connection.execute(sa.text("UPDATE users SET deleted_at = deleted_at - interval '2 minutes'"))
    erase = Eraser.erase

    def failing(self: Eraser, user_id: int, *given: Any) -> Erased:
        if user_id == stuck:
            raise ValueError("this one's row is broken")
        return erase(self, user_id, *given)

    monkeypatch.setattr(Eraser, "erase", failing)

    assert erase_left_behind(settings, stores.engine, 60) == 2
    assert left_behind(stores.engine, 60) == [stuck]


def test_housekeeping_removes_keys_of_yesterday_only(
    publisher: Publisher, stores: Stores, make_users: MakeUsers
) -> None:
    [author] = make_users(1)
    publisher.post(NewTweet(author, "old", key="old"))
    with stores.engine.begin() as connection:
        connection.execute(sa.text("UPDATE idempotency_keys SET created_at = now() - interval '25 hours'"))
    publisher.post(NewTweet(author, "new", key="new"))

    assert sweep_keys(stores.engine) == 1
    assert count(stores.engine, "idempotency_keys") == 1
