import json

import numpy as np
import pytest

from infra.shard_map import CLUSTERS, decode_shard_map, encode_shard_map, make_shard_map

MEMBERS = {f"{cluster}{number}": f"redis://h:{number}" for cluster in CLUSTERS for number in (1, 2)}


def test_a_shard_map_survives_its_encoding() -> None:
    made = make_shard_map(7, MEMBERS, {"a1": 3})

    assert decode_shard_map(encode_shard_map(made)) == made
    assert made.weights_of("a") == {"a1": 3, "a2": 1}


def test_a_shard_map_from_before_there_were_weights_has_weight_1_everywhere() -> None:
    value = json.loads(encode_shard_map(make_shard_map(1, MEMBERS)))
    del value["weights"]

    assert decode_shard_map(json.dumps(value).encode()).weights_of("b") == {"b1": 1, "b2": 1}


def test_a_shard_map_of_another_version_is_refused() -> None:
    with pytest.raises(ValueError, match="version 2"):
        decode_shard_map(encode_shard_map(make_shard_map(1, MEMBERS)).replace(b'"version": 1', b'"version": 2'))


def test_node_indexes_name_the_node_of_each_slot() -> None:
    made = make_shard_map(1, MEMBERS)

    for cluster in CLUSTERS:
        nodes = made.nodes_of(cluster)
        assert [nodes[index] for index in made.node_indexes(cluster)] == list(made.placement[cluster])
        assert np.array_equal(np.unique(made.node_indexes(cluster)), [0, 1])
