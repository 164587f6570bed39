"""Who is cut off from ZooKeeper: what he may leave out, and which copy he takes (G4, G7, G8)."""

from dataclasses import dataclass, replace
from typing import cast

from infra import redis_keys
from infra.composition import Stores
from infra.redis_clusters import RedisClusters
from infra.shard_map import ShardMap
from infra.shard_maps import ShardMaps
from infra.slots import slot_of
from infra.timeline_windows import Span, look_home, look_user_timelines
from infra.topics import DELIVERIES
from infra.tweet_bodies import TweetBodies
from producers.publish import NewTweet, Publisher
from tests.contracts.outage import NOWHERE, TWEET, deliverer, delivery, holder
from tests.fixed_maps import fixed_maps


def test_a_writer_who_is_cut_off_leaves_a_down_node_out_only_when_it_says_that_it_is_not_open(
    stores: Stores, user: int
) -> None:
    name = holder(stores, "a", user)
    assert stores.clusters.mark_down(name, stores.clusters.shard_map)
    assert stores.clusters.may_leave_out(name), "its shard map was just checked"
    clusters = RedisClusters(fixed_maps(stores.clusters.shard_map, cut_off=True), 1.0)

    assert not clusters.may_leave_out(name)
    stores.clusters.node(name).command("HDEL", redis_keys.NODE, "open")
    assert clusters.may_leave_out(name)
    assert not clusters.may_leave_out(holder(stores, "b", user))
    clusters.close()


def test_a_reader_who_is_cut_off_takes_the_copy_that_has_applied_most(
    stores: Stores, cut_off: RedisClusters, user: int
) -> None:
    """Cluster a missed the delivery; he does not know that it is down."""
    deliverer(stores, user).apply(delivery(user))
    behind = stores.clusters.node(holder(stores, "a", user))
    behind.command("RPOP", redis_keys.home_timeline(user))
    behind.command("HSET", redis_keys.control(slot_of(user) % DELIVERIES.partitions), "applied", 0)

    for _ in range(30):
        assert look_home(cut_off, user, Span(None, 20)).home.ids == [TWEET]


def test_a_reader_who_is_cut_off_does_not_trust_a_placement_that_is_over(
    stores: Stores, cut_off: RedisClusters, user: int
) -> None:
    for name in stores.clusters.shard_map.nodes:
        stores.clusters.node(name).call("install_epoch", 2)

    assert look_home(cut_off, user, Span(None, 20)).home.floor is None
    assert look_user_timelines(cut_off, [user], Span(None, 20))[user].floor is None


def test_for_a_reader_who_is_cut_off_a_tombstone_in_any_copy_wins(
    stores: Stores, publisher: Publisher, cut_off: RedisClusters, user: int
) -> None:
    tweet = publisher.post(NewTweet(user, "hello"))
    bodies = TweetBodies(cut_off, stores.engine)
    assert bodies.read([tweet.id])[tweet.id].text == "hello"
    stores.clusters.node_for("b", tweet.id).command("SET", redis_keys.body(tweet.id), "")

    for _ in range(10):
        assert bodies.read([tweet.id]) == {}


def test_for_a_reader_who_is_cut_off_one_copy_of_a_body_is_no_proof(
    stores: Stores, publisher: Publisher, cut_off: RedisClusters, user: int
) -> None:
    """Cluster a missed the tombstone; of the nodes that have it one was emptied, and the other does not answer."""
    tweet = publisher.post(NewTweet(user, "hello"))
    shard_map = stores.clusters.shard_map
    stale, silent = (shard_map.node_of(cluster, slot_of(tweet.id)) for cluster in "ac")
    body = stores.clusters.node(stale).command("GET", redis_keys.body(tweet.id))
    publisher.delete(tweet.id)
    stores.clusters.node(stale).command("SET", redis_keys.body(tweet.id), body)
    stores.clusters.node_for("b", tweet.id).command("DEL", redis_keys.body(tweet.id))
    silenced = replace(shard_map, addresses={**shard_map.addresses, silent: NOWHERE})
    clusters = RedisClusters(fixed_maps(silenced, cut_off=True), 1.0)

    assert TweetBodies(clusters, stores.engine).read([tweet.id]) == {}
    clusters.close()


def test_for_a_reader_who_is_cut_off_two_copies_of_a_body_do_without_the_database(
    stores: Stores, publisher: Publisher, cut_off: RedisClusters, user: int
) -> None:
    tweet = publisher.post(NewTweet(user, "hello"))
    stores.clusters.node_for("b", tweet.id).command("DEL", redis_keys.body(tweet.id))

    assert set(TweetBodies(cut_off, stores.engine)._cached([tweet.id])) == {tweet.id}


def test_a_reader_who_is_cut_off_takes_no_copy_when_only_one_says_how_far_it_is(
    stores: Stores, cut_off: RedisClusters, user: int
) -> None:
    """It may be the one that missed a write: the two others restarted, and had no delivery since."""
    deliverer(stores, user).apply(delivery(user))
    for cluster in "bc":
        stores.clusters.node(holder(stores, cluster, user)).command(
            "DEL", redis_keys.control(slot_of(user) % DELIVERIES.partitions)
        )

    assert look_home(cut_off, user, Span(None, 20)).home.floor is None
    assert look_user_timelines(cut_off, [user], Span(None, 20))[user].floor is None


@dataclass
class Checked:
    """Maps whose check comes in the middle of a look: certain at once, and newer from then on."""

    old: ShardMap
    new: ShardMap
    checked: bool = False

    def value(self) -> ShardMap:
        return self.new if self.checked else self.old

    @property
    def cut_off(self) -> bool:
        was, self.checked = self.checked, True
        return not was


def test_a_check_that_comes_in_between_makes_no_old_shard_map_certain(stores: Stores, user: int) -> None:
    """A writer thought a node down, and a reader thought it serving, when they heard that it is the other way round."""
    name = holder(stores, "a", user)
    serving = stores.clusters.shard_map
    assert stores.clusters.mark_down(name, serving)
    down = stores.clusters.shard_map

    def clusters(old: ShardMap, new: ShardMap) -> RedisClusters:
        return RedisClusters(cast(ShardMaps, Checked(old, new)), 1.0)

    assert not clusters(down, serving).may_leave_out(name)
    stores.clusters.node(name).command("RPUSH", redis_keys.home_timeline(user), TWEET)
    for _ in range(30):
        assert TWEET not in look_home(clusters(serving, down), user, Span(None, 20)).home.ids
