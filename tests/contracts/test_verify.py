"""What is applied outside of the live order, on real servers: it is compared with the database when it is applied."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import sqlalchemy as sa

from infra import redis_keys
from infra.composition import Stores
from infra.events import Delivery, DeliveryKind, one_chunk
from infra.rebuild import rebuild
from infra.shard_map import CLUSTERS
from infra.timeline_windows import Span, look_home
from infra.timelines import Kind
from producers.publish import NewTweet, Publisher
from streams.deliver import Deliverer, Received
from streams.deliver_together import apply_together
from streams.node_calls import Placed
from streams.verify import verified

MakeUsers = Callable[[int], list[int]]

LENGTH = 800


class World:
    """A reader with timelines in every copy, and authors whom he follows, followed once, and whom readers merge."""

    def __init__(self, stores: Stores, publisher: Publisher, make_users: MakeUsers) -> None:
        self.stores = stores
        self.publisher = publisher
        self.reader, self.followed, self.unfollowed, self.celebrity = make_users(4)
        authors = (self.followed, self.unfollowed, self.celebrity)
        rebuild(stores.engine, stores.timelines, Kind.HOME, [self.reader])
        rebuild(stores.engine, stores.timelines, Kind.USER, [self.followed])
        stores.timelines.fill_celebrities([self.reader], lambda users: dict.fromkeys(users, ()))
        publisher.follow_many([(self.reader, author) for author in authors])
        self.live, self.dead, self.of_unfollowed, self.of_celebrity = (
            publisher.post(NewTweet(author, "one")).id for author in (self.followed, *authors)
        )
        publisher.delete(self.dead, self.followed)
        publisher.unfollow(self.reader, self.unfollowed)
        own = redis_keys.user_timeline(self.followed)  # without what the publisher has put there himself
        stores.clusters.on_each_copy(self.followed, lambda node: node.command("LTRIM", own, 0, 0))
        with stores.engine.begin() as connection:
            connection.execute(
                sa.text("UPDATE users SET status = 'pull', status_before = 'both' WHERE id = :id"),
                {"id": self.celebrity},
            )
        self._deliverer = Deliverer(stores.engine, stores.timelines, partition=3, generation=1)
        self._offset = 0

    def message(self, *records: Delivery) -> Received:
        self._offset += 1
        return Received(self._offset, records)

    def apply(self, *records: Delivery) -> None:
        """Each in a message of its own."""
        self._deliverer.apply([self.message(record) for record in records])

    def home(self) -> list[int]:
        """The reader's entries, the same in every copy."""
        [found] = {self._listed(cluster, Kind.HOME, self.reader) for cluster in CLUSTERS}
        return list(found)

    def own(self) -> list[int]:
        [found] = {self._listed(cluster, Kind.USER, self.followed) for cluster in CLUSTERS}
        return list(found)

    def celebrities(self) -> list[int]:
        return sorted(look_home(self.stores.clusters, self.reader, Span(None, 10)).celebrities or ())

    def _listed(self, cluster: str, kind: Kind, user: int) -> tuple[int, ...]:
        return tuple(int(one) for one in self.stores.timelines.dump(cluster, kind, [user])[user][1:])


@pytest.fixture
def world(stores: Stores, publisher: Publisher, make_users: MakeUsers) -> World:
    return World(stores, publisher, make_users)


def again(kind: DeliveryKind, subject: int, targets: Sequence[int], ids: Sequence[int] = ()) -> Delivery:
    made = one_chunk(kind, subject, 5, targets, np.array(ids, dtype=np.uint64))
    return Delivery(made.kind, made.subjects, made.published_ms, made.counts, made.targets, made.ids, verify=True)


def test_only_what_is_live_and_followed_and_pushed_is_delivered(world: World) -> None:
    deliver, own = DeliveryKind.DELIVER, DeliveryKind.DELIVER_OWN

    world.apply(
        *(again(deliver, tweet, [world.reader]) for tweet in (world.live, world.dead, world.of_unfollowed)),
        again(deliver, world.of_celebrity, [world.reader]),
        *(again(own, tweet, [world.followed]) for tweet in (world.live, world.dead)),
    )

    assert (world.home(), world.own()) == ([world.live], [world.live])


def test_only_what_is_dead_is_retracted(world: World) -> None:
    """The dead one is put in as a wrong earlier delivery would have left it."""
    unchecked = [one_chunk(DeliveryKind.DELIVER, tweet, 5, [world.reader]) for tweet in (world.live, world.dead)]
    unchecked += [one_chunk(DeliveryKind.DELIVER_OWN, tweet, 5, [world.followed]) for tweet in (world.live, world.dead)]
    world.apply(*unchecked)
    assert len(world.home()) == len(world.own()) == 2

    world.apply(
        *(again(DeliveryKind.RETRACT, tweet, [world.reader]) for tweet in (world.live, world.dead)),
        *(again(DeliveryKind.RETRACT_OWN, tweet, [world.followed]) for tweet in (world.live, world.dead)),
    )

    assert (world.home(), world.own()) == ([world.live], [world.live])


def test_a_merge_brings_what_is_live_now_to_those_who_follow_now(world: World) -> None:
    merge, reader = DeliveryKind.MERGE, [world.reader]

    world.apply(
        again(merge, world.unfollowed, reader, [0, world.of_unfollowed]),
        again(merge, world.celebrity, reader, [0, world.of_celebrity]),
        again(merge, world.followed, reader, [world.live, world.dead]),
    )

    assert world.home() == [world.live]


def test_an_unmerge_takes_from_those_who_follow_only_what_is_dead(world: World) -> None:
    tweets = (world.live, world.dead, world.of_unfollowed, world.of_celebrity)
    world.apply(*(one_chunk(DeliveryKind.DELIVER, tweet, 5, [world.reader]) for tweet in tweets))

    authors = (world.followed, world.unfollowed, world.celebrity)
    world.apply(*(again(DeliveryKind.UNMERGE, author, [world.reader]) for author in authors))

    assert world.home() == [world.live]


def test_the_set_of_celebrities_is_changed_only_towards_what_is_so(world: World) -> None:
    everybody, reader = (world.followed, world.unfollowed, world.celebrity), [world.reader]

    world.apply(*(again(DeliveryKind.ADD_CELEBRITY, author, reader) for author in everybody))
    assert world.celebrities() == [world.celebrity]

    world.apply(*(one_chunk(DeliveryKind.ADD_CELEBRITY, author, 5, reader) for author in everybody))
    world.apply(*(again(DeliveryKind.REMOVE_CELEBRITY, author, reader) for author in everybody))
    assert world.celebrities() == [world.celebrity]


def test_records_of_the_live_order_beside_them_are_taken_as_they_are(world: World) -> None:
    world.apply(
        one_chunk(DeliveryKind.DELIVER, world.of_unfollowed, 5, [world.reader]),
        again(DeliveryKind.DELIVER, world.of_celebrity, [world.reader]),
        again(DeliveryKind.DELIVER, world.live, [world.reader]),
    )

    assert world.home() == [world.live, world.of_unfollowed]


def test_small_runs_of_several_partitions_are_looked_at_too(world: World) -> None:
    work = [
        (
            Deliverer(world.stores.engine, world.stores.timelines, partition, 2),
            [world.message(again(DeliveryKind.DELIVER, tweet, [world.reader]))],
        )
        for partition, tweet in enumerate((world.live, world.dead, world.of_unfollowed))
    ]

    assert apply_together(world.stores.clusters, work)
    assert world.home() == [world.live]


def test_of_many_chunks_each_keeps_the_targets_that_are_right(world: World, make_users: MakeUsers) -> None:
    """Some of the targets of each of two chunks, and all of one in between."""
    users = make_users(6)
    world.publisher.follow_many([(user, world.followed) for user in users[::2]])
    world.publisher.follow_many([(user, world.unfollowed) for user in users[1::3]])
    tweets = np.array([world.live, world.dead, world.of_unfollowed], dtype=">u8")
    record = Delivery(
        DeliveryKind.DELIVER,
        tweets,
        np.array([5, 5, 5], dtype=">i8"),
        np.array([6, 3, 6], dtype=">u4"),
        np.array([*users, *users[:3], *users], dtype=">u8"),
        verify=True,
    )

    [found] = verified(world.stores.engine, [Placed(1, record)], LENGTH)

    assert found.record.counts.tolist() == [3, 0, 2]
    assert found.record.targets.tolist() == [*users[::2], *users[1::3]]
