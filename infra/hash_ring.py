"""Consistent hashing with bounded loads: which node of one cluster holds which slot.

Pure, of names and weights: the same ones give the same placement on any machine. It is a race. Each node ranks all
slots in a shuffled order of its own and comes to its n-th slot at a fixed time, sooner the heavier it is; a slot goes
to the first node that comes to it and still has room. A node that joins takes slots and sets none of the others'
moving but those of nodes that are full. Next: shard_map.py.
"""

from collections.abc import Mapping
from functools import lru_cache
from itertools import accumulate

import numpy as np
import numpy.typing as npt
import xxhash

from infra.slots import SLOTS

LOAD_MAX_PERCENT = 115  # of a node's fair share; below, more nodes are full, and each of those moves slots of others
WEIGHT_MAX = 100  # beside one that is so heavy, a node of weight 1 has some ten slots: still a share that can be kept

# When a node of weight 1 comes to its n-th slot: the mean of the n-th smallest of 1,024 exponential times, so that the
# chance to be first is in proportion to the weight. Only added and divided, which IEEE 754 rounds alike everywhere.
_TIMES = np.array(list(accumulate(1 / (SLOTS - rank) for rank in range(SLOTS))))


def place_slots(weights: Mapping[str, int]) -> tuple[str, ...]:
    """The node of each slot, `SLOTS` long, for the nodes' weights by their names.

    Raises `ValueError` when there is no node, or a weight is not a whole number from 1 to `WEIGHT_MAX`.
    """
    room = room_of(weights)
    return _placed(tuple((name, weights[name], room[name]) for name in sorted(weights)))


@lru_cache(maxsize=16)  # the coordinator asks every half second, and hardly ever for other nodes
def _placed(nodes: tuple[tuple[str, int, int], ...]) -> tuple[str, ...]:
    """Of nodes by name, each with weight and room."""
    names, room = [name for name, _, _ in nodes], {name: most for name, _, most in nodes}
    hashes = np.array([_hashes(name) for name in names])
    times = np.array([_times(name) / weight for name, weight, _ in nodes])
    by_name = np.broadcast_to(np.arange(len(names))[:, None], times.shape)
    first = np.lexsort((by_name.ravel(), hashes.ravel(), times.ravel()))  # the last key is the first that counts
    placement: list[str | None] = [None] * SLOTS
    missing = SLOTS
    for at in first.tolist():
        name, slot = names[at // SLOTS], at % SLOTS
        if placement[slot] is None and room[name]:
            placement[slot] = name
            room[name] -= 1
            missing -= 1
            if not missing:
                break
    return tuple(name for name in placement if name is not None)


def fair_share(weights: Mapping[str, int], name: str) -> float:
    """How many slots a node would hold if they could be divided."""
    return SLOTS * weights[name] / sum(weights.values())


def room_of(weights: Mapping[str, int]) -> dict[str, int]:
    """How many slots each node holds at most: `LOAD_MAX_PERCENT` of its fair share rounded down, but never less than
    the fair share rounded up, which is more for shares below seven slots. So there is room for all."""
    if not weights:
        raise ValueError("a cluster needs at least one node")
    for name, weight in weights.items():
        if isinstance(weight, bool) or not isinstance(weight, int) or not 1 <= weight <= WEIGHT_MAX:
            raise ValueError(
                f"node {name} has weight {weight!r}, but a weight is a whole number from 1 to {WEIGHT_MAX}"
            )
    total = sum(weights.values())
    return {
        name: max(SLOTS * weight * LOAD_MAX_PERCENT // (100 * total), -(-SLOTS * weight // total))
        for name, weight in weights.items()
    }


@lru_cache(maxsize=256)  # nodes of all clusters, some 16 kB each
def _hashes(name: str) -> npt.NDArray[np.uint64]:
    return np.array([xxhash.xxh64_intdigest(f"{name}/{slot}".encode()) for slot in range(SLOTS)], dtype=np.uint64)


@lru_cache(maxsize=256)
def _times(name: str) -> npt.NDArray[np.float64]:
    """When a node of weight 1 comes to each slot."""
    times = np.empty(SLOTS)
    times[np.argsort(_hashes(name), kind="stable")] = _TIMES
    return times
