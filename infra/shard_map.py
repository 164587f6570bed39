"""The shard map: which node of each cluster holds which slot, at which epoch, and the states of these copies.

`ShardMap` is an immutable value; code that routes by slot asks it and nothing else. Its two parts are two znodes: the
placement, whose version is the epoch, and the copies. Next: shard_maps.py.
"""

import json
import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import permutations

import numpy as np
import numpy.typing as npt

from infra.copies import Copies, CopyState, all_copies
from infra.hash_ring import place_slots
from infra.slots import SLOTS, slot_of

CLUSTERS = ("a", "b", "c")
NODES_MAX = 256  # of a cluster: the placement has a byte for each slot's
COPIES_MIN = 2  # serving or filling, of each slot: with fewer nothing is acknowledged (G6)

_ORDERS = tuple(permutations(CLUSTERS))


@dataclass(frozen=True)
class ShardMap:
    """Placement at one epoch. `placement[cluster]` names the node of each slot; `addresses[node]` is its URL. A node
    that has no weight has weight 1. Without `copies` every copy is serving, and no node has been admitted."""

    epoch: int
    placement: Mapping[str, tuple[str, ...]]
    addresses: Mapping[str, str]
    weights: Mapping[str, int] = field(default_factory=dict)
    copies: Copies = field(kw_only=True, default_factory=lambda: all_copies(0, CLUSTERS, CopyState.SERVING))

    def node_of(self, cluster: str, slot: int) -> str:
        """The name of the node that holds a slot in a cluster."""
        return self.placement[cluster][slot]

    def weights_of(self, cluster: str) -> dict[str, int]:
        """The weight of each node of a cluster that holds at least one slot."""
        return {name: self.weights.get(name, 1) for name in self.nodes_of(cluster)}

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

    def fence(self, name: str) -> str:
        """What a writing call of a node begins with: it refuses another epoch or incarnation (G5)."""
        return f"{self.epoch}:{self.copies.incarnations.get(name, '')}"

    def slots_on(self, name: str) -> list[int]:
        """The slots that a node holds, ascending."""
        return [slot for slot, holder in enumerate(self.placement[name[0]]) if holder == name]

    def readable_by_node(self, cluster: str, ids: Iterable[int]) -> dict[str, list[int]]:
        """`by_node` without the ids whose copy in this cluster is down."""
        states = self.copies.states[cluster]
        return self.by_node(cluster, (one for one in ids if states[slot_of(one)] != CopyState.DOWN))

    def in_order(self, slot: int) -> tuple[str, ...]:
        """The clusters whose copy of a slot may be read, in a random order, so that readers spread: serving ones first,
        then those that are filling."""
        order: tuple[str, ...] = random.choice(_ORDERS)  # noqa: S311 - nothing secret
        if self.copies.all_serving:
            return order
        of = self.copies.of
        states = {cluster: of(cluster, slot) for cluster in order}
        return tuple(c for state in (CopyState.SERVING, CopyState.FILLING) for c in order if states[c] is state)

    @cached_property
    def down_nodes(self) -> frozenset[str]:
        """Nodes that hold slots, and of these no copy that is serving or filling."""
        if self.copies.all_serving:
            return frozenset()
        in_use = {
            name
            for cluster, names in self.placement.items()
            for name, letter in zip(names, self.copies.states[cluster], strict=True)
            if letter != CopyState.DOWN
        }
        return frozenset(self.nodes) - in_use

    @cached_property
    def lacks_copies(self) -> bool:
        """Whether a slot has fewer than `COPIES_MIN` copies that are serving or filling."""
        return min(self.copies.in_use) < COPIES_MIN

    def can_spare(self, name: str) -> bool:
        """Whether enough copies are left of every slot when a node is marked down."""
        return self.can_spare_slots(name[0], self.slots_on(name))

    def can_spare_slots(self, cluster: str, slots: Iterable[int]) -> bool:
        """The same for a cluster's copies of some slots."""
        states, in_use = self.copies.states[cluster], self.copies.in_use
        return all(in_use[slot] - (states[slot] != CopyState.DOWN) >= COPIES_MIN for slot in slots)

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


def make_shard_map(epoch: int, members: Mapping[str, str], weights: Mapping[str, int] | None = None) -> ShardMap:
    """The placement of all slots on the members (name → URL), each of weight 1 unless `weights` has another. A node's
    cluster is its name's first letter."""
    known = {name: (weights or {}).get(name, 1) for name in members}
    placement = {
        cluster: place_slots({name: weight for name, weight in known.items() if name[0] == cluster})
        for cluster in CLUSTERS
    }
    return ShardMap(epoch, placement, dict(members), known)


def encode_shard_map(shard_map: ShardMap) -> bytes:
    """The znode's bytes: each cluster's slots as indexes into its list of nodes."""
    clusters = {
        cluster: {
            "nodes": list(shard_map.nodes_of(cluster)),
            "slots": "".join(f"{index:02x}" for index in shard_map.node_indexes(cluster)),
        }
        for cluster in shard_map.placement
    }
    value = {
        "version": 1,
        "epoch": shard_map.epoch,
        "clusters": clusters,
        "addresses": dict(shard_map.addresses),
        "weights": dict(shard_map.weights),
    }
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
    return ShardMap(value["epoch"], placement, value["addresses"], value.get("weights", {}))
