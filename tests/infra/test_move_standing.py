"""How far moves are, as whoever waits for them counts it."""

from dataclasses import replace

import pytest

from infra.copies import CopyState, all_copies
from infra.members import Member
from infra.move_standing import Look, standing_of
from infra.shard_map import CLUSTERS, ShardMap, make_shard_map
from infra.wishes import Wish, Wishes

NAMES = [f"{cluster}{number}" for cluster in CLUSTERS for number in (1, 2)]


def look(shard_map: ShardMap, wishes: Wishes, *unfit: str, more: tuple[str, ...] = ()) -> Look:
    members = {name: Member("redis://h:1", "one", fit=name not in unfit) for name in (*NAMES, *more)}
    return Look(shard_map, members, wishes)


def serving(*names: str) -> ShardMap:
    made = make_shard_map(1, dict.fromkeys(names, "redis://h:1"))
    return replace(made, copies=all_copies(1, CLUSTERS, CopyState.SERVING, dict.fromkeys(names, "one")))


def test_all_is_done_when_slots_lie_where_they_should_and_serve() -> None:
    assert standing_of(look(serving(*NAMES), {}), CLUSTERS).done


def test_an_added_node_is_waited_for_until_it_is_registered_and_holds_its_share() -> None:
    wishes = {"a3": Wish("redis://h:1")}

    unregistered = standing_of(look(serving(*NAMES), wishes), {"a"})
    registered = standing_of(look(serving(*NAMES), wishes, more=("a3",)), {"a"})
    joined = standing_of(look(serving(*NAMES, "a3"), wishes, more=("a3",)), {"a"})

    assert (unregistered.missing, unregistered.left, unregistered.done) == (("a3",), 0, False)
    assert (registered.missing, registered.to_move > 300, registered.done) == ((), True, False)
    assert joined.done


@pytest.mark.parametrize("state", [CopyState.DOWN, CopyState.FILLING])
def test_a_slot_that_moved_is_waited_for_until_it_serves(state: CopyState) -> None:
    shard_map = serving(*NAMES)
    cold = replace(shard_map, copies=shard_map.copies.changed("b", [7], state))

    standing = standing_of(look(cold, {}), CLUSTERS)

    assert (standing.to_move, standing.not_serving, standing.left, standing.done) == (0, 1, 1, False)
    of_another = standing_of(look(cold, {}), {"a"})
    assert of_another.done, "other clusters are not waited for"
    assert of_another.in_the_way == ("b",), "but they are named"
    assert standing.in_the_way == ()


def test_a_drained_node_is_waited_for_also_when_nobody_can_take_its_slots_now() -> None:
    shard_map = serving(*NAMES)

    standing = standing_of(look(shard_map, {"a1": Wish(drained=True)}, "a2"), {"a"})

    assert standing.to_move == len(shard_map.slots_on("a1"))
    assert not standing.done
