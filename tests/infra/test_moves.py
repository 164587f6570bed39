"""Which slots move next: bounded, one copy of a slot at a time, and what one leader began another one goes on with."""

from dataclasses import replace

import pytest

from infra.copies import CopyState, all_copies
from infra.members import Member
from infra.moves import Batch, Nodes, moved, moved_slots, next_batch, wanted_map
from infra.shard_map import CLUSTERS, ShardMap, make_shard_map
from infra.slots import SLOTS
from infra.wishes import Wish

SLOTS_MAX = 100
NAMES = [f"{cluster}{number}" for cluster in CLUSTERS for number in (1, 2)]


def serving(*names: str, epoch: int = 1) -> ShardMap:
    made = make_shard_map(epoch, dict.fromkeys(names, "redis://h:1"))
    return replace(made, copies=all_copies(epoch, CLUSTERS, CopyState.SERVING, dict.fromkeys(names, "one")))


def with_state(shard_map: ShardMap, batch: Batch, state: CopyState) -> ShardMap:
    copies = shard_map.copies
    for cluster, slots in batch.slots.items():
        copies = copies.changed(cluster, slots, state)
    return replace(shard_map, copies=copies)


JOINED = (*NAMES, "a3", "b3", "c3")


def test_a_batch_is_bounded_in_each_cluster_and_no_slot_is_in_it_twice() -> None:
    batch = next_batch(serving(*NAMES), serving(*JOINED), SLOTS_MAX)

    assert [len(batch.of(cluster)) for cluster in CLUSTERS] == [SLOTS_MAX] * 3
    slots = [slot for _, slot in batch.copies()]
    assert len(slots) == len(set(slots))


@pytest.mark.parametrize("state", [CopyState.DOWN, CopyState.FILLING])
def test_the_next_batch_waits_until_the_earlier_one_serves(state: CopyState) -> None:
    before, target = serving(*NAMES), serving(*JOINED)
    first = next_batch(before, target, SLOTS_MAX)
    after = moved(with_state(before, first, CopyState.DOWN), target, first, 2)
    if state is CopyState.FILLING:
        after = with_state(after, first, CopyState.FILLING)

    assert not next_batch(after, target, SLOTS_MAX)
    served = with_state(with_state(after, first, CopyState.FILLING), first, CopyState.SERVING)
    second = next_batch(served, target, SLOTS_MAX)
    assert second
    assert not set(second.copies()) & set(first.copies())


def test_a_batch_that_was_begun_goes_on_as_it_is() -> None:
    before, target = serving(*NAMES), serving(*JOINED)
    first = next_batch(before, target, SLOTS_MAX)

    begun = with_state(before, first, CopyState.DOWN)

    assert next_batch(begun, target, 1) == first


def test_after_a_batch_its_slots_lie_elsewhere_and_no_others() -> None:
    before, target = serving(*NAMES), serving(*JOINED)
    batch = next_batch(before, target, SLOTS_MAX)

    after = moved(with_state(before, batch, CopyState.DOWN), target, batch, 2)

    for cluster in CLUSTERS:
        assert moved_slots(before, after, cluster) == list(batch.of(cluster))
        assert all(after.node_of(cluster, slot) == f"{cluster}3" for slot in batch.of(cluster))
    assert set(after.nodes) == set(JOINED)
    assert (after.epoch, after.copies.epoch) == (2, 2)


def test_all_batches_lead_to_the_target() -> None:
    shard_map, target = serving(*JOINED), serving(*NAMES)
    for epoch in range(2, 20):
        batch = next_batch(shard_map, target, SLOTS_MAX)
        if not batch:
            break
        shard_map = moved(with_state(shard_map, batch, CopyState.DOWN), target, batch, epoch)
        shard_map = with_state(with_state(shard_map, batch, CopyState.FILLING), batch, CopyState.SERVING)

    assert shard_map.placement == target.placement
    assert set(shard_map.addresses) == set(shard_map.copies.incarnations) == set(NAMES)
    assert set(shard_map.copies.dropped) == {"a3", "b3", "c3"}


def test_slots_of_a_node_that_is_away_for_good_move_at_once() -> None:
    before = serving(*JOINED)
    held = before.slots_on("b3")
    away = replace(before, copies=before.copies.without_node("b3", held))

    batch = next_batch(away, serving(*(name for name in JOINED if name != "b3")), 1)

    assert list(batch.of("b")) == held
    assert not batch.of("a")


def test_a_slot_that_serves_begins_only_where_both_other_copies_serve() -> None:
    before, target = serving(*NAMES), serving(*NAMES, "a3")
    wanted = moved_slots(before, target, "a")
    cold = wanted[:5]
    copies = before.copies.changed("b", cold, CopyState.FILLING)

    batch = next_batch(replace(before, copies=copies), target, SLOTS)

    assert list(batch.of("a")) == wanted[5:]


def test_of_a_slot_that_is_filling_in_two_clusters_one_copy_goes_on() -> None:
    before, target = serving(*NAMES), serving(*JOINED)
    slot = next(one for one in moved_slots(before, target, "a") if one in moved_slots(before, target, "b"))
    copies = before.copies.changed("a", [slot], CopyState.FILLING).changed("b", [slot], CopyState.FILLING)

    batch = next_batch(replace(before, copies=copies), target, SLOTS_MAX)

    assert [one for one in batch.copies() if one[1] == slot] == [("a", slot)]


def test_a_filling_copy_does_not_go_on_while_another_copy_of_its_slot_is_down() -> None:
    before, target = serving(*NAMES), serving(*NAMES, "a3")
    slot = moved_slots(before, target, "a")[0]
    copies = before.copies.changed("a", [slot], CopyState.FILLING).changed("b", [slot], CopyState.DOWN)

    assert not next_batch(replace(before, copies=copies), target, SLOTS_MAX)


def members(*names: str) -> dict[str, Member]:
    return dict.fromkeys(names, Member("redis://h:1", "one"))


def test_what_somebody_wants_decides_where_slots_should_lie() -> None:
    shard_map = serving(*NAMES)
    everybody = Nodes({"a3", "b3"}, set(), set(NAMES))
    wishes = {
        "a3": Wish("redis://h:1", weight=2),
        "a1": Wish(weight=3),
        "b3": Wish(drained=True),
        "c1": Wish(drained=True),
    }

    target = wanted_map(shard_map, members(*NAMES, "a3", "b3"), wishes, everybody)

    assert set(target.nodes) == {"a1", "a2", "a3", "b1", "b2", "c2"}
    assert target.weights_of("a") == {"a1": 3, "a2": 1, "a3": 2}


def test_a_cluster_of_which_everything_is_drained_keeps_its_placement() -> None:
    """Two people drained one node each at the same moment, before anybody looked."""
    shard_map = serving(*NAMES)
    wishes = {"a1": Wish(drained=True), "a2": Wish(drained=True)}

    target = wanted_map(shard_map, members(*NAMES), wishes, Nodes(set(), set(), set(NAMES)))

    assert set(target.nodes_of("a")) == {"a1", "a2"}
