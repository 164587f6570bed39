"""Reading on real servers: pages are full, ordered, seamless and never show what was deleted."""

from collections.abc import Callable
from functools import partial

import pytest
import sqlalchemy as sa
from prometheus_client import REGISTRY

from consumers.read_timeline import State, TimelineReader
from consumers.read_tweet import read_tweet
from infra import redis_keys
from infra.composition import Stores
from infra.errors import InvalidInput, NotFound
from infra.live_settings import set_live_settings
from infra.paging import LIMIT_MAX, Cursor
from infra.shard_map import CLUSTERS
from infra.timeline_windows import Span, look_home
from infra.timelines import Kind
from infra.tweet_bodies import Body
from producers.publish import NewTweet, Publisher, need_all

MakeUsers = Callable[[int], list[int]]


@pytest.fixture
def reader(stores: Stores) -> TimelineReader:
    return TimelineReader(stores)


@pytest.fixture
def pair(publisher: Publisher, make_users: MakeUsers) -> tuple[int, int]:
    """(user, the author whom he follows)."""
    user, author = make_users(2)
    publisher.follow(user, author)
    return user, author


def post(publisher: Publisher, author: int, count: int) -> list[int]:
    """Ids, newest first."""
    return [publisher.post(NewTweet(author, f"tweet {number}")).id for number in range(count)][::-1]


def ids(tweets: list[Body]) -> list[int]:
    return [tweet.id for tweet in tweets]


def walk(reader: TimelineReader, user: int, limit: int) -> list[int]:
    """All pages from the newest to the end."""
    seen: list[int] = []
    page = reader.home(user, Cursor(limit))
    seen += ids(page.tweets)
    while page.next_max_id is not None:
        page = reader.home(user, Cursor(limit, max_id=page.next_max_id))
        seen += ids(page.tweets)
    return seen


def test_a_first_read_shows_what_the_followed_posted_newest_first(
    reader: TimelineReader, publisher: Publisher, pair: tuple[int, int]
) -> None:
    user, author = pair
    tweets = post(publisher, author, 3)

    page = reader.home(user, Cursor())

    assert ids(page.tweets) == tweets
    assert (page.next_max_id, page.state) == (None, State.COMPLETE)
    assert page.tweets[0].text == "tweet 2"


def test_ones_own_tweets_are_merged_in(reader: TimelineReader, publisher: Publisher, pair: tuple[int, int]) -> None:
    user, author = pair
    one, own, two = post(publisher, author, 1)[0], post(publisher, user, 1)[0], post(publisher, author, 1)[0]

    assert ids(reader.home(user, Cursor()).tweets) == [two, own, one]


def test_a_celebritys_tweets_are_merged_in(
    reader: TimelineReader, publisher: Publisher, stores: Stores, pair: tuple[int, int]
) -> None:
    user, author = pair
    tweets = post(publisher, author, 3)
    with stores.engine.begin() as connection:
        connection.execute(sa.text("UPDATE users SET status = 'pull' WHERE id = :id"), {"id": author})

    assert ids(reader.home(user, Cursor()).tweets) == tweets
    look = look_home(stores.clusters, user, Span(None, 9))
    assert (look.home.ids, look.celebrities) == ([], [author])


@pytest.mark.parametrize("limit", [1, 2, 7, 10, 11])
def test_pages_join_without_a_hole_or_a_double(
    reader: TimelineReader, publisher: Publisher, pair: tuple[int, int], limit: int
) -> None:
    user, author = pair
    tweets = [*post(publisher, author, 5), *post(publisher, user, 3), *post(publisher, author, 2)]

    assert walk(reader, user, limit) == sorted(tweets, reverse=True)


def test_below_the_floor_the_database_takes_over_without_a_seam(
    reader: TimelineReader, publisher: Publisher, stores: Stores, pair: tuple[int, int]
) -> None:
    user, author = pair
    set_live_settings(stores.zookeeper, timeline_entries=80)
    tweets = need_all(publisher.post_many([NewTweet(author, f"{number}") for number in range(130)]))
    own = need_all(publisher.post_many([NewTweet(user, f"{number}") for number in range(20)]))

    seen = walk(reader, user, LIMIT_MAX)

    assert look_home(stores.clusters, user, Span(None, 9)).home.floor == tweets[49].id
    assert seen == sorted([tweet.id for tweet in [*tweets, *own]], reverse=True)


def test_a_page_is_full_although_some_of_its_tweets_were_deleted(
    reader: TimelineReader, publisher: Publisher, pair: tuple[int, int]
) -> None:
    """The retracts have not been applied: the timeline still holds what the bodies say is gone."""
    user, author = pair
    tweets = post(publisher, author, 20)
    reader.home(user, Cursor())
    for at in (0, 1, 2, 6, 7):
        publisher.delete(tweets[at])
    live = [tweet for at, tweet in enumerate(tweets) if at not in (0, 1, 2, 6, 7)]

    assert ids(reader.home(user, Cursor(5)).tweets) == live[:5]
    assert walk(reader, user, 5) == live


def test_a_deleted_tweet_is_shown_to_nobody_once_the_delete_is_acknowledged(
    reader: TimelineReader, publisher: Publisher, stores: Stores, pair: tuple[int, int]
) -> None:
    user, author = pair
    [tweet] = post(publisher, author, 1)
    retweet = publisher.post(NewTweet(user, "", retweet_of=tweet)).id
    assert ids(reader.home(user, Cursor()).tweets) == [retweet, tweet]

    publisher.delete(tweet)

    assert reader.home(user, Cursor()).tweets == []
    for gone in (tweet, retweet):
        with pytest.raises(NotFound):
            read_tweet(stores.bodies, gone)


def test_a_body_that_was_read_before_the_delete_is_not_put_back(
    stores: Stores, publisher: Publisher, pair: tuple[int, int]
) -> None:
    _, author = pair
    tweet = publisher.post(NewTweet(author, "hello"))
    stale = Body(tweet.id, author, "hello", tweet.created_at)
    publisher.delete(tweet.id)

    assert stores.bodies._fill([stale], stores.clusters.shard_map) == {}

    for cluster in CLUSTERS:
        assert stores.clusters.node_for(cluster, tweet.id).command("GET", redis_keys.body(tweet.id)) == b""


def test_a_body_is_not_put_back_on_a_node_that_lost_its_tombstone(
    stores: Stores, publisher: Publisher, pair: tuple[int, int]
) -> None:
    _, author = pair
    tweet = publisher.post(NewTweet(author, "hello"))
    stale = Body(tweet.id, author, "hello", tweet.created_at)
    publisher.delete(tweet.id)
    stores.clusters.node_for("b", tweet.id).command("DEL", redis_keys.body(tweet.id))

    assert stores.bodies._fill([stale], stores.clusters.shard_map) == {}

    for cluster in CLUSTERS:
        assert stores.clusters.node_for(cluster, tweet.id).command("GET", redis_keys.body(tweet.id)) == b""


def test_since_id_and_min_id_page_as_in_mastodon(
    reader: TimelineReader, publisher: Publisher, pair: tuple[int, int]
) -> None:
    user, author = pair
    tweets = post(publisher, author, 6)

    assert ids(reader.home(user, Cursor(2, since_id=tweets[4])).tweets) == tweets[:2]
    assert ids(reader.home(user, Cursor(9, since_id=tweets[4])).tweets) == tweets[:4]
    assert ids(reader.home(user, Cursor(2, min_id=tweets[4])).tweets) == tweets[2:4]
    assert ids(reader.home(user, Cursor(9, max_id=tweets[1], min_id=tweets[4])).tweets) == tweets[2:4]


def test_an_unknown_user_is_not_found_and_leaves_no_timeline(reader: TimelineReader, stores: Stores) -> None:
    for read in (reader.home, reader.user):
        with pytest.raises(NotFound, match="user 12345 does not exist"):
            read(12345, Cursor())
    assert all(stores.timelines.dump(cluster, Kind.HOME, [12345]) == {12345: []} for cluster in CLUSTERS)


@pytest.mark.parametrize("limit", [0, LIMIT_MAX + 1])
def test_a_limit_outside_its_range_is_refused(limit: int) -> None:
    with pytest.raises(InvalidInput, match=f"limit is {limit}"):
        Cursor(limit)


def test_while_another_process_rebuilds_the_page_comes_from_the_database(
    reader: TimelineReader,
    publisher: Publisher,
    stores: Stores,
    pair: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    user, author = pair
    tweets = post(publisher, author, 3)
    monkeypatch.setattr("consumers.timeline_source.BUSY_WAIT_S", 0.05)
    stores.timelines.put_tokens("a", Kind.HOME, [user], 5, "claim")

    page = reader.home(user, Cursor())

    assert (ids(page.tweets), page.state) == (tweets, State.REBUILDING)


def test_a_cluster_that_is_away_is_not_missed(
    reader: TimelineReader, publisher: Publisher, stores: Stores, pair: tuple[int, int]
) -> None:
    user, author = pair
    tweets = post(publisher, author, 3)
    reader.home(user, Cursor())
    for cluster in ("a", "b"):
        stores.clusters.node_for(cluster, user).command("DEL", redis_keys.home_timeline(user))

    assert ids(reader.home(user, Cursor()).tweets) == tweets


def forget_bodies(reader: TimelineReader, tweets: list[int]) -> None:
    """As if the nodes had evicted them: they were written through."""
    for cluster in CLUSTERS:
        for tweet in tweets:
            reader._stores.clusters.node_for(cluster, tweet).command("DEL", redis_keys.body(tweet))


def counted(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"fanfold_{name}_total", labels) or 0.0


def test_misses_rebuilds_and_where_pages_came_from_are_counted(
    reader: TimelineReader, publisher: Publisher, pair: tuple[int, int]
) -> None:
    user, author = pair
    forget_bodies(reader, post(publisher, author, 3))
    watched = {
        "missed homes": partial(counted, "misses", kind="home"),
        "missed user timelines": partial(counted, "misses", kind="user"),
        "missed bodies": partial(counted, "misses", kind="body"),
        "rebuilt homes": partial(counted, "rebuilds", kind="home", result="rebuilt"),
        "pages from memory": partial(counted, "pages", kind="home", source="memory"),
    }

    def changes(read: Callable[[], object]) -> dict[str, float]:
        before = {name: count() for name, count in watched.items()}
        read()
        return {name: count() - before[name] for name, count in watched.items()}

    # The reader's own user timeline is part of his home page, so it is missed as well.
    assert changes(lambda: reader.home(user, Cursor())) == {
        "missed homes": 1,
        "missed user timelines": 1,
        "missed bodies": 3,
        "rebuilt homes": 1,
        "pages from memory": 1,
    }
    assert changes(lambda: reader.home(user, Cursor())) == dict.fromkeys(watched, 0) | {"pages from memory": 1}


def test_a_page_below_the_floor_is_counted_as_the_databases(
    reader: TimelineReader, publisher: Publisher, pair: tuple[int, int], stores: Stores
) -> None:
    user, author = pair
    set_live_settings(stores.zookeeper, timeline_entries=100)
    post(publisher, author, 120)
    before = counted("pages", kind="home", source="below_floor")

    walk(reader, user, LIMIT_MAX)

    assert counted("pages", kind="home", source="below_floor") > before
