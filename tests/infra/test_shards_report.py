"""What `fanfold shards` says about a shard map, and the picture of it."""

import io
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from infra.copies import CopyState, all_copies
from infra.members import Member
from infra.moves import moved_slots
from infra.ring_picture import COLUMNS, DOWN, ROWS, cells_of, ring
from infra.shard_map import CLUSTERS, ShardMap, make_shard_map
from infra.shards_commands import print_report
from infra.shards_report import ShardsReport, find_slot, report_shards, slot_ranges
from infra.slots import SLOTS
from infra.wishes import Wish

WIDTH = 80


def members(nodes: int = 2) -> dict[str, Member]:
    return {
        f"{cluster}{number}": Member(f"redis://:hush@h:{7000 + number}", f"{cluster}{number}-incarnation")
        for cluster in CLUSTERS
        for number in range(1, nodes + 1)
    }


def serving(registered: dict[str, Member], epoch: int = 4) -> ShardMap:
    made = make_shard_map(epoch, {name: member.url for name, member in registered.items()})
    incarnations = {name: member.incarnation for name, member in registered.items()}
    return replace(made, copies=all_copies(epoch, CLUSTERS, CopyState.SERVING, incarnations))


def shown(report: ShardsReport) -> str:
    out = io.StringIO()
    print_report(report, Console(file=out, width=WIDTH, highlight=False))
    return out.getvalue()


def test_each_node_is_told_with_its_slots_and_its_share() -> None:
    made = report_shards(serving(members()), members())

    assert [node.name for node in made.nodes] == ["a1", "a2", "b1", "b2", "c1", "c2"]
    for cluster in CLUSTERS:
        assert sum(node.slots for node in made.of_cluster(cluster)) == SLOTS
        assert sum(node.share for node in made.of_cluster(cluster)) == pytest.approx(2)
    assert made.balance == max(node.slots for node in made.nodes) / (SLOTS / 2)
    assert {node.fitness for node in made.nodes} == {"fit"}
    assert not made.moving


def test_a_weight_is_part_of_the_fair_share() -> None:
    registered = members() | {"a2": Member("redis://h:1", "x", weight=3)}
    weights = {name: member.weight for name, member in registered.items()}
    placed = make_shard_map(1, {name: member.url for name, member in registered.items()}, weights)

    light, heavy = report_shards(placed, registered).of_cluster("a")

    assert (light.weight, light.fair_slots) == (1, SLOTS / 4)
    assert (heavy.weight, heavy.fair_slots) == (3, SLOTS * 3 / 4)
    assert 0.85 < heavy.share < 1.15


def test_a_node_says_why_it_is_not_used() -> None:
    registered = members()
    shard_map = serving(registered)
    del registered["a1"]
    registered["b1"] = replace(registered["b1"], fit=False, reason="redis://:hush@h:7001 is a replica")
    registered["c1"] = replace(registered["c1"], incarnation="a new one")
    registered["c3"] = Member("redis://h:3", "")

    said = {node.name: node.fitness for node in report_shards(shard_map, registered).nodes}

    assert said == {
        "a1": "not registered: its registrar is not there",
        "a2": "fit",
        "b1": "not fit: redis://:***@h:7001 is a replica",
        "b2": "fit",
        "c1": "fit, not admitted yet",
        "c2": "fit",
        "c3": "fit, not admitted yet",
    }


def test_what_is_not_serving_is_counted_listed_and_seen() -> None:
    registered = members()
    shard_map = serving(registered)
    one = shard_map.slots_on("a1")[0]
    copies = shard_map.copies.changed("a", [one], CopyState.FILLING).without_node("b2", shard_map.slots_on("b2"))
    made = report_shards(replace(shard_map, copies=copies), registered)

    a1, b2 = made.nodes[0], made.nodes[3]
    assert (a1.filling, a1.down, b2.serving, b2.down) == (1, 0, 0, len(shard_map.slots_on("b2")))
    assert [(moving.node, moving.state) for moving in made.moving] == [("a1", "f"), ("b2", "d")]
    assert made.moving[0].slots == (one,)
    assert made.as_json()["copies"] == {
        "serving": 3 * SLOTS - 1 - b2.down,
        "filling": 1,
        "down": b2.down,
    }
    text = shown(made)
    assert "99 % serving" in text
    assert f"a1: 1 filling: {one}\n" in text


@pytest.mark.parametrize("nodes", [1, 2, 12, 40])
def test_everything_fits_in_80_columns_and_has_no_secrets(nodes: int) -> None:
    registered = members(nodes)
    text = shown(report_shards(serving(registered), registered))

    assert max(map(len, text.splitlines())) <= WIDTH
    assert "hush" not in text
    assert "nothing is moving" in text
    assert all(f" {name} " in text for name in registered)


def test_without_a_placement_the_registered_nodes_are_shown() -> None:
    made = report_shards(None, members())

    assert made.as_json()["epoch"] is None
    assert "fit, not admitted yet" in shown(made)


def test_a_ring_has_a_cell_for_a_single_copy_that_is_down() -> None:
    registered = members(40)
    shard_map = serving(registered)
    copies = shard_map.copies.changed("a", shard_map.slots_on("a7")[:1], CopyState.DOWN)
    lines = ring(report_shards(replace(shard_map, copies=copies), registered).of_cluster("a"), ["middle"])

    text = "\n".join(line.plain for line in lines)
    assert [len(line) for line in lines] == [COLUMNS] * ROWS
    assert text.count(DOWN) == 1
    assert "middle" in text


@given(st.lists(st.integers(1, SLOTS), min_size=1, max_size=100))
def test_cells_are_in_proportion_and_nothing_is_left_out(slots: list[int]) -> None:
    cells = cells_of(slots, 120)

    assert sum(cells) == 120
    assert min(cells) >= 1
    if len(slots) <= 3:
        assert all(abs(given - part * 120 / sum(slots)) <= 2 for given, part in zip(cells, slots, strict=True))


@pytest.mark.parametrize(
    ("slots", "text"), [((), ""), ((5,), "5"), ((0, 1), "0–1"), ((0, 2, 3, 4, 9, 1023), "0, 2–4, 9, 1023")]
)
def test_neighbouring_slots_are_a_range(slots: tuple[int, ...], text: str) -> None:
    assert slot_ranges(slots) == text


def test_a_slot_is_found_in_each_cluster() -> None:
    registered = members()
    shard_map = serving(registered)
    down = replace(shard_map, copies=shard_map.copies.changed("b", [77], CopyState.DOWN))

    found = find_slot(down, registered, 77)

    assert [(placed.cluster, placed.node.name, placed.state.name) for placed in found] == [
        ("a", shard_map.node_of("a", 77), "SERVING"),
        ("b", shard_map.node_of("b", 77), "DOWN"),
        ("c", shard_map.node_of("c", 77), "SERVING"),
    ]
    assert {placed.as_json()["url"] for placed in found} <= {"redis://:***@h:7001", "redis://:***@h:7002"}


def test_what_is_drained_and_what_is_still_to_move_is_told() -> None:
    registered = members() | {"a3": Member("redis://h:7003", "three"), "b3": Member("redis://h:7013", "gone")}
    wishes = {"a1": Wish(drained=True), "b3": Wish(drained=True), "c3": Wish("redis://:hush@h:7023", weight=2)}
    shard_map = serving(members())

    made = report_shards(shard_map, registered, wishes)

    nodes = {node.name: node for node in made.nodes}
    held, joined = shard_map.slots_on("a1"), make_shard_map(5, {"a2": "", "a3": "", "b1": "", "c1": ""})
    assert made.to_move["a"] >= len(held)
    assert made.to_move == {"a": len(moved_slots(shard_map, joined, "a"))}
    assert (nodes["a1"].fitness, nodes["b3"].fitness) == ("draining, fit", "drained")
    assert nodes["c3"].fitness == "not registered: its registrar is not there"
    assert (nodes["c3"].weight, "hush" in nodes["c3"].url) == (2, False)
    text = shown(made)
    assert f"cluster a: {made.to_move['a']} slots are still to move to another node" in text
    assert "nothing is moving" not in text
    assert made.as_json()["to_move"] == dict(made.to_move)
    assert [node["name"] for node in made.as_json()["nodes"] if node["drained"]] == ["a1", "b3"]
