"""The deliver agent's work on real servers: nothing is skipped or applied late, short timelines are refilled."""

import itertools
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from consumers.delivered import delivered
from infra import redis_keys
from infra.composition import Stores
from infra.errors import RedisUnavailable, Superseded
from infra.events import DeliveryKind, one_chunk
from infra.live_settings import set_live_settings
from infra.rebuild import rebuild
from infra.redis_node import Argument, RedisNode, Reply
from infra.shard_map import CLUSTERS
from infra.slots import Ids
from infra.timeline_windows import Span, look_home
from infra.timelines import Kind
from producers.publish import NewTweet, Publisher, need_all
from streams.deliver import CALL_TARGETS_MIN, Deliverer, Received, apply_together

MakeUsers = Callable[[int], list[int]]


def ids(values: Sequence[int]) -> Ids:
    return np.array(values, dtype=np.uint64)


class Log:
    """A partition's log: messages with rising offsets."""

    def __init__(self) -> None:
        self._offsets = itertools.count()

    def message(self, kind: DeliveryKind, subject: int, targets: Sequence[int], extra: Sequence[int] = ()) -> Received:
        return Received(next(self._offsets), [one_chunk(kind, subject, 5, targets, ids(extra))])


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def deliverer(stores: Stores) -> Deliverer:
    return Deliverer(stores.engine, stores.timelines, partition=3, generation=1)


def listed(stores: Stores, user_id: int, kind: Kind = Kind.HOME) -> dict[str, list[int]]:
    return {
        cluster: [int(one) for one in stores.timelines.dump(cluster, kind, [user_id])[user_id]] for cluster in CLUSTERS
    }


def in_every_copy(values: Sequence[int]) -> dict[str, list[int]]:
    return {cluster: list(values) for cluster in CLUSTERS}


def warm(stores: Stores, users: Sequence[int], kind: Kind = Kind.HOME) -> None:
    rebuild(stores.engine, stores.timelines, kind, users)


FIRST = 10**18


def test_a_chunk_reaches_every_present_timeline_in_all_clusters(
    stores: Stores, deliverer: Deliverer, log: Log, make_users: MakeUsers
) -> None:
    *present, absent = make_users(30)
    warm(stores, present)

    deliverer.apply([log.message(DeliveryKind.DELIVER, FIRST, [*present, absent])])

    assert all(listed(stores, user) == in_every_copy([0, FIRST]) for user in present)
    assert listed(stores, absent) == in_every_copy([])


def test_redelivered_messages_change_nothing(
    stores: Stores, deliverer: Deliverer, log: Log, make_users: MakeUsers
) -> None:
    [user] = make_users(1)
    warm(stores, [user])
    messages = [log.message(DeliveryKind.DELIVER, FIRST + number, [user]) for number in (3, 1, 2)]
    deliverer.apply(messages)

    Deliverer(stores.engine, stores.timelines, 3, generation=2).apply(messages)

    assert listed(stores, user) == in_every_copy([0, FIRST + 1, FIRST + 2, FIRST + 3])
    delivered = [
        int(stores.clusters.node(name).command("HGET", redis_keys.control(3), "delivered") or 0)
        for name in stores.clusters.shard_map.nodes
    ]
    assert sum(delivered) == 3 * len(messages)


def test_retracts_and_own_timelines_are_applied_in_the_order_of_the_log(
    stores: Stores, deliverer: Deliverer, log: Log, make_users: MakeUsers
) -> None:
    user, author = make_users(2)
    warm(stores, [user])
    warm(stores, [author], Kind.USER)

    deliverer.apply(
        [
            log.message(DeliveryKind.DELIVER, FIRST, [user]),
            log.message(DeliveryKind.DELIVER_OWN, FIRST, [author]),
            log.message(DeliveryKind.RETRACT, FIRST, [user]),
            log.message(DeliveryKind.DELIVER, FIRST + 1, [user]),
        ]
    )

    assert listed(stores, user) == in_every_copy([0, FIRST + 1])
    assert listed(stores, author, Kind.USER) == in_every_copy([0, FIRST])


def test_an_unmerge_removes_what_the_database_says_is_the_authors(
    stores: Stores, deliverer: Deliverer, log: Log, publisher: Publisher, make_users: MakeUsers
) -> None:
    user, unfollowed, kept = make_users(3)
    publisher.follow_many([(user, unfollowed), (user, kept)])
    gone = [publisher.post(NewTweet(unfollowed, "gone")).id for _ in range(3)]
    stays = publisher.post(NewTweet(kept, "stays")).id
    warm(stores, [user])
    late = publisher.post(NewTweet(unfollowed, "delivered in the same batch")).id

    deliverer.apply(
        [
            log.message(DeliveryKind.DELIVER, late, [user]),
            log.message(DeliveryKind.UNMERGE, unfollowed, [user]),
            log.message(DeliveryKind.REMOVE_CELEBRITY, unfollowed, [user]),
        ]
    )

    assert gone
    assert listed(stores, user) == in_every_copy([0, stays])


def test_unmerges_of_several_authors_and_many_lists_take_out_what_is_each_ones_own(
    stores: Stores, deliverer: Deliverer, log: Log, publisher: Publisher, make_users: MakeUsers
) -> None:
    one, other, *users = make_users(8)
    publisher.follow_many([(user, author) for user in users for author in (one, other)])
    of_one, of_other = ([publisher.post(NewTweet(author, f"{n}")).id for n in range(3)] for author in (one, other))
    warm(stores, users)

    deliverer.apply(
        [log.message(DeliveryKind.UNMERGE, one, users[:4]), log.message(DeliveryKind.UNMERGE, other, users[2:])]
    )

    assert listed(stores, users[0]) == in_every_copy([0, *of_other])
    assert listed(stores, users[2]) == in_every_copy([0])
    assert listed(stores, users[5]) == in_every_copy([0, *of_one])


def test_many_lists_merge_the_same_author_and_take_and_lose_the_same_celebrity(
    stores: Stores, deliverer: Deliverer, log: Log, publisher: Publisher, make_users: MakeUsers
) -> None:
    author, *users = make_users(6)
    tweets = [publisher.post(NewTweet(author, f"{n}")).id for n in range(3)]
    warm(stores, users)
    for user in users:
        stores.timelines.fill_celebrities(user, list)

    def celebrities() -> list[Sequence[int] | None]:
        return [look_home(stores.clusters, user, Span(None, 10)).celebrities for user in users]

    merge = log.message(DeliveryKind.MERGE, author, users, [0, *tweets])
    deliverer.apply([merge, log.message(DeliveryKind.ADD_CELEBRITY, author, users)])
    assert all(listed(stores, user) == in_every_copy([0, *tweets]) for user in users)
    assert celebrities() == [[author]] * len(users)

    deliverer.apply([log.message(DeliveryKind.REMOVE_CELEBRITY, author, users)])
    assert celebrities() == [[]] * len(users)


def test_a_merge_brings_an_authors_tweets(
    stores: Stores, deliverer: Deliverer, log: Log, make_users: MakeUsers
) -> None:
    user, author = make_users(2)
    warm(stores, [user])

    deliverer.apply([log.message(DeliveryKind.MERGE, author, [user], [0, FIRST, FIRST + 1])])

    assert listed(stores, user) == in_every_copy([0, FIRST, FIRST + 1])


def test_a_timeline_that_removals_left_short_is_rebuilt_in_every_copy(
    stores: Stores, deliverer: Deliverer, log: Log, publisher: Publisher, make_users: MakeUsers
) -> None:
    set_live_settings(stores.zookeeper, timeline_entries=80)
    user, busy, quiet = make_users(3)
    publisher.follow_many([(user, busy), (user, quiet)])
    old = need_all(publisher.post_many([NewTweet(quiet, f"{number}") for number in range(60)]))
    publisher.post_many([NewTweet(busy, f"{number}") for number in range(70)])
    warm(stores, [user])
    floor = old[49].id
    assert all(copy[0] == floor and len(copy) == 81 for copy in listed(stores, user).values())
    publisher.unfollow(user, busy)

    deliverer.apply([log.message(DeliveryKind.UNMERGE, busy, [user])])

    assert listed(stores, user) == in_every_copy([0, *[tweet.id for tweet in old]])


def test_a_node_that_is_away_is_waited_for_and_not_skipped(
    stores: Stores,
    deliverer: Deliverer,
    log: Log,
    make_users: MakeUsers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    [user] = make_users(1)
    warm(stores, [user])
    away = stores.clusters.shard_map.node_of("b", 0)
    start, failures = RedisNode.start, itertools.count()

    def fail_three_times(self: RedisNode, function: str, *arguments: Any) -> Any:
        if self.name == away and next(failures) < 3:
            raise RedisUnavailable("the node is away")
        return start(self, function, *arguments)

    monkeypatch.setattr(RedisNode, "start", fail_three_times)
    deliverer.apply([log.message(DeliveryKind.DELIVER, FIRST, [user])])

    assert next(failures) > 3
    assert listed(stores, user) == in_every_copy([0, FIRST])


def test_a_call_that_timed_out_and_runs_after_its_retry_is_refused(
    stores: Stores, deliverer: Deliverer, log: Log, make_users: MakeUsers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The late call carries a retracted tweet: if it ran, the tweet would be back."""
    [user] = make_users(1)
    warm(stores, [user])
    start, late = RedisNode.start, list[tuple[RedisNode, tuple[Any, ...]]]()

    def time_out_first(self: RedisNode, commands: Sequence[Sequence[Argument]]) -> Reply:
        if not late:
            late.append((self, (commands[0][1], *commands[0][3:])))
            raise RedisUnavailable("timed out, and still under way")
        return start(self, commands)

    monkeypatch.setattr(RedisNode, "start", time_out_first)
    deliverer.apply(
        [log.message(DeliveryKind.DELIVER, FIRST, [user]), log.message(DeliveryKind.RETRACT, FIRST, [user])]
    )
    [(node, arguments)] = late
    with pytest.raises(Exception, match="FENCED call"):
        node.call(*arguments)

    assert listed(stores, user) == in_every_copy([0])


def test_a_node_that_restarted_is_written_again_once_it_is_registered(
    stores: Stores, deliverer: Deliverer, log: Log, make_users: MakeUsers
) -> None:
    [user] = make_users(1)
    warm(stores, [user])
    node = stores.clusters.node_for("a", user)
    incarnation = node.command("HGET", "n", "incarnation")
    node.command("DEL", redis_keys.home_timeline(user))
    node.command("HDEL", "n", "incarnation")
    applied = threading.Thread(target=deliverer.apply, args=([log.message(DeliveryKind.DELIVER, FIRST, [user])],))

    applied.start()
    applied.join(0.5)
    assert applied.is_alive()
    node.command("HSET", "n", "incarnation", incarnation)
    applied.join(10)

    assert not applied.is_alive()
    assert listed(stores, user) == in_every_copy([0, FIRST]) | {"a": []}


def test_an_old_generation_cannot_write(stores: Stores, deliverer: Deliverer, log: Log, make_users: MakeUsers) -> None:
    [user] = make_users(1)
    warm(stores, [user])
    message = log.message(DeliveryKind.DELIVER, FIRST, [user])
    newer = Deliverer(stores.engine, stores.timelines, 3, generation=2)
    newer.apply([log.message(DeliveryKind.DELIVER, FIRST + 1, [user])])

    with pytest.raises(Superseded, match="generation 1 of partition 3"):
        deliverer.apply([message])

    assert listed(stores, user) == in_every_copy([0, FIRST + 1])


def test_small_runs_of_several_partitions_take_one_send_to_each_node(
    stores: Stores, log: Log, make_users: MakeUsers, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = make_users(30)
    warm(stores, users)
    deliverers = [Deliverer(stores.engine, stores.timelines, partition, generation=1) for partition in (0, 1, 2)]
    start, sent = RedisNode.start, list[int]()

    def counting(self: RedisNode, commands: Sequence[Sequence[Argument]]) -> Reply:
        sent.append(len(commands))
        return start(self, commands)

    monkeypatch.setattr(RedisNode, "start", counting)
    done = apply_together(
        stores.clusters,
        [
            (one, [log.message(DeliveryKind.DELIVER, FIRST + number, users[number::3])])
            for number, one in enumerate(deliverers)
        ],
    )

    assert (done, sent) == (True, [3] * len(stores.clusters.shard_map.nodes))
    assert all(listed(stores, user) == in_every_copy([0, FIRST + at % 3]) for at, user in enumerate(users))


@pytest.mark.parametrize("spoilt", ["an unmerge", "a large run", "a node without its incarnation"])
def test_what_cannot_be_applied_together_is_applied_one_by_one_and_counted_once(
    spoilt: str, stores: Stores, log: Log, make_users: MakeUsers
) -> None:
    """The first partition may be written already when the second one is refused."""
    first, second, author = make_users(3)
    warm(stores, [first, second])
    work = [
        (Deliverer(stores.engine, stores.timelines, 0, 1), [log.message(DeliveryKind.DELIVER, FIRST, [first])]),
        (Deliverer(stores.engine, stores.timelines, 1, 1), [log.message(DeliveryKind.DELIVER, FIRST, [second])]),
    ]
    before = delivered(stores.clusters).deliveries
    node = stores.clusters.node("c2")
    incarnation = node.command("HGET", "n", "incarnation")
    if spoilt == "an unmerge":
        alone = Deliverer(stores.engine, stores.timelines, 2, 1)
        work.append((alone, [log.message(DeliveryKind.UNMERGE, author, [second])]))
    elif spoilt == "a large run":
        work[1][1].append(log.message(DeliveryKind.DELIVER, FIRST + 1, range(1, CALL_TARGETS_MIN + 1)))
    else:
        node.command("HDEL", "n", "incarnation")

    done = apply_together(stores.clusters, work)
    node.command("HSET", "n", "incarnation", incarnation)
    for deliverer, messages in work:
        deliverer.apply(messages)

    assert not done
    assert [listed(stores, user)["a"][:2] for user in (first, second)] == [[0, FIRST]] * 2
    assert delivered(stores.clusters).deliveries - before == 2
