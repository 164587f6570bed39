"""Moves: from one placement to another in batches, so that of each slot only one copy is on its way at a time.

Pure decisions; all that they rest on is in the znodes, so another leader goes on with what one began. A slot that moves
is `down` under the old epoch first, so nobody reads its old copy when the new placement comes; under the new one it
stays `down` until the new node has removed what it still held of it, is `filling` until repair has warmed it, and
`serving` then. Next: coordinator.py.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from infra.copies import CopyState
from infra.members import Members, wanted_names
from infra.shard_map import CLUSTERS, COPIES_MIN, ShardMap, make_shard_map
from infra.wishes import Wishes, drained_names


@dataclass(frozen=True, slots=True)
class Nodes:
    """Names, for where slots should lie: `joining` are not in the placement and may be, `leaving` are away for good,
    `well` are in the placement and not away."""

    joining: set[str]
    leaving: set[str]
    well: set[str]


@dataclass(frozen=True, slots=True)
class Batch:
    """Slots that get another node together, of each cluster."""

    slots: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return any(self.slots.values())

    def of(self, cluster: str) -> tuple[int, ...]:
        """Those of one cluster."""
        return self.slots.get(cluster, ())

    def copies(self) -> Iterator[tuple[str, int]]:
        """Cluster and slot of each."""
        return ((cluster, slot) for cluster, slots in self.slots.items() for slot in slots)


def wanted_map(shard_map: ShardMap, members: Members, wishes: Wishes, nodes: Nodes) -> ShardMap:
    """Where all slots should lie in the end. Drained nodes leave, like those that are away for good; a wished weight
    wins over the registrar's."""
    drained = drained_names(wishes)
    names = wanted_names(shard_map, nodes.joining - drained, nodes.leaving | drained, nodes.well)
    addresses = {**{name: member.url for name, member in members.items()}, **shard_map.addresses}
    weights = {**shard_map.weights, **{name: member.weight for name, member in members.items()}}
    weights |= {name: wish.weight for name, wish in wishes.items() if wish.weight is not None}
    return make_shard_map(shard_map.epoch + 1, {name: addresses.get(name, "") for name in names}, weights)


def moved_slots(before: ShardMap, after: ShardMap, cluster: str) -> list[int]:
    """The slots of a cluster that lie on another node afterwards."""
    pairs = zip(before.placement[cluster], after.placement[cluster], strict=True)
    return [slot for slot, (held, holds) in enumerate(pairs) if held != holds]


def next_batch(shard_map: ShardMap, target: ShardMap, slots_max: int) -> Batch:
    """What moves next on the way to a placement.

    What is down has nothing to lose, so it moves at once: slots of a node that is away for good, or of a batch that was
    begun. What is filling is on its way already, and may go elsewhere while two other copies are there. What serves
    begins when the whole cluster serves, up to `slots_max` slots, and only where the other two copies serve: so whoever
    reads finds two that are warm.
    """
    if shard_map.placement == target.placement:
        return Batch()
    taken: set[int] = set()
    slots: dict[str, tuple[int, ...]] = {}
    whole = [set(letters) == {CopyState.SERVING} for letters in zip(*shard_map.copies.states.values(), strict=True)]
    for cluster in CLUSTERS:
        pending = [slot for slot in moved_slots(shard_map, target, cluster) if slot not in taken]
        if shard_map.copies.serves_whole(cluster):
            chosen = [slot for slot in pending if whole[slot]][:slots_max]
        else:
            chosen = [slot for slot in pending if _may_go_on(shard_map, cluster, slot)]
        taken.update(slot for slot in chosen if shard_map.copies.of(cluster, slot) is not CopyState.DOWN)
        slots[cluster] = tuple(chosen)
    return Batch(slots)


def moved(shard_map: ShardMap, target: ShardMap, batch: Batch, epoch: int) -> ShardMap:
    """The shard map after a batch: the target's placement of these slots and no others, and a higher epoch. Nodes that
    hold nothing any more lose their addresses and are no longer admitted."""
    placement = dict(shard_map.placement)
    for cluster, slots in batch.slots.items():
        names = list(placement[cluster])
        for slot in slots:
            names[slot] = target.placement[cluster][slot]
        placement[cluster] = tuple(names)
    held = sorted({name for of_cluster in placement.values() for name in of_cluster})
    weights = {**shard_map.weights, **target.weights}
    after = replace(
        shard_map,
        epoch=epoch,
        placement=placement,
        addresses={name: target.addresses.get(name) or shard_map.addresses[name] for name in held},
        weights={name: weights.get(name, 1) for name in held},
    )
    copies = replace(shard_map.copies, epoch=epoch)
    for gone in (name for name in shard_map.nodes if name not in held):
        copies = copies.without_node(gone, ())
    return replace(after, copies=copies)


def _may_go_on(shard_map: ShardMap, cluster: str, slot: int) -> bool:
    state = shard_map.copies.of(cluster, slot)
    if state is CopyState.FILLING:
        return shard_map.copies.in_use[slot] > COPIES_MIN
    return state is CopyState.DOWN
