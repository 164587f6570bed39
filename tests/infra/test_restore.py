"""When a placement is restored, and which."""

from collections.abc import Mapping
from dataclasses import replace

import pytest

from infra.copies import Copies, CopyState, all_copies
from infra.epochs import Epochs
from infra.errors import UseError
from infra.members import Member
from infra.restore import plan_restore
from infra.shard_map import CLUSTERS, make_shard_map
from infra.shard_znodes import Znodes

NODES = tuple(f"{cluster}{number}" for cluster in CLUSTERS for number in (1, 2))
MEMBERS: Mapping[str, Member] = {name: Member(f"redis://{name}:1", f"{name} now", weight=2) for name in NODES}


def znodes(epoch: int, copies_epoch: int | None = None) -> Znodes:
    copies = all_copies(copies_epoch or epoch, CLUSTERS, CopyState.SERVING, {"a1": "a1 before", "a9": "a9 before"})
    return Znodes(make_shard_map(epoch, {name: member.url for name, member in MEMBERS.items()}), 5, copies, 7)


@pytest.mark.parametrize(
    ("found", "epochs", "epoch"),
    [
        (Znodes(), Epochs(3, 3), 4),
        (Znodes(), Epochs(9, 3), 10),  # 9 may have been written, so it may be on the nodes
        (znodes(2), Epochs(3, 3), 4),
        (replace(znodes(3), copies=None, copies_version=None), Epochs(3, 3), 4),
        (replace(znodes(8), copies=None, copies_version=None), Epochs(3, 3), 9),
        (znodes(4, copies_epoch=3), Epochs(4, 4), 5),
    ],
)
def test_a_new_placement_is_above_every_epoch_that_may_be_on_the_nodes(
    found: Znodes, epochs: Epochs, epoch: int
) -> None:
    restored = plan_restore(found, epochs, MEMBERS).shard_map

    assert restored.epoch == restored.copies.epoch == epoch
    assert restored.nodes == NODES
    assert restored.weights_of("a") == {"a1": 2, "a2": 2}


def test_after_it_no_copy_is_proven_and_every_known_incarnation_has_to_be_emptied() -> None:
    members = dict(MEMBERS) | {"c3": Member("redis://c3:1", "c3 now", fit=False, reason="a replica")}
    copies = plan_restore(znodes(2), Epochs(3, 3), members).shard_map.copies

    assert copies.in_use == (0,) * len(copies.in_use)
    assert copies.incarnations == {}
    assert all(copies.needs_emptying(name, member.incarnation) for name, member in members.items())
    assert copies.needs_emptying("a9", "a9 before"), "it is not registered now"


def test_a_node_that_is_not_fit_gets_no_slots() -> None:
    members = dict(MEMBERS) | {"a2": replace(MEMBERS["a2"], fit=False)}

    assert plan_restore(Znodes(), Epochs(1, 1), members).shard_map.nodes_of("a") == ("a1",)


@pytest.mark.parametrize(
    ("found", "epochs", "sentence"),
    [
        (Znodes(), Epochs(0, 0), "no placement was ever written"),
        (Znodes(), Epochs(1, 0), "no placement was ever written"),
        (znodes(3), Epochs(3, 3), "ZooKeeper holds the placement of epoch 3, and the newest one on record .* is 3"),
        (znodes(4), Epochs(5, 3), "ZooKeeper holds the placement of epoch 4, and the newest one on record .* is 3"),
    ],
)
def test_where_nothing_was_lost_nothing_is_restored(found: Znodes, epochs: Epochs, sentence: str) -> None:
    with pytest.raises(UseError, match=f"there is nothing to restore: {sentence}"):
        plan_restore(found, epochs, MEMBERS)


@pytest.mark.parametrize(
    ("gone", "sentence"),
    [
        (("b1", "b2"), "no fit node is registered in cluster b, so nothing was changed: start the registrars"),
        (NODES, "no fit node is registered in clusters a, b, c, so nothing was changed"),
    ],
)
def test_a_cluster_without_a_fit_node_has_to_get_one_first(gone: tuple[str, ...], sentence: str) -> None:
    members = {name: replace(member, fit=name not in gone) for name, member in MEMBERS.items()}

    with pytest.raises(UseError, match=sentence):
        plan_restore(Znodes(), Epochs(1, 1), members)


def test_copies_of_another_epoch_than_the_placement_are_proof_of_nothing() -> None:
    shard_map = znodes(4, copies_epoch=3).shard_map

    assert shard_map is not None
    assert shard_map.copies == Copies(4, dict.fromkeys(CLUSTERS, "d" * 1024), {})
