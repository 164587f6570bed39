"""A node that cannot be written or read: what is marked, who waits, and what a reader gets (G4, G6, G7)."""

import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import pytest

from consumers.read_timeline import TimelineReader
from infra import metrics, redis_keys
from infra.composition import Stores
from infra.copies import Copies, CopyState
from infra.errors import RedisUnavailable
from infra.paging import Cursor
from infra.redis_clusters import RedisClusters
from infra.redis_node import Argument, RedisNode, Reply
from infra.shard_map import CLUSTERS
from infra.shard_maps import SETTLE_S, ShardMaps
from infra.slots import slot_of
from infra.timeline_windows import Span, look_home
from infra.timelines import Kind, Timelines
from infra.topics import DELIVERIES
from infra.tweet_bodies import TweetBodies
from infra.zookeeper import COPIES_PATH
from producers.publish import NewTweet, Publisher
from streams.deliver import Deliverer
from tests.contracts.outage import TWEET, Outage, deliverer, delivery, holder, listed, states
from tests.fixed_maps import FixedMaps, fixed_maps
from tests.waiting import wait_until


def test_a_node_that_cannot_be_written_is_marked_and_nothing_is_acknowledged_before_readers_know(
    stores: Stores, outage: Outage, user: int
) -> None:
    away, mine = holder(stores, "b", user), deliverer(stores, user)
    outage.begin(away)
    began_s = time.monotonic()

    mine.apply(delivery(user))

    unsettled_s, took_s = mine.unsettled_s(), time.monotonic() - began_s
    assert SETTLE_S - took_s <= unsettled_s <= SETTLE_S
    assert states(stores).of("b", slot_of(user)) is CopyState.DOWN
    assert states(stores).needs_emptying(away, stores.clusters.shard_map.copies.dropped[away])
    assert [listed(stores, holder(stores, cluster, user), user) for cluster in "ac"] == [[TWEET], [TWEET]]


def test_nobody_waits_for_a_node_that_is_known_as_down(stores: Stores, outage: Outage, user: int) -> None:
    away, mine = holder(stores, "b", user), deliverer(stores, user)
    outage.begin(away)
    mine.apply(delivery(user))
    assert mine.unsettled_s() > 0
    wait_until(lambda: stores.clusters.unsettled_s([away]) <= 0, "everybody to know it")
    began_s = time.monotonic()

    mine.apply(delivery(user, 2, TWEET + 1))

    assert time.monotonic() - began_s < SETTLE_S
    assert mine.unsettled_s() == 0
    assert listed(stores, holder(stores, "a", user), user) == [TWEET, TWEET + 1]


def test_with_fewer_than_two_copies_left_a_delivery_waits(stores: Stores, outage: Outage, user: int) -> None:
    outage.begin(holder(stores, "a", user), holder(stores, "b", user))
    work = threading.Thread(target=deliverer(stores, user).apply, args=(delivery(user),))
    work.start()
    wait_until(lambda: states(stores).in_use[slot_of(user)] == 2)
    work.join(2 * SETTLE_S)
    assert work.is_alive()
    assert states(stores).in_use[slot_of(user)] == 2

    outage.end()

    work.join(30)
    assert not work.is_alive()
    written = [cluster for cluster in CLUSTERS if listed(stores, holder(stores, cluster, user), user) == [TWEET]]
    assert len(written) >= 2


def test_a_down_copy_is_never_read(stores: Stores, user: int) -> None:
    away = holder(stores, "b", user)
    stores.clusters.node(away).command("RPUSH", redis_keys.home_timeline(user), TWEET)
    assert stores.clusters.mark_down(away, stores.clusters.shard_map)

    assert away in stores.clusters.shard_map.down_nodes
    for _ in range(50):
        assert look_home(stores.clusters, user, Span(None, 20)).home.ids == []


def test_a_delete_that_cannot_reach_a_copy_marks_it(
    stores: Stores, publisher: Publisher, outage: Outage, user: int
) -> None:
    tweet = publisher.post(NewTweet(user, "hello"))
    away = stores.clusters.shard_map.node_of("c", slot_of(tweet.id))
    outage.begin(away)
    began_s = time.monotonic()

    publisher.delete(tweet.id)

    assert time.monotonic() - began_s >= SETTLE_S
    assert away in stores.clusters.shard_map.down_nodes
    assert stores.bodies.read([tweet.id]) == {}
    assert stores.clusters.node_for("a", tweet.id).command("GET", redis_keys.body(tweet.id)) == b""


def test_a_delete_reaches_a_node_that_was_admitted_a_moment_ago(
    stores: Stores, publisher: Publisher, user: int
) -> None:
    """Who deletes knows it as down still; a reader may know better, and fill in what he read before the delete."""
    tweet = publisher.post(NewTweet(user, "hello"))
    now = stores.clusters.shard_map
    name = now.node_of("a", slot_of(tweet.id))
    before = replace(now, copies=now.copies.without_node(name, now.slots_on(name)))
    clusters = RedisClusters(fixed_maps(before), 1.0)

    TweetBodies(clusters, stores.engine).bury([tweet.id])

    assert stores.clusters.node(name).command("GET", redis_keys.body(tweet.id)) == b""
    clusters.close()


def test_several_tweets_of_a_node_that_is_away_are_deleted_at_once(
    stores: Stores, publisher: Publisher, outage: Outage, user: int
) -> None:
    tweets = [publisher.post(NewTweet(user, "hello")).id for _ in range(20)]
    outage.begin("c1")

    stores.bodies.bury(tweets)

    assert "c1" in stores.clusters.shard_map.down_nodes


def test_two_who_could_not_write_a_node_both_go_on(stores: Stores, user: int) -> None:
    seen, name = stores.clusters.shard_map, holder(stores, "a", user)

    assert stores.clusters.mark_down(name, seen)
    assert stores.clusters.mark_down(name, seen), "the second one saw it serving, too"


def test_a_mark_is_not_made_by_what_was_known_of_an_earlier_incarnation(stores: Stores, user: int) -> None:
    seen, name = stores.clusters.shard_map, holder(stores, "a", user)
    found = stores.zookeeper.read(COPIES_PATH)
    assert found is not None
    admitted = states(stores).with_node(name, seen.slots_on(name), "second life")
    assert stores.zookeeper.compare_and_set(COPIES_PATH, admitted.encode(), found[1])

    assert not stores.clusters.mark_down(name, seen)

    assert states(stores) == admitted


def test_a_delete_by_a_placement_that_is_over_is_not_acknowledged(
    stores: Stores, publisher: Publisher, cut_off: RedisClusters, user: int
) -> None:
    """The tweet's slot may be on another node by now, which got no tombstone."""
    tweet = publisher.post(NewTweet(user, "hello"))
    for name in stores.clusters.shard_map.nodes:
        stores.clusters.node(name).call("install_epoch", 2)

    with pytest.raises(RedisUnavailable, match="newer epoch than 1"):
        TweetBodies(cut_off, stores.engine).bury([tweet.id])


def test_a_page_is_read_while_a_node_is_away(stores: Stores, publisher: Publisher, outage: Outage, user: int) -> None:
    tweet = publisher.post(NewTweet(user, "hello"))
    reader = TimelineReader(stores)
    reader.home(user, Cursor())
    outage.begin(holder(stores, "a", user), stores.clusters.shard_map.node_of("b", slot_of(tweet.id)))

    for _ in range(20):
        assert [one.id for one in reader.home(user, Cursor()).tweets] == [tweet.id]


def test_what_a_filling_copy_lacks_is_asked_of_the_others(stores: Stores, publisher: Publisher, user: int) -> None:
    tweet = publisher.post(NewTweet(user, "hello"))
    name = stores.clusters.shard_map.node_of("a", slot_of(tweet.id))
    filling = stores.clusters.shard_map.copies.changed("a", stores.clusters.shard_map.slots_on(name), CopyState.FILLING)
    clusters = RedisClusters(fixed_maps(replace(stores.clusters.shard_map, copies=filling)), 1.0)
    for cluster in "ac":
        stores.clusters.node_for(cluster, tweet.id).command("DEL", redis_keys.body(tweet.id))

    found = [set(TweetBodies(clusters, stores.engine)._cached([tweet.id])) for _ in range(100)]

    assert {tweet.id} in found, "cluster b has it, and is serving"
    assert stores.clusters.node_for("a", tweet.id).command("EXISTS", redis_keys.body(tweet.id)) == 0
    clusters.close()


def test_a_body_of_before_a_restart_is_refused(stores: Stores, publisher: Publisher, user: int) -> None:
    """A reader stalls between his look at the database and the fill; tweet and tombstone are gone meanwhile."""
    tweet = publisher.post(NewTweet(user, "hello"))
    body = stores.bodies._live([tweet.id])[0]
    seen = stores.clusters.shard_map
    publisher.delete(tweet.id)
    node = stores.clusters.node_for("b", tweet.id)
    node.command("DEL", redis_keys.body(tweet.id))
    node.command("HSET", redis_keys.NODE, "incarnation", "second life")

    stores.bodies._fill([body], seen)

    assert node.command("GET", redis_keys.body(tweet.id)) in (None, b"")


def test_when_no_copy_answers_that_is_an_error_and_no_answer(stores: Stores, outage: Outage, user: int) -> None:
    outage.begin(*stores.clusters.shard_map.nodes)

    with pytest.raises(RedisUnavailable):
        look_home(stores.clusters, user, Span(None, 20))


def test_a_delete_that_met_a_node_while_it_was_admitted_anew_tries_it_again(
    stores: Stores, publisher: Publisher, user: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It hung, was emptied and came back before the delete's own call timed out."""
    tweet = publisher.post(NewTweet(user, "hello"))
    name = stores.clusters.shard_map.node_of("b", slot_of(tweet.id))
    start, calls = RedisNode.start, list[str]()

    def hang_once(self: RedisNode, commands: Sequence[Sequence[Argument]], *given: float | None) -> Reply:
        if self.name != name or commands[0][0] != "SET" or calls:
            return start(self, commands, *given)
        calls.append(name)
        found = stores.zookeeper.read(COPIES_PATH)
        assert found is not None
        seen = stores.clusters.shard_map
        admitted = Copies.decode(found[0]).with_node(name, seen.slots_on(name), "second life")
        assert stores.zookeeper.compare_and_set(COPIES_PATH, admitted.encode(), found[1])
        wait_until(lambda: stores.clusters.shard_map.copies == admitted)
        raise RedisUnavailable("it hung")

    monkeypatch.setattr(RedisNode, "start", hang_once)

    publisher.delete(tweet.id)

    assert calls == [name]
    assert stores.clusters.node(name).command("GET", redis_keys.body(tweet.id)) == b""
    assert name not in stores.clusters.shard_map.down_nodes


def test_a_writer_with_an_old_map_is_refused_until_he_reads_the_new_one_and_that_is_counted(
    stores: Stores, user: int
) -> None:
    """A worker that was frozen while the epoch was raised."""
    old = stores.clusters.shard_map
    maps = FixedMaps(old)
    clusters = RedisClusters(cast(ShardMaps, maps))
    before = metrics.FENCED.labels("deliver")._value.get()
    for name in old.nodes:
        stores.clusters.node(name).call("install_epoch", old.epoch + 1)
    work = threading.Thread(
        target=Deliverer(
            stores.engine, Timelines(clusters, stores.timelines._live), slot_of(user) % DELIVERIES.partitions, 1
        ).apply,
        args=(delivery(user),),
    )

    work.start()
    wait_until(lambda: metrics.FENCED.labels("deliver")._value.get() > before, "the nodes to refuse it")
    assert all(listed(stores, holder(stores, cluster, user), user) == [] for cluster in CLUSTERS)
    assert states(stores).all_serving, "who is refused marks nobody"
    maps.known = replace(old, epoch=old.epoch + 1)
    work.join(30)

    assert all(listed(stores, holder(stores, cluster, user), user) == [TWEET] for cluster in CLUSTERS)
    clusters.close()


def test_a_rebuild_that_is_refused_reads_the_map_again_and_tries_it_once_more(stores: Stores, user: int) -> None:
    new = stores.clusters.shard_map
    name = new.node_of("a", slot_of(user))
    old_copies = replace(new.copies, incarnations={**new.copies.incarnations, name: "an earlier life"})

    class Following(FixedMaps):
        def check_now(self) -> None:
            self.known = new

    clusters = RedisClusters(cast(ShardMaps, Following(replace(new, copies=old_copies))))
    refused = metrics.REFUSED.labels("a")._value.get()

    letters = Timelines(clusters, stores.timelines._live).put_tokens("a", Kind.HOME, [user], 5, "claim")

    assert letters == {user: "P"}
    assert metrics.REFUSED.labels("a")._value.get() == refused + 1
    clusters.close()


def test_a_read_does_not_fail_for_connections_that_were_closed_when_nodes_were_emptied(
    stores: Stores, user: int
) -> None:
    for _ in range(20):
        look_home(stores.clusters, user, Span(None, 20))
    for name in stores.clusters.shard_map.nodes:
        node = RedisNode(name, stores.clusters.shard_map.addresses[name])
        node.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        node.close()

    assert look_home(stores.clusters, user, Span(None, 20)).home.ids == []
