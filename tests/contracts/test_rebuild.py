"""Rebuild on real servers: token, fresh read, merge if the token is mine, in every copy that lacks the timeline."""

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import cast

import pytest
import sqlalchemy as sa

from infra import rebuild as module
from infra import redis_keys, timelines
from infra.composition import Stores
from infra.errors import TokenLost
from infra.live_settings import DAY_S, LiveSettings
from infra.rebuild import Outcome, rebuild
from infra.shard_map import CLUSTERS
from infra.timelines import Kind, Snapshot, Timelines
from infra.zookeeper import Watched
from producers.publish import NewTweet, Publisher, need_all

MakeUsers = Callable[[int], list[int]]


def listed(stores: Stores, user_id: int, kind: Kind = Kind.HOME) -> dict[str, list[int]]:
    """Each copy's list, head first."""
    return {
        cluster: [int(one) for one in stores.timelines.dump(cluster, kind, [user_id])[user_id]] for cluster in CLUSTERS
    }


def in_every_copy(ids: Sequence[int]) -> dict[str, list[int]]:
    return {cluster: [0, *ids] for cluster in CLUSTERS}


@pytest.fixture
def reader_and_tweets(publisher: Publisher, make_users: MakeUsers) -> tuple[int, list[int]]:
    reader, author, stranger = make_users(3)
    publisher.follow(reader, author)
    tweets = [tweet.id for tweet in need_all(publisher.post_many([NewTweet(author, "hi"), NewTweet(author, "ho")]))]
    publisher.post(NewTweet(stranger, "not for you"))
    gone = publisher.post(NewTweet(author, "deleted"))
    publisher.delete(gone.id)
    return reader, tweets


def test_a_missing_timeline_is_rebuilt_in_all_copies(stores: Stores, reader_and_tweets: tuple[int, list[int]]) -> None:
    reader, tweets = reader_and_tweets

    assert rebuild(stores.engine, stores.timelines, Kind.HOME, [reader]) == {reader: Outcome.REBUILT}

    assert listed(stores, reader) == in_every_copy(tweets)


def test_timelines_that_take_several_calls_of_a_node_are_all_rebuilt(
    stores: Stores, publisher: Publisher, make_users: MakeUsers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timelines, "MERGE_LISTS_MAX", 2)
    author, *readers = make_users(20)
    for reader in readers:
        publisher.follow(reader, author)
    tweet = publisher.post(NewTweet(author, "hello"))

    outcomes = rebuild(stores.engine, stores.timelines, Kind.HOME, readers)

    assert outcomes == dict.fromkeys(readers, Outcome.REBUILT)
    assert all(listed(stores, reader) == in_every_copy([tweet.id]) for reader in readers)


def test_a_rebuilt_home_timeline_makes_its_user_active(
    stores: Stores, reader_and_tweets: tuple[int, list[int]]
) -> None:
    reader, _ = reader_and_tweets
    rebuild(stores.engine, stores.timelines, Kind.HOME, [reader])

    with stores.engine.connect() as connection:
        active = connection.execute(sa.text("SELECT id FROM users WHERE active_until > now() + interval '30 days'"))
        assert list(active.scalars()) == [reader]


def test_live_settings_that_change_meanwhile_leave_no_copy_that_outlasts_its_user_being_active(
    stores: Stores, reader_and_tweets: tuple[int, list[int]]
) -> None:
    reader, _ = reader_and_tweets
    longer = (LiveSettings(timeline_ttl_s=days * DAY_S) for days in itertools.count(2, 2))
    changing = cast(Watched[LiveSettings], SimpleNamespace(value=partial(next, longer)))

    rebuild(stores.engine, Timelines(stores.clusters, changing), Kind.HOME, [reader])

    key = redis_keys.home_timeline(reader)
    left_s = [stores.clusters.node_for(cluster, reader).command("TTL", key) for cluster in CLUSTERS]
    assert max(left_s) <= 2 * DAY_S
    with stores.engine.connect() as connection:
        active = connection.execute(sa.text("SELECT id FROM users WHERE active_until > now() + interval '2 days'"))
        assert list(active.scalars()) == [reader]


def test_a_user_without_tweets_gets_a_timeline_that_is_present_and_empty(stores: Stores, make_users: MakeUsers) -> None:
    [reader] = make_users(1)

    rebuild(stores.engine, stores.timelines, Kind.HOME, [reader])

    assert listed(stores, reader) == in_every_copy([])


def test_an_authors_own_tweets_are_rebuilt(stores: Stores, publisher: Publisher, make_users: MakeUsers) -> None:
    [author] = make_users(1)
    tweets = [publisher.post(NewTweet(author, f"{number}")).id for number in range(3)]

    rebuild(stores.engine, stores.timelines, Kind.USER, [author])

    assert listed(stores, author, Kind.USER) == in_every_copy(tweets)


def test_celebrities_are_left_out(stores: Stores, reader_and_tweets: tuple[int, list[int]]) -> None:
    reader, _ = reader_and_tweets
    with stores.engine.begin() as connection:
        connection.execute(sa.text("UPDATE users SET status = 'pull'"))

    rebuild(stores.engine, stores.timelines, Kind.HOME, [reader])

    assert listed(stores, reader) == in_every_copy([])


def test_only_the_copies_that_lack_the_timeline_are_written(
    stores: Stores, reader_and_tweets: tuple[int, list[int]]
) -> None:
    reader, tweets = reader_and_tweets
    rebuild(stores.engine, stores.timelines, Kind.HOME, [reader])
    stores.clusters.node_for("b", reader).command("DEL", redis_keys.home_timeline(reader))
    stores.clusters.node_for("c", reader).command("RPOP", redis_keys.home_timeline(reader))

    assert rebuild(stores.engine, stores.timelines, Kind.HOME, [reader]) == {reader: Outcome.REBUILT}

    assert listed(stores, reader) == in_every_copy(tweets) | {"c": [0, tweets[0]]}


def test_a_present_timeline_is_left_alone(stores: Stores, reader_and_tweets: tuple[int, list[int]]) -> None:
    reader, _ = reader_and_tweets
    rebuild(stores.engine, stores.timelines, Kind.HOME, [reader])

    assert rebuild(stores.engine, stores.timelines, Kind.HOME, [reader]) == {reader: Outcome.PRESENT}


def test_one_of_two_rebuilds_at_the_same_time_is_enough(
    stores: Stores, reader_and_tweets: tuple[int, list[int]]
) -> None:
    reader, _ = reader_and_tweets
    stores.timelines.put_tokens("a", Kind.HOME, [reader], 5, "claim")

    assert rebuild(stores.engine, stores.timelines, Kind.HOME, [reader]) == {reader: Outcome.BUSY}


ONE_FOR_ONE_LIST = b"\0\1" + b"\0\0" + bytes(4)  # how many tweets the list gets, which, and its message


def test_a_removal_during_a_rebuild_makes_it_start_again_with_a_fresh_read(
    stores: Stores,
    publisher: Publisher,
    reader_and_tweets: tuple[int, list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The snapshot holds a tweet that is deleted and retracted before the merge."""
    reader, tweets = reader_and_tweets
    read, reads = module.read_snapshots, list[Sequence[int]]()

    def read_then_retract(engine: sa.Engine, kind: Kind, users: Sequence[int], length: int) -> list[Snapshot]:
        snapshots = read(engine, kind, users, length)
        if not reads:
            publisher.delete(tweets[0])
            key = redis_keys.home_timeline(reader)
            for cluster in CLUSTERS:
                node = stores.clusters.node_for(cluster, reader)
                fence = stores.clusters.shard_map.fence(node.name)
                node.call("apply", 0, fence, 1, 1, 0, 0, 800, "R", 0, tweets[0], key, ONE_FOR_ONE_LIST)
        reads.append(users)
        return snapshots

    monkeypatch.setattr(module, "read_snapshots", read_then_retract)
    rebuild(stores.engine, stores.timelines, Kind.HOME, [reader])

    assert len(reads) == 2
    assert listed(stores, reader) == in_every_copy(tweets[1:])


def test_a_rebuild_that_is_always_disturbed_gives_up_with_an_error(
    stores: Stores, reader_and_tweets: tuple[int, list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, _ = reader_and_tweets
    read = module.read_snapshots

    def read_then_take(engine: sa.Engine, kind: Kind, users: Sequence[int], length: int) -> list[Snapshot]:
        for cluster in CLUSTERS:
            stores.clusters.node_for(cluster, reader).command("DEL", redis_keys.home_timeline(reader))
        return read(engine, kind, users, length)

    monkeypatch.setattr(module, "read_snapshots", read_then_take)
    with pytest.raises(TokenLost, match=str(reader)):
        rebuild(stores.engine, stores.timelines, Kind.HOME, [reader])


def test_renewing_a_present_timeline_fills_it_up_in_every_copy(
    stores: Stores, reader_and_tweets: tuple[int, list[int]]
) -> None:
    reader, tweets = reader_and_tweets
    rebuild(stores.engine, stores.timelines, Kind.HOME, [reader])
    for cluster in CLUSTERS:
        stores.clusters.node_for(cluster, reader).command("RPOP", redis_keys.home_timeline(reader))

    rebuild(stores.engine, stores.timelines, Kind.HOME, [reader], renew=CLUSTERS)

    assert listed(stores, reader) == in_every_copy(tweets)


def test_a_batch_of_users_is_rebuilt_at_once(stores: Stores, publisher: Publisher, make_users: MakeUsers) -> None:
    author, *readers = make_users(40)
    publisher.follow_many([(reader, author) for reader in readers])
    tweet = publisher.post(NewTweet(author, "hi")).id

    rebuild(stores.engine, stores.timelines, Kind.HOME, readers)

    for reader in readers:
        assert listed(stores, reader) == in_every_copy([tweet])
