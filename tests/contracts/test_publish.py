"""Publishing on a real database: row and event together, in order, or nothing."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from infra import outbox
from infra.composition import Stores
from infra.database import AUTHOR_LOCKS_MAX
from infra.errors import Conflict, Forbidden, InvalidInput, NotFound
from infra.events import ActivityType, decode_activity
from producers.publish import NewTweet, Publisher
from producers.snowflake import Snowflakes

MakeUsers = Callable[[int], list[int]]


def events(engine: sa.Engine) -> list[tuple[str, int, int]]:
    """(type, author, other id) of the outbox, in order."""
    with engine.connect() as connection:
        rows = connection.execute(sa.text("SELECT aggregateid, type, payload FROM outbox ORDER BY id")).all()
    decoded = [decode_activity(row.payload.encode()) for row in rows]
    assert [(row.aggregateid, row.type) for row in rows] == [(str(one.author_id), one.type) for one in decoded]
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


@pytest.mark.parametrize("bad", [NewTweet(1, "hello"), NewTweet(0, "hello")])
def test_one_bad_tweet_in_a_batch_changes_nothing(
    publisher: Publisher, engine: sa.Engine, make_users: MakeUsers, bad: NewTweet
) -> None:
    [author] = make_users(1)

    with pytest.raises((NotFound, InvalidInput)):
        publisher.post_many([NewTweet(author, "good"), bad])

    assert count(engine, "tweets") == 0
    assert events(engine) == []


def test_a_batch_of_more_authors_than_one_transaction_locks_is_split(publisher: Publisher, engine: sa.Engine) -> None:
    authors = range(1, AUTHOR_LOCKS_MAX + 102)
    with engine.begin() as connection:
        connection.execute(sa.text("INSERT INTO users (id, handle) SELECT a, 'u' || a FROM generate_series(1, 700) a"))

    stored = publisher.post_many([NewTweet(author, "hello") for author in authors])

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
    publishers = [Publisher(engine, stores.bodies) for _ in range(8)]

    def post_some(one: Publisher) -> None:
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

    def hold(connection: sa.Connection, told: list[object]) -> None:
        if threading.current_thread().name == "slow":
            inside.set()
            assert go_on.wait(10)
        append(connection, told)  # type: ignore[arg-type]

    monkeypatch.setattr(outbox, "append", hold)
    first = threading.Thread(target=lambda: publisher.post(NewTweet(slow, "first")), name="slow")
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


@pytest.mark.parametrize("again", [ActivityType.FOLLOWED, ActivityType.UNFOLLOWED])
def test_following_twice_and_unfollowing_nobody_are_conflicts(
    publisher: Publisher, engine: sa.Engine, make_users: MakeUsers, again: ActivityType
) -> None:
    follower, author = make_users(2)
    if again is ActivityType.FOLLOWED:
        publisher.follow(follower, author)
    before = events(engine)

    with pytest.raises(Conflict, match=f"user {follower} .* user {author}"):
        (publisher.follow if again is ActivityType.FOLLOWED else publisher.unfollow)(follower, author)

    assert events(engine) == before


def test_a_batch_of_follows_with_one_that_exists_changes_nothing(
    publisher: Publisher, engine: sa.Engine, make_users: MakeUsers
) -> None:
    follower, one, two = make_users(3)
    publisher.follow(follower, one)

    with pytest.raises(Conflict):
        publisher.follow_many([(follower, two), (follower, one)])

    assert count(engine, "follows") == 1


def test_an_unknown_user_is_named(publisher: Publisher, make_users: MakeUsers) -> None:
    [known] = make_users(1)

    with pytest.raises(NotFound, match="user 99 does not exist"):
        publisher.follow(known, 99)
    with pytest.raises(NotFound, match="user 98 does not exist"):
        publisher.follow(98, known)


def test_a_handle_or_an_id_is_given_once(publisher: Publisher) -> None:
    user = publisher.create_user("ann")

    with pytest.raises(Conflict, match="handle 'ann' is taken"):
        publisher.create_user("ann")
    with pytest.raises(Conflict, match=f"user id {user.id} is taken"):
        publisher.create_user("bob", user.id)


def test_only_the_author_deletes_a_tweet_and_again_is_safe(
    publisher: Publisher, engine: sa.Engine, make_users: MakeUsers
) -> None:
    author, other = make_users(2)
    tweet = publisher.post(NewTweet(author, "hello"))

    with pytest.raises(Forbidden):
        publisher.delete(tweet.id, acting_id=other)
    publisher.delete(tweet.id, acting_id=author)
    publisher.delete(tweet.id, acting_id=author)

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
