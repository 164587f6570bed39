"""The deliver agent's work on real servers: nothing is skipped or applied late, short timelines are refilled."""

import itertools
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

import streams.deliver
from consumers.delivered import delivered
from infra import redis_keys
from infra.composition import Stores
from infra.copies import Copies
from infra.errors import RedisUnavailable, Superseded
from infra.events import DeliveryKind, one_chunk
from infra.live_settings import set_live_settings
from infra.rebuild import rebuild
from infra.redis_node import Argument, RedisNode, Reply
from infra.shard_map import CLUSTERS
from infra.slots import Ids, slot_of
from infra.timeline_windows import Span, look_home
from infra.timelines import Kind
from infra.topics import DELIVERIES
from infra.zookeeper import COPIES_PATH
from producers.publish import NewTweet, Publisher, need_all
from streams.deliver import CALL_TARGETS_MIN, SENT_AGAIN_TARGETS, Deliverer, Received
from streams.deliver_together import IN_TURN_TARGETS_MIN, TOGETHER_TARGETS_MAX, apply_together
from streams.patience import FAILURES_TO_MARK
from tests.waiting import wait_until

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
        stores.timelines.fill_celebrities([user], lambda users: dict.fromkeys(users, ()))

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


def test_a_node_that_is_full_when_a_short_timeline_is_rebuilt_is_marked_and_stops_nothing(
    stores: Stores,
    deliverer: Deliverer,
    log: Log,
    publisher: Publisher,
    make_users: MakeUsers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    set_live_settings(stores.zookeeper, timeline_entries=80)
    user, busy, quiet = make_users(3)
    publisher.follow_many([(user, busy), (user, quiet)])
    need_all(publisher.post_many([NewTweet(quiet, f"{number}") for number in range(60)]))
    publisher.post_many([NewTweet(busy, f"{number}") for number in range(70)])
    warm(stores, [user])
    publisher.unfollow(user, busy)
    full = stores.clusters.node_for("b", user)
    limit = full.command("CONFIG", "GET", "maxmemory")[1]

    def rebuild_without_memory(*args: Any, **options: Any) -> object:
        full.command("CONFIG", "SET", "maxmemory", "1")
        return rebuild(*args, **options)

    monkeypatch.setattr(streams.deliver, "rebuild", rebuild_without_memory)
    try:
        deliverer.apply([log.message(DeliveryKind.UNMERGE, busy, [user])])
    finally:
        full.command("CONFIG", "SET", "maxmemory", limit)

    assert stores.clusters.shard_map.down_nodes == {full.name}
    assert len(stores.timelines.dump("a", Kind.HOME, [user])[user]) == 61


def test_one_failure_of_a_node_marks_nothing_down(
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

    def fail_once(self: RedisNode, function: str, *arguments: Any) -> Any:
        if self.name == away and next(failures) < FAILURES_TO_MARK - 1:
            raise RedisUnavailable("the node is away")
        return start(self, function, *arguments)

    monkeypatch.setattr(RedisNode, "start", fail_once)
    deliverer.apply([log.message(DeliveryKind.DELIVER, FIRST, [user])])

    assert stores.clusters.shard_map.copies.all_serving
    assert listed(stores, user) == in_every_copy([0, FIRST])


@pytest.fixture
def in_many_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each run takes as many calls to a node as it can."""
    monkeypatch.setattr(streams.deliver, "CALL_TARGETS_MIN", 1)
    monkeypatch.setattr(streams.deliver, "CALL_TARGETS_MAX", 1)


@pytest.mark.usefixtures("in_many_calls")
def test_a_run_of_several_calls_looks_at_no_list_for_what_is_newer_than_all(
    stores: Stores, log: Log, make_users: MakeUsers
) -> None:
    users = make_users(30)
    warm(stores, users)
    deliverer = Deliverer(stores.engine, stores.timelines, partition=3, generation=1)
    deliverer.apply([log.message(DeliveryKind.DELIVER, FIRST, users)])
    for node in stores.clusters.shard_map.nodes:
        stores.clusters.node(node).command("CONFIG", "RESETSTAT")

    deliverer.apply([log.message(DeliveryKind.DELIVER, FIRST + 1, users)])

    stats = [stores.clusters.node(node).command("INFO", "commandstats") for node in stores.clusters.shard_map.nodes]
    assert sum(one["cmdstat_fcall"]["calls"] for one in stats) > len(stats)
    assert all("cmdstat_lindex" not in one for one in stats)
    assert all(listed(stores, user) == in_every_copy([0, FIRST, FIRST + 1]) for user in users)


@pytest.mark.usefixtures("in_many_calls")
def test_of_a_run_of_several_calls_each_may_be_lost_and_be_made_again(
    stores: Stores, log: Log, make_users: MakeUsers, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = make_users(30)
    warm(stores, users)
    real, numbers = stores.clusters.call_at_once, itertools.count()

    def without_every_second_answer(function: str, calls: Any, timeout_s: float) -> dict[str, Any]:
        found = dict(real(function, calls, timeout_s))
        return dict.fromkeys(found, RedisUnavailable("the answer was lost")) if next(numbers) % 2 else found

    monkeypatch.setattr(stores.clusters, "call_at_once", without_every_second_answer)
    deliverer = Deliverer(stores.engine, stores.timelines, partition=3, generation=1)
    deliverer.apply([log.message(DeliveryKind.DELIVER, FIRST, users)])

    assert next(numbers) > 4
    assert all(listed(stores, user) == in_every_copy([0, FIRST]) for user in users)


@pytest.mark.usefixtures("in_many_calls")
def test_a_run_that_begins_with_removals_looks_for_what_is_late_behind_them(
    stores: Stores, log: Log, make_users: MakeUsers
) -> None:
    """The mark from before the run is of this run only once it has inserted something on the node."""
    users = make_users(40)
    warm(stores, users)
    deliverer = Deliverer(stores.engine, stores.timelines, partition=3, generation=1)
    deliverer.apply([log.message(DeliveryKind.DELIVER, FIRST + 2, users)])
    in_order_of_calls = sorted(users, key=lambda one: slot_of(one) // DELIVERIES.partitions % (len(users) + 1))
    first, later = in_order_of_calls[:20], in_order_of_calls[20:]

    removals = log.message(DeliveryKind.RETRACT, FIRST + 7, first)
    deliverer.apply([removals, log.message(DeliveryKind.DELIVER, FIRST + 1, later)])

    assert all(listed(stores, user) == in_every_copy([0, FIRST + 1, FIRST + 2]) for user in later)


@dataclass
class Overtaxed:
    """Nodes that do not answer large calls; `called` has the names of each call, whatever its size."""

    stores: Stores
    names: frozenset[str]
    called: list[set[str]] = field(default_factory=list)

    def begin(self, monkeypatch: pytest.MonkeyPatch) -> None:
        real = self.stores.clusters.call_at_once

        def call(function: str, calls: Mapping[str, Sequence[Argument]], timeout_s: float) -> dict[str, Any]:
            self.called.append(set(calls))
            assert len(self.called) < CALLS_MAX, "it goes on for ever"
            found = dict(real(function, calls, timeout_s))
            for name in self.names & calls.keys():
                if sum(len(one) for one in calls[name] if isinstance(one, bytes)) > LARGE_BYTES:
                    found[name] = RedisUnavailable("it did not answer in time")
            return found

        monkeypatch.setattr(self.stores.clusters, "call_at_once", call)
        monkeypatch.setattr(streams.deliver, "CALL_SLOW_S", -1.0)  # all of them are slow from now on


LARGE_BYTES, CALLS_MAX = 50_000, 20
NOBODYS = range(1, 4 * CALL_TARGETS_MIN + 1)  # lists that are absent: 82 kB of keys for each node


def get_used_to_large_calls(deliverer: Deliverer, log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams.deliver, "CALL_SLOW_S", math.inf)
    monkeypatch.setattr(streams.deliver, "CALL_FAST_S", math.inf)
    for number in range(8):
        deliverer.apply([log.message(DeliveryKind.DELIVER, FIRST + number, [1])])


def test_a_call_that_no_node_answers_is_made_in_smaller_ones_before_a_mark(
    stores: Stores, deliverer: Deliverer, log: Log, make_users: MakeUsers, monkeypatch: pytest.MonkeyPatch
) -> None:
    [user] = make_users(1)
    warm(stores, [user])
    get_used_to_large_calls(deliverer, log, monkeypatch)
    overtaxed = Overtaxed(stores, frozenset(stores.clusters.shard_map.nodes))
    overtaxed.begin(monkeypatch)

    deliverer.apply([log.message(DeliveryKind.DELIVER, FIRST, [*NOBODYS, user])])

    assert stores.clusters.shard_map.copies.all_serving
    assert len(overtaxed.called) == 1 + len(NOBODYS) // CALL_TARGETS_MIN + 1
    assert listed(stores, user) == in_every_copy([0, FIRST])


def test_calls_that_are_sent_again_are_cut_by_the_lists_they_look_at(
    stores: Stores, deliverer: Deliverer, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams.deliver, "verified", lambda _engine, placed, _length: placed)
    watched = Overtaxed(stores, frozenset())
    watched.begin(monkeypatch)
    lists, tweets = 1_000, 20
    chunks = [one_chunk(DeliveryKind.DELIVER, FIRST + one, 5, range(1, lists + 1), ids([])) for one in range(tweets)]

    deliverer.apply([Received(number, [replace(chunk, verify=True)]) for number, chunk in enumerate(chunks)])

    cost = lists * tweets + lists * (SENT_AGAIN_TARGETS - 1)
    assert len(watched.called) == cost // CALL_TARGETS_MIN + 1


def test_where_others_answer_a_large_call_a_node_that_does_not_is_marked(
    stores: Stores, deliverer: Deliverer, log: Log, make_users: MakeUsers, monkeypatch: pytest.MonkeyPatch
) -> None:
    [user] = make_users(1)
    warm(stores, [user])
    get_used_to_large_calls(deliverer, log, monkeypatch)
    away = stores.clusters.shard_map.node_of("b", 0)
    overtaxed = Overtaxed(stores, frozenset([away]))
    overtaxed.begin(monkeypatch)

    deliverer.apply([log.message(DeliveryKind.DELIVER, FIRST, [*NOBODYS, user])])

    assert stores.clusters.shard_map.down_nodes == {away}
    assert overtaxed.called == [set(stores.clusters.shard_map.nodes), *[{away}] * (FAILURES_TO_MARK - 1)]


def test_a_call_that_timed_out_and_runs_after_its_retry_is_refused(
    stores: Stores, deliverer: Deliverer, log: Log, make_users: MakeUsers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The late call carries a retracted tweet: if it ran, the tweet would be back."""
    [user] = make_users(1)
    warm(stores, [user])
    start, late = RedisNode.start, list[tuple[RedisNode, tuple[Any, ...]]]()

    def time_out_first(self: RedisNode, commands: Sequence[Sequence[Argument]], *given: float | None) -> Reply:
        if not late:
            late.append((self, (commands[0][1], *commands[0][3:])))
            raise RedisUnavailable("timed out, and still under way")
        return start(self, commands, *given)

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

    def counting(self: RedisNode, commands: Sequence[Sequence[Argument]], *given: float | None) -> Reply:
        sent.append(len(commands))
        return start(self, commands, *given)

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


@pytest.mark.parametrize("many", [False, True])
def test_nodes_work_in_turn_only_on_what_takes_them_time(
    many: bool, stores: Stores, log: Log, make_users: MakeUsers, monkeypatch: pytest.MonkeyPatch
) -> None:
    [user] = make_users(1)
    warm(stores, [user])
    in_turn, real = list[bool](), stores.clusters.call_all_in_turn

    def noted(function: str, calls: Any) -> dict[str, list[Any]]:
        in_turn.append(True)
        return real(function, calls)

    monkeypatch.setattr(stores.clusters, "call_all_in_turn", noted)
    targets = [user, *range(10**6, 10**6 + IN_TURN_TARGETS_MIN - (1 if many else 2))]
    deliverer = Deliverer(stores.engine, stores.timelines, 0, generation=1)

    assert apply_together(stores.clusters, [(deliverer, [log.message(DeliveryKind.DELIVER, FIRST, targets)])])

    assert bool(in_turn) is many
    assert listed(stores, user) == in_every_copy([0, FIRST])


@pytest.mark.parametrize("spoilt", ["an unmerge", "a large run", "too much together", "a node without its incarnation"])
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
    elif spoilt == "too much together":  # each fits one call
        more = log.message(DeliveryKind.DELIVER, FIRST + 1, range(1, CALL_TARGETS_MIN))
        work += [(Deliverer(stores.engine, stores.timelines, partition, 1), [more]) for partition in (2, 3)]
        work[1][1].append(log.message(DeliveryKind.DELIVER, FIRST + 1, [author]))
        assert TOGETHER_TARGETS_MAX == 2 * CALL_TARGETS_MIN
    else:
        node.command("HDEL", "n", "incarnation")

    done = apply_together(stores.clusters, work)
    node.command("HSET", "n", "incarnation", incarnation)
    for deliverer, messages in work:
        deliverer.apply(messages)

    assert not done
    assert [listed(stores, user)["a"][:2] for user in (first, second)] == [[0, FIRST]] * 2
    assert delivered(stores.clusters).deliveries - before == 2


def test_a_fence_is_used_only_after_the_group_has_confirmed_the_generation(
    stores: Stores, log: Log, make_users: MakeUsers
) -> None:
    """A node that was emptied has forgotten which generation it had seen."""
    [user] = make_users(1)
    warm(stores, [user])
    proofs: list[int] = []
    over = threading.Event()

    def prove(offset: int) -> None:
        proofs.append(offset)
        if over.is_set():
            raise Superseded("the generation is over")

    deliverer = Deliverer(stores.engine, stores.timelines, 3, 1, prove)
    first = log.message(DeliveryKind.DELIVER, FIRST, [user])
    deliverer.apply([first])
    deliverer.apply([log.message(DeliveryKind.DELIVER, FIRST + 1, [user])])
    assert proofs == [first.offset]

    over.set()
    found = stores.zookeeper.read(COPIES_PATH)
    assert found is not None
    copies = Copies.decode(found[0])
    emptied = copies.with_node("a1", stores.clusters.shard_map.slots_on("a1"), "second life")
    node = stores.clusters.node("a1")
    node.command("HSET", redis_keys.NODE, "incarnation", "second life")
    node.command("DEL", redis_keys.control(3))
    assert stores.zookeeper.compare_and_set(COPIES_PATH, emptied.encode(), found[1])
    wait_until(lambda: stores.clusters.shard_map.copies == emptied)

    with pytest.raises(Superseded):
        deliverer.apply([log.message(DeliveryKind.DELIVER, FIRST + 2, [user])])
    assert node.command("EXISTS", redis_keys.control(3)) == 0
