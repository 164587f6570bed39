"""What `fanfold shards` says: each node with its slots, share and copies, and where one slot lies. Pure values.

Input: the shard map, the members and the wishes. Next: ring_picture.py draws it, shards_commands.py prints it.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from infra.copies import CopyState
from infra.hash_ring import fair_share
from infra.hiding import hide_secrets
from infra.members import Member, Members
from infra.move_standing import Look, pending_slots
from infra.shard_map import CLUSTERS, ShardMap
from infra.slots import SLOTS
from infra.wishes import NO_WISH, Wish, Wishes

INCARNATION_SHOWN = 8  # characters for people; the first ones tell incarnations apart


@dataclass(frozen=True, slots=True)
class NodeReport:
    """One node: of the placement, registered, or both. `url` has no secrets; `fair_slots` is 0 without slots."""

    name: str
    url: str
    weight: int
    serving: int
    filling: int
    down: int
    fair_slots: float
    registered: bool
    fit: bool
    reason: str  # why it is not fit
    incarnation: str  # the registered one, or else the admitted one
    admitted: bool
    drained: bool = False  # somebody wants it to hold nothing

    @property
    def slots(self) -> int:
        """How many slots it holds."""
        return self.serving + self.filling + self.down

    @property
    def share(self) -> float:
        """What it holds, as a multiple of its fair share."""
        return self.slots / self.fair_slots if self.fair_slots else 0.0

    @property
    def fitness(self) -> str:
        """`fit`, or why not."""
        if self.drained and not self.slots:
            return "drained"
        draining = "draining, " if self.drained else ""
        if not self.registered:
            return f"{draining}not registered: its registrar is not there"
        if not self.fit:
            return f"{draining}not fit: {self.reason or 'its registrar gives no reason'}"
        return f"{draining}fit" if self.admitted else f"{draining}fit, not admitted yet"

    def as_json(self) -> dict[str, Any]:
        """One item of `nodes`."""
        return {
            "name": self.name,
            "cluster": self.name[0],
            "url": self.url,
            "weight": self.weight,
            "slots": self.slots,
            "fair_slots": round(self.fair_slots, 2),
            "share": round(self.share, 4),
            "serving": self.serving,
            "filling": self.filling,
            "down": self.down,
            "registered": self.registered,
            "fit": self.fit,
            "reason": self.reason,
            "incarnation": self.incarnation,
            "admitted": self.admitted,
            "drained": self.drained,
        }


@dataclass(frozen=True, slots=True)
class Moving:
    """Slots of one node whose copies are not serving."""

    node: str
    state: CopyState
    slots: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Placed:
    """Where one slot lies in one cluster."""

    cluster: str
    node: NodeReport
    state: CopyState

    def as_json(self) -> dict[str, Any]:
        """One item of `copies`."""
        return {
            "cluster": self.cluster,
            "node": self.node.name,
            "state": self.state.name.lower(),
            "url": self.node.url,
            "fit": self.node.fit,
            "reason": self.node.reason,
        }


@dataclass(frozen=True, slots=True)
class ShardsReport:
    """The whole shard map; `epoch` is None when there is none."""

    epoch: int | None
    nodes: tuple[NodeReport, ...]
    moving: tuple[Moving, ...]
    to_move: Mapping[str, int]  # of each cluster the slots that are to get another node, where there are any

    @property
    def balance(self) -> float:
        """The highest share of a node."""
        return max((node.share for node in self.nodes), default=0.0)

    def of_cluster(self, cluster: str) -> tuple[NodeReport, ...]:
        """A cluster's nodes that hold slots, sorted by name."""
        return tuple(node for node in self.nodes if node.name[0] == cluster and node.slots)

    def count(self, state: CopyState) -> int:
        """How many copies are in a state."""
        return sum(getattr(node, state.name.lower()) for node in self.nodes)

    def as_json(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        clusters = {
            cluster: {
                "nodes": [node.name for node in self.of_cluster(cluster)],
                "balance": round(max((node.share for node in self.of_cluster(cluster)), default=0.0), 4),
            }
            for cluster in CLUSTERS
        }
        return {
            "epoch": self.epoch,
            "slots": SLOTS,
            "copies": {state.name.lower(): self.count(state) for state in CopyState},
            "balance": round(self.balance, 4),
            "clusters": clusters,
            "nodes": [node.as_json() for node in self.nodes],
            "to_move": dict(self.to_move),
            "moving": [
                {"cluster": one.node[0], "node": one.node, "state": one.state.name.lower(), "slots": list(one.slots)}
                for one in self.moving
            ],
        }


def report_shards(shard_map: ShardMap | None, members: Members, wishes: Wishes | None = None) -> ShardsReport:
    """Everything about all nodes, cluster by cluster and by name."""
    wished = {name: wish for name, wish in (wishes or {}).items() if wish.url or wish.drained}
    names = sorted({*(shard_map.nodes if shard_map else ()), *members, *wished})
    nodes = tuple(_node(name, shard_map, members.get(name), wished.get(name, NO_WISH)) for name in names)
    if shard_map is None:
        return ShardsReport(None, nodes, (), {})
    known = Look(shard_map, members, wishes or {})
    to_move = {cluster: len(slots) for cluster, slots in pending_slots(known, CLUSTERS).items() if slots}
    return ShardsReport(shard_map.epoch, nodes, tuple(_moving(shard_map)), to_move)


def find_slot(shard_map: ShardMap, members: Members, slot: int) -> tuple[Placed, ...]:
    """Where a slot lies in each cluster."""
    names = {cluster: shard_map.node_of(cluster, slot) for cluster in CLUSTERS}
    return tuple(
        Placed(cluster, _node(name, shard_map, members.get(name)), shard_map.copies.of(cluster, slot))
        for cluster, name in names.items()
    )


def slot_ranges(slots: tuple[int, ...]) -> str:
    """Slots for people: neighbours as a range (`3, 7–9`)."""
    parts: list[list[int]] = []
    for slot in slots:
        if parts and slot == parts[-1][-1] + 1:
            parts[-1][1:] = [slot]
        else:
            parts.append([slot])
    return ", ".join("–".join(map(str, part)) for part in parts)


def _node(name: str, shard_map: ShardMap | None, member: Member | None, wish: Wish = NO_WISH) -> NodeReport:
    slots = shard_map.slots_on(name) if shard_map and name in shard_map.nodes else []
    states = Counter(shard_map.copies.of(name[0], slot) for slot in slots) if shard_map else Counter[CopyState]()
    weights = shard_map.weights_of(name[0]) if shard_map and slots else {}
    admitted = shard_map.copies.incarnations.get(name, "") if shard_map else ""
    url = member.url if member else (shard_map.addresses.get(name) if shard_map else None) or wish.url
    incarnation = member.incarnation if member else admitted
    return NodeReport(
        name=name,
        url=hide_secrets(url),
        weight=weights.get(name, wish.weight or (member.weight if member else 1)),
        serving=states[CopyState.SERVING],
        filling=states[CopyState.FILLING],
        down=states[CopyState.DOWN],
        fair_slots=fair_share(weights, name) if weights else 0.0,
        registered=member is not None,
        fit=member is not None and member.fit,
        reason=hide_secrets(member.reason) if member else "",
        incarnation=incarnation,
        admitted=bool(incarnation) and incarnation == admitted,
        drained=wish.drained,
    )


def _moving(shard_map: ShardMap) -> list[Moving]:
    groups: dict[tuple[str, CopyState], list[int]] = {}
    for cluster in shard_map.placement:
        for slot, name in enumerate(shard_map.placement[cluster]):
            state = shard_map.copies.of(cluster, slot)
            if state is not CopyState.SERVING:
                groups.setdefault((name, state), []).append(slot)
    return [Moving(name, state, tuple(slots)) for (name, state), slots in sorted(groups.items())]
