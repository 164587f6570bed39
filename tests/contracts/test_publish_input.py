"""What the publishing calls take and what not: wrong types, many from anywhere, and nothing after the end."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa

from infra import outbox
from infra.composition import Stores
from infra.errors import Closed, InvalidInput
from infra.paging import Cursor
from producers.publish import NewTweet, Publisher, need_all

MakeUsers = Callable[[int], list[int]]

WRONG: list[Any] = [None, b"1", 1.0, True, [], {}]


def test_a_value_of_a_wrong_type_is_bad_input_and_holds_up_no_other(
    publisher: Publisher, engine: sa.Engine, make_users: MakeUsers
) -> None:
    one, other = make_users(2)
    nothing: Any = None
    limits: list[Any] = [None, True, 0, 41]
    ids: list[Any] = ["1", True, -1, 1 << 63]
    calls: list[Callable[[], Any]] = [
        *[partial(publisher.post, bad) for bad in WRONG],
        *[partial(publisher.post, NewTweet(bad, "x")) for bad in WRONG],
        *[partial(publisher.post, NewTweet(one, bad)) for bad in WRONG if bad is not None],
        *[partial(publisher.post, NewTweet(one, "x", key=bad)) for bad in WRONG if bad is not None],
        *[partial(publisher.post, NewTweet(one, "x", reply_to=bad)) for bad in WRONG if bad is not None],
        *[partial(publisher.post, NewTweet(one, retweet_of=bad)) for bad in WRONG if bad is not None],
        *[partial(publisher.post, NewTweet(one, "x", traceparent=bad)) for bad in [*WRONG, "00-1"] if bad is not None],
        *[partial(publisher.delete, bad) for bad in WRONG],
        *[partial(publisher.delete, 1, bad) for bad in WRONG if bad is not None],
        *[partial(publisher.follow, bad, other) for bad in WRONG],
        *[partial(publisher.unfollow, one, bad) for bad in WRONG],
        *[partial(publisher.block, bad, other) for bad in WRONG],
        *[partial(publisher.unblock, one, bad) for bad in WRONG],
        *[partial(publisher.like, bad, 1) for bad in WRONG],
        *[partial(publisher.unlike, one, bad) for bad in WRONG],
        *[partial(publisher.create_user, bad) for bad in WRONG],
        *[partial(publisher.create_user, "ada", bad) for bad in WRONG if bad is not None],
        *[partial(publisher.create_user, "ada", key=bad) for bad in WRONG if bad is not None],
        *[partial(call, bad) for call in (publisher.delete_user, publisher.hide_user) for bad in WRONG],
        *[partial(call, bad) for call in (publisher.followers, publisher.following) for bad in WRONG],
        *[partial(call, nothing) for call in (publisher.post_many, publisher.follow_many, publisher.unfollow_many)],
        *[partial(Cursor, bad) for bad in limits],
        *[partial(Cursor, max_id=bad) for bad in ids],
    ]
    for call in calls:
        with pytest.raises(InvalidInput):
            call()
    assert outbox.is_empty(engine)

    pairs: Any = [(one, other), (one,), "ab", None, (one, "2"), (one, other, other)]
    followed, *refused = publisher.follow_many(pairs)
    assert followed is True
    assert [type(result) for result in refused] == [InvalidInput] * 5


def test_many_may_come_from_a_generator(publisher: Publisher, make_users: MakeUsers) -> None:
    users = make_users(3)

    tweets = need_all(publisher.post_many(NewTweet(user, f"of {user}") for user in users))

    assert [tweet.author_id for tweet in tweets] == users
    assert publisher.follow_many((users[0], user) for user in users[1:]) == [True, True]


def test_a_publisher_that_is_closed_says_so(stores: Stores, make_users: MakeUsers) -> None:
    [author] = make_users(1)
    publisher = Publisher(stores)
    publisher.close()

    with pytest.raises(Closed, match="closed"):
        publisher.post(NewTweet(author, "late"))
