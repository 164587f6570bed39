"""Publishing on a real database: row and event together, in order, or nothing."""

import asyncio
import inspect
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
import sqlalchemy as sa

from infra import outbox
from infra.cloud_events import TYPES
from infra.composition import Stores
from infra.database import AUTHOR_LOCKS_MAX
from infra.errors import Forbidden, InvalidInput, KeyReused, NotFound, UseError
from infra.events import Activity, decode_activity
from infra.paging import Cursor
from producers.publish import NewTweet, Publisher, Tweet, need_all
from producers.publish_async import AsyncPublisher
from producers.snowflake import Snowflakes

MakeUsers = Callable[[int], list[int]]


def events(engine: sa.Engine) -> list[tuple[str, int, int]]:
    """(type, author, other id) of the outbox, in order."""
    with engine.connect() as connection:
        rows = connection.execute(sa.text("SELECT aggregateid, type, payload FROM outbox ORDER BY id")).all()
    decoded = [decode_activity(row.payload.encode()) for row in rows]
    assert [(row.aggregateid, row.type) for row in rows] == [(str(one.author_id), TYPES[one.type]) for one in decoded]
    return [(one.type.value, one.author_id, one.other_id) for one in decoded]


def count(engine: sa.Engine, table: str) -> int:
    with engine.connect() as connection:
        return int(connection.execute(sa.text(f"SELECT count(*) FROM {table}")).scalar_one())


def test_a_tweet_and_its_event_are_there_together(
    publisher: Publisher, engine: sa.Engine, make_users: MakeUsers
) -> None:
    [author] = make_users(1)

    tweet = publisher.post(NewTweet(author, "e\u0301"))

    assert tweet.text == "\u00e9"
    assert events(engine) == [("posted", author, tweet.id)]


def test_a_transaction_that_fails_leaves_neither_tweet_nor_event(
    publisher: Publisher, engine: sa.Engine, make_users: MakeUsers, monkeypatch: pytest.MonkeyPatch
) -> None:
    [author] = make_users(1)

    def fail(*_: object) -> None:
        raise OSError("the process dies here")

    monkeypatch.setattr(outbox, "append", fail)
    with pytest.raises(OSError, match="dies here"):
        publisher.post(NewTweet(author, "hello"))

    assert count(engine, "tweets") == 0


@pytest.mark.parametrize(("bad", "error"), [(NewTweet(1, "hello"), NotFound), (NewTweet(0, "hello"), InvalidInput)])
def test_one_bad_tweet_in_a_batch_has_its_error_and_the_others_are_there(
    publisher: Publisher, engine: sa.Engine, make_users: MakeUsers, bad: NewTweet, error: type[UseError]
) -> None:
    [author] = make_users(1)

    first, refused, last = publisher.post_many([NewTweet(author, "good"), bad, NewTweet(author, "too")])

    assert isinstance(refused, error)
    assert isinstance(first, Tweet)
    assert isinstance(last, Tweet)
    assert events(engine) == [("posted", author, first.id), ("posted", author, last.id)]


def test_a_batch_of_more_authors_than_one_transaction_locks_is_split(publisher: Publisher, engine: sa.Engine) -> None:
    authors = range(1, AUTHOR_LOCKS_MAX + 102)
    with engine.begin() as connection:
        connection.execute(sa.text("INSERT INTO users (id, handle) SELECT a, 'u' || a FROM generate_series(1, 700) a"))

    stored = need_all(publisher.post_many([NewTweet(author, "hello") for author in authors]))

    assert [tweet.author_id for tweet in stored] == list(authors)
    assert events(engine) == [("posted", tweet.author_id, tweet.id) for tweet in stored]


def test_a_taken_id_takes_the_next_one(
    publisher: Publisher, make_users: MakeUsers, monkeypatch: pytest.MonkeyPatch
) -> None:
    [author] = make_users(1)
    monkeypatch.setattr(publisher, "_snowflakes", Snowflakes(1, lambda: 1_700_000_000_000))
    first = publisher.post(NewTweet(author, "one"))
    monkeypatch.setattr(publisher, "_snowflakes", Snowflakes(1, lambda: 1_700_000_000_000))

    second = publisher.post(NewTweet(author, "two"))

    assert second.id == first.id + 1


def test_an_authors_events_are_in_commit_order_under_concurrency(
    stores: Stores, engine: sa.Engine, make_users: MakeUsers
) -> None:
    """Ids are given out inside the author's lock, so commit order, id order and outbox order are one."""
    [author] = make_users(1)
    publishers = [Publisher(stores) for _ in range(8)]

    def post_some(one: Publisher) -> None:
        with one:
            for number in range(20):
                one.post(NewTweet(author, f"tweet {number}"))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(post_some, publishers))

    with engine.connect() as connection:
        committed = (
            connection.execute(sa.text("SELECT payload::json ->> 'tweet_id' FROM outbox ORDER BY id")).scalars().all()
        )
    assert len(committed) == 160
    assert len(set(committed)) == 160


def waits_for_a_lock(engine: sa.Engine) -> bool:
    """Whether somebody waits for an author's lock within 3 s."""
    pause = threading.Event()
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for _ in range(60):
            waiting = sa.text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
            if connection.execute(waiting).scalar_one():
                return True
            pause.wait(0.05)
    return False


def test_a_publisher_waits_for_its_author_and_for_nobody_else(
    publisher: Publisher, engine: sa.Engine, make_users: MakeUsers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A publisher that is inside its transaction holds its author back, and no other."""
    slow, other = make_users(2)
    inside, go_on = threading.Event(), threading.Event()
    append = outbox.append

    def hold(connection: sa.Connection, told: list[Activity], traces: list[str | None]) -> None:
        if told[0].author_id == slow and not inside.is_set():
            inside.set()
            assert go_on.wait(10)
        append(connection, told, traces)

    monkeypatch.setattr(outbox, "append", hold)
    first = threading.Thread(target=lambda: publisher.post(NewTweet(slow, "first")))
    first.start()
    assert inside.wait(10)
    second = threading.Thread(target=lambda: publisher.post(NewTweet(slow, "second")))
    second.start()
    publisher.post(NewTweet(other, "not held back"))
    held_back = waits_for_a_lock(engine)
    go_on.set()
    first.join(10)
    second.join(10)
    assert held_back

    with engine.connect() as connection:
        texts = (
            connection.execute(
                sa.text(
                    "SELECT text FROM outbox JOIN tweets ON tweets.id = (payload::json ->> 'tweet_id')::bigint "
                    "ORDER BY outbox.id"
                )
            )
            .scalars()
            .all()
        )
    assert texts == ["not held back", "first", "second"]


def test_follows_are_keyed_by_the_author_who_is_followed(
    publisher: Publisher, engine: sa.Engine, make_users: MakeUsers
) -> None:
    follower, author = make_users(2)

    publisher.follow(follower, author)
    publisher.unfollow(follower, author)

    assert events(engine) == [("followed", author, follower), ("unfollowed", author, follower)]


def test_following_and_unfollowing_again_change_nothing_and_say_so(
    publisher: Publisher, engine: sa.Engine, make_users: MakeUsers
) -> None:
    follower, author, other = make_users(3)

    assert publisher.follow(follower, author)
    assert publisher.follow_many([(follower, author), (follower, other), (follower, other)]) == [False, True, False]
    assert publisher.unfollow_many([(follower, author), (follower, author), (author, other)]) == [True, False, False]

    assert events(engine) == [
        ("followed", author, follower),
        ("followed", other, follower),
        ("unfollowed", author, follower),
    ]


def test_an_unknown_user_is_named(publisher: Publisher, make_users: MakeUsers) -> None:
    [known] = make_users(1)

    with pytest.raises(NotFound, match="user 99 does not exist"):
        publisher.follow(known, 99)
    with pytest.raises(NotFound, match="user 98 does not exist"):
        publisher.follow(98, known)


def test_only_the_author_deletes_a_tweet_and_again_is_safe(
    publisher: Publisher, engine: sa.Engine, make_users: MakeUsers
) -> None:
    author, other = make_users(2)
    tweet = publisher.post(NewTweet(author, "hello"))

    with pytest.raises(Forbidden):
        publisher.delete(tweet.id, acting_id=other)
    assert publisher.delete(tweet.id, acting_id=author)
    assert not publisher.delete(tweet.id, acting_id=author)

    assert events(engine) == [("posted", author, tweet.id), ("deleted", author, tweet.id)]
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT text FROM tweets")).scalar_one() is None


def test_a_retweet_of_a_retweet_points_to_the_original(publisher: Publisher, make_users: MakeUsers) -> None:
    one, two, three = make_users(3)
    original = publisher.post(NewTweet(one, "hello"))
    retweet = publisher.post(NewTweet(two, "", retweet_of=original.id))

    again = publisher.post(NewTweet(three, "", retweet_of=retweet.id))

    assert (again.retweet_of, again.text) == (original.id, "hello")


@pytest.mark.parametrize("field", ["reply_to", "retweet_of"])
def test_a_reply_or_retweet_of_what_is_deleted_is_refused(
    publisher: Publisher, make_users: MakeUsers, field: str
) -> None:
    [author] = make_users(1)
    tweet = publisher.post(NewTweet(author, "hello"))
    publisher.delete(tweet.id)
    new = (
        NewTweet(author, "yes", reply_to=tweet.id) if field == "reply_to" else NewTweet(author, "", retweet_of=tweet.id)
    )

    with pytest.raises(NotFound, match=f"tweet {tweet.id} does not exist"):
        publisher.post(new)


def test_a_key_gives_the_first_result_again_and_refuses_another_request(
    publisher: Publisher, engine: sa.Engine, make_users: MakeUsers
) -> None:
    author, other = make_users(2)
    new = NewTweet(author, "hello", key="k1")
    first = publisher.post(new)

    assert publisher.post(new) == first
    assert publisher.post_many([new, NewTweet(author, "again", key="k2"), new])[::2] == [first, first]
    with pytest.raises(KeyReused, match="'k1' before, with another request"):
        publisher.post(NewTweet(author, "else", key="k1"))
    assert publisher.post(NewTweet(other, "else", key="k1")).author_id == other
    assert len(events(engine)) == 3


def test_a_key_sent_by_many_at_once_makes_one_tweet(stores: Stores, engine: sa.Engine, make_users: MakeUsers) -> None:
    [author] = make_users(1)
    with Publisher(stores) as one, Publisher(stores) as other, ThreadPoolExecutor(16) as threads:
        new = NewTweet(author, "hello", key="k")
        posted = list(threads.map(lambda at: (one, other)[at % 2].post(new), range(40)))

    assert len({tweet.id for tweet in posted}) == 1
    assert count(engine, "tweets") == 1


def test_a_key_is_kept_for_a_day(publisher: Publisher, engine: sa.Engine, make_users: MakeUsers) -> None:
    [author] = make_users(1)
    first = publisher.post(NewTweet(author, "hello", key="k"))
    for age, same in (("23 hours", True), ("25 hours", False)):
        with engine.begin() as connection:
            connection.execute(
                sa.text("UPDATE idempotency_keys SET created_at = now() - CAST(:age AS interval)"), {"age": age}
            )
        assert (publisher.post(NewTweet(author, "hello", key="k")) == first) is same


@pytest.mark.parametrize("key", ["", "a" * 256, "with space", "\u00e9", "a\n"])
def test_a_key_is_visible_ascii(publisher: Publisher, key: str) -> None:
    with pytest.raises(InvalidInput, match="not 1 to 255 visible ASCII characters"):
        publisher.post(NewTweet(1, "hello", key=key))


def test_a_block_unfollows_both_ways_and_stays_in_force(
    publisher: Publisher, engine: sa.Engine, make_users: MakeUsers
) -> None:
    one, two = make_users(2)
    publisher.follow_many([(one, two), (two, one)])

    assert publisher.block(one, two)
    assert not publisher.block(one, two)

    assert set(events(engine)[2:]) == {("unfollowed", one, two), ("unfollowed", two, one)}
    for pair in ((one, two), (two, one)):
        with pytest.raises(Forbidden, match=f"user {one} blocks user {two}"):
            publisher.follow(*pair)
    assert publisher.unblock(one, two)
    assert not publisher.unblock(one, two)
    assert publisher.follow(two, one)


def test_a_follow_at_the_time_of_a_block_does_not_outlast_it(
    publisher: Publisher, engine: sa.Engine, make_users: MakeUsers
) -> None:
    for _ in range(10):
        one, two = make_users(2)

        def follow(pair: tuple[int, int]) -> None:
            with suppress(Forbidden):
                publisher.follow(*pair)

        with ThreadPoolExecutor(3) as threads:
            blocked = threads.submit(publisher.block, one, two)
            list(threads.map(follow, [(one, two), (two, one)]))
            assert blocked.result()

    assert count(engine, "follows") == 0


def test_nobody_blocks_himself(publisher: Publisher, make_users: MakeUsers) -> None:
    [user] = make_users(1)
    with pytest.raises(InvalidInput, match="cannot block himself"):
        publisher.block(user, user)


def test_a_retweet_at_the_time_of_a_delete_is_there_before_its_event_or_refused(
    publisher: Publisher, engine: sa.Engine, make_users: MakeUsers
) -> None:
    """fan_out deletes the retweets that it finds when it reads the event; one that came after it would stay."""
    author, other = make_users(2)
    for _ in range(20):
        original = publisher.post(NewTweet(author, "hello"))

        def retweet(of: int = original.id) -> Tweet | None:
            try:
                return publisher.retweet(other, of)
            except NotFound:
                return None

        with ThreadPoolExecutor(2) as threads:
            retweeted = threads.submit(retweet)
            threads.submit(publisher.delete, original.id).result()
            made = retweeted.result()
        told = events(engine)
        if made is not None:
            assert told.index(("posted", other, made.id)) < told.index(("deleted", author, original.id))


def test_followers_and_following_are_paged(publisher: Publisher, make_users: MakeUsers) -> None:
    author, *rest = make_users(6)
    publisher.follow_many([(one, author) for one in rest])
    highest = sorted(rest, reverse=True)

    first = publisher.followers(author, Cursor(limit=3))
    second = publisher.followers(author, Cursor(limit=3, max_id=first.next_max_id))

    assert [user.id for user in (*first.users, *second.users)] == highest
    assert second.next_max_id is None
    assert [user.id for user in publisher.following(rest[0]).users] == [author]


def test_coroutines_have_the_same_calls(publisher: Publisher, make_users: MakeUsers) -> None:
    author, other = make_users(2)

    async def use(calls: AsyncPublisher) -> None:
        tweets = await asyncio.gather(*[calls.post(NewTweet(author, f"{number}")) for number in range(20)])
        assert len({tweet.id for tweet in tweets}) == 20
        assert (await calls.reply(other, tweets[0].id, "yes")).reply_to == tweets[0].id
        assert (await calls.retweet(other, tweets[0].id)).retweet_of == tweets[0].id
        assert await calls.follow(other, author)
        assert [user.id for user in (await calls.followers(author)).users] == [other]
        assert await calls.block(author, other)
        assert await calls.delete(tweets[0].id)
        with pytest.raises(NotFound):
            await calls.reply(other, tweets[0].id, "too late")
        await calls.hide_user(author)
        assert (await calls.delete_user(author)).complete

    asyncio.run(use(AsyncPublisher(publisher)))
    names = {name for name, _ in inspect.getmembers(Publisher, inspect.isfunction) if not name.startswith("_")}
    assert names - {"close", "submit"} == {
        name for name, _ in inspect.getmembers(AsyncPublisher, inspect.isfunction) if not name.startswith("_")
    }
