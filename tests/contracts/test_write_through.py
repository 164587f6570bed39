"""Write-through on real Redis nodes: a post is readable at once, and nothing late brings back what was deleted."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from infra import redis_keys
from infra.composition import Stores
from infra.events import DeliveryKind, one_chunk
from infra.rebuild import rebuild
from infra.redis_node import RedisNode
from infra.shard_map import CLUSTERS
from infra.slots import slot_of
from infra.timelines import Kind
from infra.topics import DELIVERIES
from infra.tweet_bodies import TOMBSTONE, Body
from infra.write_through import WriteThrough
from producers.publish import NewTweet, Publisher, now_ms
from producers.snowflake import snowflake
from streams.deliver import Deliverer, Received

MakeUsers = Callable[[int], list[int]]


def own_entries(stores: Stores, author: int) -> list[list[int]]:
    """What each cluster's copy of the author's user timeline holds."""
    return [
        [int(one) for one in stores.timelines.dump(cluster, Kind.USER, [author])[author][1:]] for cluster in CLUSTERS
    ]


def present_author(stores: Stores, make_users: MakeUsers) -> int:
    [author] = make_users(1)
    rebuild(stores.engine, stores.timelines, Kind.USER, [author])
    return author


def retract(stores: Stores, author: int, tweet: int) -> None:
    partition = slot_of(author) % DELIVERIES.partitions
    deliverer = Deliverer(stores.engine, stores.timelines, partition, generation=1)
    deliverer.apply([Received(0, [one_chunk(DeliveryKind.RETRACT_OWN, tweet, 5, [author])])])


def test_when_post_returns_body_and_own_entry_are_in_every_cluster(
    publisher: Publisher, stores: Stores, make_users: MakeUsers
) -> None:
    author = present_author(stores, make_users)

    tweet = publisher.post(NewTweet(author, "hello"))

    assert own_entries(stores, author) == [[tweet.id]] * 3
    for cluster in CLUSTERS:
        assert b"hello" in stores.clusters.node_for(cluster, tweet.id).command("GET", redis_keys.body(tweet.id))


def test_a_user_timeline_that_is_absent_stays_absent(
    publisher: Publisher, stores: Stores, make_users: MakeUsers
) -> None:
    [author] = make_users(1)
    publisher.post(NewTweet(author, "hello"))
    assert [stores.timelines.dump(cluster, Kind.USER, [author])[author] for cluster in CLUSTERS] == [[], [], []]


def test_a_write_through_that_comes_after_the_delete_brings_nothing_back(
    publisher: Publisher, stores: Stores, make_users: MakeUsers
) -> None:
    author = present_author(stores, make_users)
    tweet = publisher.post(NewTweet(author, "hello"))
    publisher.delete(tweet.id)
    retract(stores, author, tweet.id)
    assert own_entries(stores, author) == [[]] * 3

    stores.write_through.put([Body(tweet.id, author, "hello", tweet.created_at)])

    assert own_entries(stores, author) == [[]] * 3
    for cluster in CLUSTERS:
        assert stores.clusters.node_for(cluster, tweet.id).command("GET", redis_keys.body(tweet.id)) == TOMBSTONE


@pytest.mark.parametrize(("age_s", "inserted"), [(30, True), (90, False)])
def test_a_write_through_that_comes_a_minute_late_is_refused(
    stores: Stores, make_users: MakeUsers, age_s: int, inserted: bool
) -> None:
    """By then the mark of a retract need not be there any longer."""
    author = present_author(stores, make_users)
    tweet = snowflake(now_ms() - age_s * 1000, 1, 0)

    stores.write_through.put([Body(tweet, author, "hello", datetime.now(UTC))])

    assert own_entries(stores, author) == [[tweet] if inserted else []] * 3


def test_a_node_that_is_away_is_left_out_and_a_post_does_not_wait_for_it_again(
    stores: Stores, make_users: MakeUsers, monkeypatch: pytest.MonkeyPatch
) -> None:
    author = present_author(stores, make_users)
    now_s, asked = [100.0], list[str]()
    through = WriteThrough(stores.brief, stores.timelines._live, clock_s=lambda: now_s[0])
    start = RedisNode.start

    def refuse_a(self: RedisNode, commands: object, *given: object) -> object:
        asked.append(self.name)
        if self.name.startswith("a"):
            raise ConnectionError("away")
        return start(self, commands, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(RedisNode, "start", refuse_a)
    body = Body(snowflake(now_ms(), 1, 0), author, "hello", datetime.now(UTC))
    for at_s, asks_a in ((100.0, True), (100.5, False), (101.1, True)):
        now_s[0] = at_s
        asked.clear()
        through.put([body])
        assert any(name.startswith("a") for name in asked) is asks_a
    assert own_entries(stores, author) == [[], [body.id], [body.id]]


def test_a_post_by_a_placement_that_is_just_over_is_put_by_the_one_in_force(
    stores: Stores, make_users: MakeUsers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every node refuses the old epoch; without a second try the first reader would have to ask the database."""
    author = present_author(stores, make_users)
    known = stores.clusters.shard_map
    before = replace(known, epoch=known.epoch - 1, copies=replace(known.copies, epoch=known.epoch - 1))
    through = WriteThrough(stores.brief, stores.timelines._live)
    monkeypatch.setattr(stores.shard_maps, "value", lambda *_: before)
    monkeypatch.setattr(stores.shard_maps, "check_now", monkeypatch.undo)
    body = Body(snowflake(now_ms(), 1, 0), author, "hello", datetime.now(UTC))

    through.put([body])

    assert own_entries(stores, author) == [[body.id]] * 3
    assert all(map(through._near.has, known.nodes)), "who refuses is not away"
