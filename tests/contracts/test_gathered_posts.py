"""Posts of many callers that share transactions, on a real database: nobody waits for anybody else's trouble."""

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import sqlalchemy as sa

from infra.composition import Stores
from infra.database import lock_authors
from infra.errors import AuthorBusy, DatabaseUnavailable, NotFound, ZooKeeperUnavailable
from infra.tweet_bodies import Body
from producers import publish
from producers.batches import need_all
from producers.publish import NewTweet, Posted, Publisher
from tests.contracts.test_publish import count
from tests.waiting import wait_until

WITHIN_S = 3.0  # below the time-out of a lock
AT_LAST_S = 10.0

MakeUsers = Callable[[int], list[int]]


def test_an_author_whose_lock_is_held_holds_up_nobody_else(
    publisher: Publisher, engine: sa.Engine, make_users: MakeUsers
) -> None:
    """As that of a publisher which froze inside its transaction."""
    held, other = make_users(2)
    with engine.begin() as connection:
        lock_authors(connection, [held])
        waiting = [publisher.submit(NewTweet(held, f"{number}")) for number in range(3)]
        for number in range(3):
            publisher.post(NewTweet(other, f"{number}"))
        assert not any(one.done() for one in waiting)

    assert len({one.result(AT_LAST_S).id for one in waiting}) == 3


@pytest.fixture
def one_at_a_time(stores: Stores, monkeypatch: pytest.MonkeyPatch) -> Iterator[Publisher]:
    """A publisher whose posts are one transaction at a time: whatever waits there holds up all."""
    monkeypatch.setattr(publish, "POSTS_AT_ONCE", 1)
    with Publisher(stores) as made:
        yield made


@pytest.mark.parametrize("deleted", [True, False])
def test_a_retweet_of_what_is_being_deleted_holds_up_nobody_else_and_is_decided_afterwards(
    one_at_a_time: Publisher, engine: sa.Engine, make_users: MakeUsers, deleted: bool
) -> None:
    author, fan, other = make_users(3)
    original = one_at_a_time.post(NewTweet(author, "hello"))
    with engine.connect() as connection, connection.begin() as delete:
        connection.execute(sa.text("UPDATE tweets SET deleted_at = now() WHERE id = :id"), {"id": original.id})
        retweet = one_at_a_time.submit(NewTweet(fan, retweet_of=original.id))
        for number in range(3):
            one_at_a_time.submit(NewTweet(other, f"{number}")).result(WITHIN_S)
        assert not retweet.done()
        delete.commit() if deleted else delete.rollback()

    if deleted:
        with pytest.raises(NotFound, match=f"tweet {original.id} does not exist"):
            retweet.result(AT_LAST_S)
    else:
        assert retweet.result(AT_LAST_S).retweet_of == original.id


def test_posts_that_are_committed_are_answered_so_when_the_next_transaction_fails(
    publisher: Publisher, engine: sa.Engine, make_users: MakeUsers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that stands in a batch twice makes two transactions of it."""
    [author] = make_users(1)
    new, post, parts = NewTweet(author, "hello", key="k"), publisher._post_locked, list[int]()

    def fail_later(connection: sa.Connection, batch: Sequence[NewTweet], *more: Any, **named: Any) -> Any:
        parts.append(len(batch))
        if len(parts) > 1:
            raise DatabaseUnavailable("it went away")
        return post(connection, batch, *more, **named)

    monkeypatch.setattr(publisher, "_post_locked", fail_later)
    first, again = publisher._post_gathered([new, new])

    assert parts == [1, 1]
    assert isinstance(first, Posted)
    assert isinstance(again, DatabaseUnavailable)
    assert count(engine, "tweets") == 1


def test_the_next_posts_are_committed_while_the_caches_are_still_written(
    publisher: Publisher, engine: sa.Engine, make_users: MakeUsers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that is busy with deliveries holds up the answers, and no transaction."""
    [author] = make_users(1)
    go_on, written = threading.Event(), list[int]()

    def put_later(bodies: Sequence[Body]) -> None:
        assert go_on.wait(AT_LAST_S)
        written.extend(body.id for body in bodies)

    monkeypatch.setattr(publisher._write_through, "put", put_later)
    posts = []
    for number in range(3 * publish.POSTS_AT_ONCE):
        posts.append(publisher.submit(NewTweet(author, f"{number}")))
        wait_until(lambda: count(engine, "tweets") == len(posts), "its commit")
    assert not any(post.done() for post in posts)

    go_on.set()
    assert sorted(post.result(AT_LAST_S).id for post in posts) == sorted(written)


def test_an_answer_that_was_kept_is_not_written_again(
    publisher: Publisher, make_users: MakeUsers, monkeypatch: pytest.MonkeyPatch
) -> None:
    [author] = make_users(1)
    written = list[int]()
    monkeypatch.setattr(publisher._write_through, "put", lambda bodies: written.extend(body.id for body in bodies))
    first = publisher.post(NewTweet(author, "hello", key="k"))

    assert publisher.post(NewTweet(author, "hello", key="k")) == first
    assert written == [first.id]


def test_caches_that_cannot_be_written_fail_no_post(
    publisher: Publisher, engine: sa.Engine, make_users: MakeUsers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is stored: whoever was told otherwise would post it again."""

    def fail() -> None:
        raise ZooKeeperUnavailable("live settings were never read")

    [author] = make_users(1)
    monkeypatch.setattr(publisher._write_through._live, "value", fail)

    assert publisher.submit(NewTweet(author, "hello")).result(AT_LAST_S).author_id == author
    assert len(need_all(publisher.post_many([NewTweet(author, "again")]))) == 1
    assert count(engine, "tweets") == 2


def test_a_post_that_has_to_wait_when_no_thread_takes_it_is_told_so(
    publisher: Publisher, engine: sa.Engine, make_users: MakeUsers
) -> None:
    """As one whose publisher is closed between its try and its wait."""
    [author] = make_users(1)
    publisher._waiting.shutdown()
    with engine.begin() as connection:
        lock_authors(connection, [author])
        with pytest.raises(AuthorBusy):
            publisher.submit(NewTweet(author, "hello")).result(AT_LAST_S)
