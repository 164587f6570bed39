"""Consistent hashing with bounded loads: which node of one cluster holds which slot.

Nodes stand on the ring by their names, so the same names give the same placement on any machine. A slot goes to the
next node clockwise that has room (Mirrokni, Thorup, Zadimoghaddam: "Consistent Hashing with Bounded Loads", 2016).
"""

import bisect
from collections.abc import Sequence

import xxhash

from infra.slots import SLOTS

POINTS_PER_NODE = 128  # virtual points; with 128 a node's share before the bound lies within about a tenth
LOAD_MAX_RATIO = 1.05  # of a node's fair share


def place_slots(names: Sequence[str]) -> tuple[str, ...]:
    """The node of each slot, `SLOTS` long. Raises `ValueError` when there is no node."""
    if not names:
        raise ValueError("a cluster needs at least one node")
    ring = sorted((_hash(f"{name}#{point}"), name) for name in names for point in range(POINTS_PER_NODE))
    hashes = [position for position, _ in ring]
    room = dict.fromkeys(names, int(SLOTS / len(names) * LOAD_MAX_RATIO) + 1)
    placement = []
    for slot in range(SLOTS):
        at = bisect.bisect(hashes, _hash(f"slot-{slot}"))
        while room[ring[at % len(ring)][1]] == 0:
            at += 1
        name = ring[at % len(ring)][1]
        room[name] -= 1
        placement.append(name)
    return tuple(placement)


def _hash(text: str) -> int:
    return xxhash.xxh64_intdigest(text.encode())
