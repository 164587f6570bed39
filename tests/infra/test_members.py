"""Who should hold slots."""

from infra.members import wanted_names
from infra.shard_map import NODES_MAX, make_shard_map


def test_a_cluster_takes_no_more_nodes_than_the_placement_has_numbers_for() -> None:
    held = [f"a{number}" for number in range(NODES_MAX - 2)]
    shard_map = make_shard_map(1, dict.fromkeys([*held, "b1", "c1"], "redis://h:1"))
    joining = {"a901", "a902", "a903", "b2"}

    wanted = wanted_names(shard_map, joining, leaving=set(), well=set(shard_map.nodes))

    assert wanted == {*shard_map.nodes, "a901", "a902", "b2"}
