from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.coordinator import next_shard_map
from infra.hash_ring import LOAD_MAX_RATIO, place_slots
from infra.shard_map import CLUSTERS, decode_shard_map, encode_shard_map, make_shard_map
from infra.slots import SLOTS

MEMBERS = {f"{cluster}{number}": f"redis://h:{number}" for cluster in CLUSTERS for number in (1, 2)}
NAMES = st.lists(st.from_regex(r"[abc][0-9]{1,3}", fullmatch=True), min_size=1, max_size=12, unique=True)


@given(NAMES)
def test_no_node_holds_more_than_its_bounded_share(names: list[str]) -> None:
    counts = Counter(place_slots(names))

    assert sum(counts.values()) == SLOTS
    assert max(counts.values()) <= SLOTS / len(names) * LOAD_MAX_RATIO + 1


@given(NAMES)
def test_the_placement_depends_on_the_names_and_not_on_their_order(names: list[str]) -> None:
    assert place_slots(names) == place_slots(sorted(names))


def test_a_third_node_takes_slots_and_moves_few_others() -> None:
    before, after = place_slots(["a1", "a2"]), place_slots(["a1", "a2", "a3"])

    moved = sum(old != new for old, new in zip(before, after, strict=True))
    assert moved <= 1.5 * SLOTS / 3


def test_a_cluster_without_a_node_cannot_be_placed() -> None:
    with pytest.raises(ValueError, match="at least one node"):
        place_slots([])


def test_a_shard_map_survives_its_encoding() -> None:
    made = make_shard_map(7, MEMBERS)

    assert decode_shard_map(encode_shard_map(made)) == made


def test_a_shard_map_of_another_version_is_refused() -> None:
    with pytest.raises(ValueError, match="version 2"):
        decode_shard_map(encode_shard_map(make_shard_map(1, MEMBERS)).replace(b'"version": 1', b'"version": 2'))


def test_node_indexes_name_the_node_of_each_slot() -> None:
    made = make_shard_map(1, MEMBERS)

    for cluster in CLUSTERS:
        nodes = made.nodes_of(cluster)
        assert [nodes[index] for index in made.node_indexes(cluster)] == list(made.placement[cluster])
        assert np.array_equal(np.unique(made.node_indexes(cluster)), [0, 1])


def test_the_first_map_waits_for_a_node_in_each_cluster() -> None:
    assert next_shard_map(None, {"a1": "redis://h:1", "b1": "redis://h:2"}) is None
    first = next_shard_map(None, MEMBERS)
    assert first is not None
    assert first.epoch == 1


def test_a_new_address_changes_no_slot_and_raises_no_epoch() -> None:
    current = make_shard_map(1, MEMBERS)

    changed = next_shard_map(current, MEMBERS | {"b2": "redis://h:99"})

    assert changed is not None
    assert changed.addresses["b2"] == "redis://h:99"
    assert (changed.epoch, changed.placement) == (1, current.placement)
    assert next_shard_map(changed, {"b2": "redis://h:99"}) is None
