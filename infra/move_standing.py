"""How far moves are, as one look at the nodes and the wishes tells it. Pure but for the look itself.

Next: move_checks.py, move_progress.py.
"""

from collections.abc import Collection
from dataclasses import dataclass

from infra.copies import CopyState
from infra.errors import ZooKeeperUnavailable
from infra.hiding import hide_secrets
from infra.members import Members, fit_names, read_members
from infra.moves import Nodes, moved_slots, wanted_map
from infra.shard_map import ShardMap
from infra.shard_znodes import read_znodes
from infra.wishes import NO_WISH, Wishes, drained_names, read_wishes
from infra.zookeeper import ZooKeeper


@dataclass(frozen=True, slots=True)
class Look:
    """All that is known of the nodes at one moment."""

    shard_map: ShardMap
    members: Members
    wishes: Wishes

    def nodes_of(self, cluster: str) -> set[str]:
        """The nodes of a cluster that hold slots, are registered, or are wished for."""
        names = {*self.shard_map.nodes, *self.members, *(name for name, wish in self.wishes.items() if wish.url)}
        return {name for name in names if name[0] == cluster}

    def address_of(self, name: str) -> str:
        """A node's address, without its password; empty when none is known."""
        if name in self.members:
            return hide_secrets(self.members[name].url)
        return hide_secrets(self.shard_map.addresses.get(name) or self.wishes.get(name, NO_WISH).url)


def look(zookeeper: ZooKeeper) -> Look:
    """Raises `ZooKeeperUnavailable`, also before there is a placement, and `Undecodable`."""
    shard_map = read_znodes(zookeeper).shard_map
    if shard_map is None:
        raise ZooKeeperUnavailable("ZooKeeper holds no placement yet: is a coordinator running?")
    return Look(shard_map, read_members(zookeeper), read_wishes(zookeeper))


@dataclass(frozen=True, slots=True)
class Standing:
    """What is left to do in some clusters: slots that are to get another node, slots whose copy does not serve, and
    either; nodes that are to get slots and are not registered as fit; other clusters of which some copy does not serve:
    slots that these could not stand in for do not begin to move."""

    to_move: int
    not_serving: int
    left: int
    missing: tuple[str, ...]
    in_the_way: tuple[str, ...]

    @property
    def done(self) -> bool:
        """Whether all slots lie where they should, and serve."""
        return not self.left and not self.missing


def pending_slots(known: Look, clusters: Collection[str]) -> dict[str, list[int]]:
    """The slots of each of these clusters that are to get another node, as far as can be told from outside: that a node
    is away for good only the coordinator knows."""
    shard_map, members = known.shard_map, known.members
    fit = fit_names(members)
    nodes = Nodes(joining=fit - set(shard_map.nodes), leaving=set(), well=fit & set(shard_map.nodes))
    wanted = wanted_map(shard_map, members, known.wishes, nodes)
    return {cluster: moved_slots(shard_map, wanted, cluster) for cluster in clusters}


def standing_of(known: Look, clusters: Collection[str]) -> Standing:
    """What is left to do there."""
    shard_map, drained = known.shard_map, drained_names(known.wishes)
    pending = {(cluster, slot) for cluster, slots in pending_slots(known, clusters).items() for slot in slots}
    holding = (name for name in drained & set(shard_map.nodes) if name[0] in clusters)
    pending |= {
        (name[0], slot) for name in holding for slot in shard_map.slots_on(name)
    }  # also when nobody else is fit
    states = shard_map.copies.states
    cold = {(c, slot) for c in clusters for slot, state in enumerate(states[c]) if state != CopyState.SERVING}
    wished = {name for name, wish in known.wishes.items() if wish.url and name[0] in clusters}
    missing = wished - drained - fit_names(known.members)
    others = tuple(one for one in states if one not in clusters and set(states[one]) != {CopyState.SERVING})
    return Standing(len(pending), len(cold), len(pending | cold), tuple(sorted(missing)), others)
