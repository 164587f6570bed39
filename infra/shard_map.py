"""The shard map: which node of each cluster holds which slot, at which epoch. Read and watched in ZooKeeper only.

`ShardMap` is an immutable value; code that routes by slot asks it and nothing else. Next: redis_clusters.py.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from infra.hash_ring import place_slots
from infra.slots import SLOTS, slot_of

CLUSTERS = ("a", "b", "c")


@dataclass(frozen=True)
class ShardMap:
    """Placement at one epoch. `placement[cluster]` names the node of each slot; `addresses[node]` is its URL."""

    epoch: int
    placement: Mapping[str, tuple[str, ...]]
    addresses: Mapping[str, str]

    def node_of(self, cluster: str, slot: int) -> str:
        """The name of the node that holds a slot in a cluster."""
        return self.placement[cluster][slot]

    def nodes_of(self, cluster: str) -> tuple[str, ...]:
        """The nodes of a cluster that hold at least one slot, sorted."""
        return self._nodes[cluster]

    def node_indexes(self, cluster: str) -> npt.NDArray[np.int64]:
        """For each slot the index of its node in `nodes_of(cluster)`."""
        return self._indexes[cluster]

    def by_node(self, cluster: str, ids: Iterable[int]) -> dict[str, list[int]]:
        """The ids that each node of a cluster holds, in their order. For few ids: `node_indexes` routes arrays."""
        placement = self.placement[cluster]
        parts: dict[str, list[int]] = {}
        for one in ids:
            parts.setdefault(placement[slot_of(one)], []).append(one)
        return parts

    @cached_property
    def nodes(self) -> tuple[str, ...]:
        """All nodes, cluster by cluster."""
        return tuple(name for cluster in self.placement for name in self.nodes_of(cluster))

    @cached_property
    def _nodes(self) -> dict[str, tuple[str, ...]]:
        return {cluster: tuple(sorted(set(names))) for cluster, names in self.placement.items()}

    @cached_property
    def _indexes(self) -> dict[str, npt.NDArray[np.int64]]:
        return {
            cluster: np.array([self._nodes[cluster].index(name) for name in names])
            for cluster, names in self.placement.items()
        }


def make_shard_map(epoch: int, members: Mapping[str, str]) -> ShardMap:
    """The placement of all slots on the members (name → URL). A node's cluster is its name's first letter."""
    by_cluster = {cluster: sorted(name for name in members if name[0] == cluster) for cluster in CLUSTERS}
    return ShardMap(epoch, {cluster: place_slots(names) for cluster, names in by_cluster.items()}, dict(members))


def encode_shard_map(shard_map: ShardMap) -> bytes:
    """The znode's bytes: each cluster's slots as indexes into its list of nodes."""
    clusters = {
        cluster: {
            "nodes": list(shard_map.nodes_of(cluster)),
            "slots": "".join(f"{index:02x}" for index in shard_map.node_indexes(cluster)),
        }
        for cluster in shard_map.placement
    }
    value = {"version": 1, "epoch": shard_map.epoch, "clusters": clusters, "addresses": dict(shard_map.addresses)}
    return json.dumps(value, sort_keys=True).encode()


def decode_shard_map(data: bytes) -> ShardMap:
    """The inverse of `encode_shard_map`. Raises `ValueError` for anything else."""
    value = json.loads(data)
    if value.get("version") != 1:
        raise ValueError(f"the shard map has version {value.get('version')!r}, and this code reads version 1")
    placement = {}
    for cluster, part in value["clusters"].items():
        indexes = bytes.fromhex(part["slots"])
        if len(indexes) != SLOTS:
            raise ValueError(f"cluster {cluster} places {len(indexes)} slots instead of {SLOTS}")
        placement[cluster] = tuple(part["nodes"][index] for index in indexes)
    return ShardMap(value["epoch"], placement, value["addresses"])
