"""Pages on real servers by the rules: retweets once, no reply without its parent, celebrities, floors, round trips."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from random import Random

import pytest
import sqlalchemy as sa

from benchmarks.read_limit import commands_of
from consumers import timeline_source
from consumers.page_rules import RETWEET_SPAN_ENTRIES, Live, Shown
from consumers.read_timeline import Page, State, TimelineReader
from consumers.read_tweet import read_tweet
from infra import redis_keys, timeline_windows
from infra.composition import Stores
from infra.errors import RedisUnavailable
from infra.live_settings import set_live_settings
from infra.paging import LIMIT_MAX, Cursor
from infra.redis_clusters import RedisClusters
from infra.shard_map import CLUSTERS
from infra.timeline_windows import Span, look_home, look_user_timelines
from infra.timelines import Timelines
from infra.tweet_bodies import Body, TweetBodies
from producers.publish import NewTweet, Publisher, need_all
from tests.consumers.timelines import oracle
from tests.fixed_maps import fixed_maps
from tests.waiting import wait_until

MakeUsers = Callable[[int], list[int]]


@pytest.fixture
def reader(stores: Stores) -> TimelineReader:
    return TimelineReader(stores)


@dataclass(frozen=True)
class Cast:
    """A reader, two authors whom he follows, and one of these who is a celebrity."""

    user: int
    authors: list[int]
    celebrity: int


@pytest.fixture
def cast(publisher: Publisher, stores: Stores, make_users: MakeUsers) -> Cast:
    user, *authors, celebrity = make_users(4)
    for author in (*authors, celebrity):
        publisher.follow(user, author)
    make_celebrities(stores, [celebrity])
    return Cast(user, authors, celebrity)


def make_celebrities(stores: Stores, authors: list[int]) -> None:
    with stores.engine.begin() as connection:
        connection.execute(sa.text("UPDATE users SET status = 'pull' WHERE id = ANY (:ids)"), {"ids": authors})


def ids(page: Page) -> list[int]:
    return [tweet.id for tweet in page.tweets]


def forget(stores: Stores, user_id: int, key: bytes) -> None:
    """As if the nodes had evicted it."""
    for cluster in CLUSTERS:
        stores.clusters.node_for(cluster, user_id).command("DEL", key)


# Retweets and replies ------------------------------------------------------------------------------------------------


def test_retweets_of_one_tweet_are_shown_once_with_all_who_retweeted(
    reader: TimelineReader, publisher: Publisher, cast: Cast, make_users: MakeUsers
) -> None:
    [stranger] = make_users(1)
    tweet = publisher.post(NewTweet(stranger, "hello")).id
    first, _, _ = [publisher.retweet(one, tweet).id for one in (cast.authors[0], cast.celebrity, cast.user)]

    page = reader.home(cast.user, Cursor())

    assert ids(page) == [first]
    assert page.retweeted_by == {first: (cast.user, cast.celebrity, cast.authors[0])}
    assert (page.next_max_id, page.state) == (None, State.COMPLETE)


def test_user_timelines_show_every_retweet(reader: TimelineReader, publisher: Publisher, cast: Cast) -> None:
    tweet = publisher.post(NewTweet(cast.authors[0], "hello")).id
    retweets = [publisher.retweet(cast.user, tweet).id for _ in range(2)]

    page = reader.user(cast.user, Cursor())

    assert ids(page) == retweets[::-1]
    assert page.retweeted_by == dict.fromkeys(retweets, (cast.user,))


def test_the_retweet_that_is_shown_does_not_depend_on_the_page(
    reader: TimelineReader, publisher: Publisher, cast: Cast, make_users: MakeUsers
) -> None:
    """The older one is on another page."""
    [stranger] = make_users(1)
    author = cast.authors[0]
    tweet = publisher.post(NewTweet(stranger, "hello")).id
    shown = publisher.retweet(author, tweet).id
    between = [one.id for one in need_all(publisher.post_many([NewTweet(author, f"{n}") for n in range(10)]))]
    publisher.retweet(cast.authors[1], tweet)

    first = reader.home(cast.user, Cursor(10))
    second = reader.home(cast.user, Cursor(10, max_id=first.next_max_id))

    assert (ids(first), ids(second)) == (sorted(between, reverse=True), [shown])
    assert second.retweeted_by == {shown: (cast.authors[1], author)}


@pytest.mark.parametrize("kind", ["home", "user"])
def test_a_reply_is_not_in_a_page_once_its_parent_is_gone_and_older_tweets_fill_it(
    reader: TimelineReader, publisher: Publisher, stores: Stores, cast: Cast, kind: str
) -> None:
    author = cast.authors[0]
    plain = [publisher.post(NewTweet(author, f"{number}")).id for number in range(3)]
    parent = publisher.post(NewTweet(author, "parent")).id
    reply = publisher.reply(author, parent, "reply").id
    read = partial(reader.home, cast.user) if kind == "home" else partial(reader.user, author)
    assert ids(read(Cursor(3))) == [reply, parent, plain[2]]

    publisher.delete(parent)

    page = read(Cursor(3))
    assert (ids(page), page.next_max_id) == (plain[::-1], None)
    assert read_tweet(stores.bodies, reply).text == "reply"


def test_a_reply_goes_with_its_parents_author(
    reader: TimelineReader, publisher: Publisher, cast: Cast, make_users: MakeUsers
) -> None:
    [stranger] = make_users(1)
    parent = publisher.post(NewTweet(stranger, "parent")).id
    publisher.reply(cast.authors[0], parent, "reply")

    publisher.delete_user(stranger)

    assert ids(reader.home(cast.user, Cursor())) == []


def test_a_reply_to_a_retweet_goes_with_the_original(reader: TimelineReader, publisher: Publisher, cast: Cast) -> None:
    """The retweet's own row and body are still there: fan_out deletes it later."""
    original = publisher.post(NewTweet(cast.authors[0], "original")).id
    retweet = publisher.retweet(cast.authors[1], original).id
    reply = publisher.reply(cast.user, retweet, "reply").id
    assert ids(reader.home(cast.user, Cursor())) == [reply, retweet, original]

    publisher.delete(original)

    assert ids(reader.home(cast.user, Cursor())) == []


# A whole timeline against the oracle ---------------------------------------------------------------------------------


@dataclass
class World:
    """What was published, and what pages must show of it at this moment."""

    publisher: Publisher
    random: Random
    tweets: dict[int, Body] = field(default_factory=dict)
    deleted: set[int] = field(default_factory=set)

    def post(self, authors: list[int], count: int) -> None:
        alive = [one for one in self.tweets if self.is_live(one)]
        new = [self._some_tweet(self.random.choice(authors), alive) for _ in range(count)]
        for tweet in need_all(self.publisher.post_many(new)):
            body = Body(tweet.id, tweet.author_id, tweet.text, tweet.created_at, tweet.reply_to, tweet.retweet_of)
            self.tweets[tweet.id] = body

    def _some_tweet(self, author: int, alive: list[int]) -> NewTweet:
        dice = self.random.random()
        if alive and dice < 0.4:  # few are retweeted, so that they are retweeted often
            return NewTweet(author, retweet_of=self.random.choice(alive[-10:]))
        if alive and dice < 0.6:
            return NewTweet(author, "reply", reply_to=self.random.choice(alive))
        return NewTweet(author, "hello")

    def delete(self, count: int) -> None:
        alive = [one for one in self.tweets if self.is_live(one)]
        for tweet in self.random.sample(alive, min(count, len(alive))):
            self.publisher.delete(tweet)
            self.deleted.add(tweet)

    def is_live(self, tweet_id: int | None) -> bool:
        body = self.tweets.get(tweet_id or 0)
        return body is not None and tweet_id not in self.deleted and body.retweet_of not in self.deleted

    def shown(self) -> list[Shown]:
        alive = sorted((body for one, body in self.tweets.items() if self.is_live(one)), key=lambda body: -body.id)
        entries = [Live(body, body.reply_to is None or self.is_live(body.reply_to)) for body in alive]
        return oracle(entries, RETWEET_SPAN_ENTRIES)


def check(page: Page, expected: list[Shown]) -> None:
    assert ids(page) == [one.body.id for one in expected]
    assert page.tweets == [one.body for one in expected]
    assert page.retweeted_by == {one.body.id: one.retweeted_by for one in expected if one.retweeted_by}


@pytest.mark.parametrize("limit", [1, 2, 7, 20, 39, LIMIT_MAX])
def test_a_scroll_is_as_the_oracle_has_it_while_tweets_come_and_go(
    reader: TimelineReader, publisher: Publisher, stores: Stores, cast: Cast, limit: int
) -> None:
    """Nothing applies deliveries here, so those who post meanwhile are the ones whose user timelines are merged, and
    what is deleted stays in the lists. The lists end in the middle: below their floor the database takes over."""
    set_live_settings(stores.zookeeper, timeline_entries=80)
    wait_until(lambda: stores.timelines.live.timeline_entries == 80)
    world = World(publisher, Random(limit))
    everybody = [cast.user, *cast.authors, cast.celebrity]
    for _ in range(10):
        world.post(everybody, 20)
    reader.home(cast.user, Cursor())
    assert look_home(stores.clusters, cast.user, Span(None, 1)).home.floor != 0
    world.delete(20)

    below = None
    for turn in range(400):
        expected = [one for one in world.shown() if below is None or one.body.id < below]
        page = reader.home(cast.user, Cursor(limit, max_id=below))
        check(page, expected[:limit])
        if page.next_max_id is None:
            break
        assert page.next_max_id == expected[limit - 1].body.id
        below = page.next_max_id
        if turn % 4 == 0:
            world.post([cast.user, cast.celebrity], 3)
            world.delete(1)
    assert (page.next_max_id, len(expected) <= limit) == (None, True)

    for bound in world.random.sample(sorted(world.tweets), 8):
        shown = [one for one in world.shown() if one.body.id > bound]
        check(reader.home(cast.user, Cursor(limit, since_id=bound)), shown[:limit])
        check(reader.home(cast.user, Cursor(limit, min_id=bound)), shown[-limit:])


# Celebrities ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def followed_celebrities(publisher: Publisher, stores: Stores, make_users: MakeUsers) -> tuple[int, list[int]]:
    """(a user, five celebrities whom he follows)."""
    user, *celebrities = make_users(6)
    for author in celebrities:
        publisher.follow(user, author)
    make_celebrities(stores, celebrities)
    return user, celebrities


def looks_of(stores: Stores, user: int) -> int:
    """How many calls for timelines one page takes."""
    [sent] = commands_of(stores, [user], Cursor())
    return sum(command[0] == "FCALL_RO" for _, command in sent)


def test_who_follows_more_celebrities_than_a_page_merges_gets_the_same_page_from_the_database(
    reader: TimelineReader,
    publisher: Publisher,
    stores: Stores,
    followed_celebrities: tuple[int, list[int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    user, celebrities = followed_celebrities
    tweets = [publisher.post(NewTweet(author, "hello")).id for author in (*celebrities, user)][::-1]
    assert ids(reader.home(user, Cursor())) == tweets
    assert looks_of(stores, user) >= 2

    monkeypatch.setattr(timeline_windows, "CELEBRITIES_MAX", 4)
    monkeypatch.setattr(timeline_source, "CELEBRITIES_MAX", 4)

    assert look_home(stores.clusters, user, Span(None, 9)).too_many
    for cursor in (Cursor(), Cursor(4), Cursor(4, max_id=tweets[1]), Cursor(2, min_id=tweets[4])):
        page = reader.home(user, cursor)
        upwards = cursor.min_id is not None
        below = [one for one in tweets if one < (cursor.max_id or tweets[0] + 1)]
        assert ids(page) == (tweets[2:4] if upwards else below[: cursor.limit])
        assert page.state is State.COMPLETE
    assert looks_of(stores, user) == 1


def test_a_celebritys_evicted_user_timeline_is_a_miss(
    reader: TimelineReader, publisher: Publisher, stores: Stores, cast: Cast
) -> None:
    tweet = publisher.post(NewTweet(cast.celebrity, "hello")).id
    assert ids(reader.home(cast.user, Cursor())) == [tweet]

    forget(stores, cast.celebrity, redis_keys.user_timeline(cast.celebrity))

    assert ids(reader.home(cast.user, Cursor())) == [tweet]
    found = look_user_timelines(stores.clusters, [cast.celebrity], Span(None, 9))
    assert found[cast.celebrity].ids == [tweet]


def test_while_another_process_rebuilds_a_celebritys_user_timeline_the_page_comes_from_the_database(
    reader: TimelineReader, publisher: Publisher, stores: Stores, cast: Cast, monkeypatch: pytest.MonkeyPatch
) -> None:
    tweet = publisher.post(NewTweet(cast.celebrity, "hello")).id
    monkeypatch.setattr(timeline_source, "BUSY_WAIT_S", 0.05)
    key = redis_keys.user_timeline(cast.celebrity)
    for cluster in CLUSTERS:
        node = stores.clusters.node_for(cluster, cast.celebrity)
        node.call("put_token", stores.clusters.shard_map.fence(node.name), 5, "claim", key)

    page = reader.home(cast.user, Cursor())

    assert (ids(page), page.state) == ([tweet], State.REBUILDING)


def test_reading_gives_timelines_their_whole_time_again_in_every_copy(
    reader: TimelineReader, publisher: Publisher, stores: Stores, cast: Cast
) -> None:
    publisher.post(NewTweet(cast.celebrity, "hello"))
    reader.home(cast.user, Cursor())
    keys = {
        redis_keys.home_timeline(cast.user): cast.user,
        redis_keys.user_timeline(cast.user): cast.user,
        redis_keys.user_timeline(cast.celebrity): cast.celebrity,
    }
    for key, owner in keys.items():
        for cluster in CLUSTERS:
            stores.clusters.node_for(cluster, owner).command("EXPIRE", key, 1_000_000)

    reader.home(cast.user, Cursor())

    for key, owner in keys.items():
        for cluster in CLUSTERS:
            left_s = stores.clusters.node_for(cluster, owner).command("TTL", key)
            assert left_s > stores.timelines.live.timeline_ttl_s - 100, (key, cluster)


# Round trips, and nodes that are away --------------------------------------------------------------------------------


def test_a_page_takes_one_call_for_the_timelines_and_one_command_a_node_for_the_bodies(
    reader: TimelineReader, publisher: Publisher, stores: Stores, make_users: MakeUsers
) -> None:
    user, author = make_users(2)
    publisher.follow(user, author)
    publisher.post_many([NewTweet(author, f"{number}") for number in range(30)])
    reader.home(user, Cursor())

    [sent] = commands_of(stores, [user], Cursor())

    assert [command[0] for _, command in sent] == ["FCALL_RO", "MGET", "MGET"]
    assert len({node for node, _ in sent[1:]}) == 2


def test_celebrities_take_one_more_call_a_node(
    reader: TimelineReader, publisher: Publisher, stores: Stores, followed_celebrities: tuple[int, list[int]]
) -> None:
    user, celebrities = followed_celebrities
    for author in celebrities:
        publisher.post(NewTweet(author, "hello"))
    reader.home(user, Cursor())

    [sent] = commands_of(stores, [user], Cursor())

    looks = [node for node, command in sent if command[0] == "FCALL_RO"]
    assert (len(looks) <= 3, len(set(looks[1:]))) == (True, len(looks) - 1)


def clusters_where_only(stores: Stores, near: str) -> RedisClusters:
    """As if the nodes of the other clusters did not answer."""
    known = stores.clusters.shard_map
    addresses = {name: url if name[0] == near else "redis://127.0.0.1:1" for name, url in known.addresses.items()}
    return RedisClusters(fixed_maps(replace(known, addresses=addresses)))


@pytest.fixture(params=CLUSTERS)
def one_cluster(request: pytest.FixtureRequest, stores: Stores) -> Iterator[Stores]:
    clusters = clusters_where_only(stores, request.param)
    yield replace(
        stores, timelines=Timelines(clusters, stores.timelines._live), bodies=TweetBodies(clusters, stores.engine)
    )
    clusters.close()


def test_one_cluster_is_enough(
    reader: TimelineReader, publisher: Publisher, stores: Stores, one_cluster: Stores, cast: Cast
) -> None:
    tweets = [publisher.post(NewTweet(author, "hello")).id for author in (*cast.authors, cast.celebrity)][::-1]
    reader.home(cast.user, Cursor())

    for _ in range(5):  # the clusters are asked in any order
        assert ids(TimelineReader(one_cluster).home(cast.user, Cursor())) == tweets


def test_without_any_node_a_look_is_an_error_and_not_an_absent_timeline(stores: Stores, cast: Cast) -> None:
    clusters = clusters_where_only(stores, "none")
    try:
        with pytest.raises(RedisUnavailable):
            look_home(clusters, cast.user, Span(None, 9))
        with pytest.raises(RedisUnavailable):
            look_user_timelines(clusters, [cast.celebrity], Span(None, 9))
    finally:
        clusters.close()
