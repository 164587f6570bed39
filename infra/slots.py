"""Slots: the fixed share of ids that a user's timelines, or a tweet's body, belong to.

slot = xxh64(8-byte big-endian id) mod 1,024, fixed for the life of a deployment. A partition of the deliveries log
holds whole slots, so a timeline's writes have one order.
"""

import numpy as np
import numpy.typing as npt
import xxhash

SLOTS = 1024

Ids = npt.NDArray[np.uint64]

_PRIME_1 = np.uint64(0x9E3779B185EBCA87)
_PRIME_2 = np.uint64(0xC2B2AE3D27D4EB4F)
_PRIME_3 = np.uint64(0x165667B19E3779F9)
_PRIME_4 = np.uint64(0x85EBCA77C2B2AE63)
_PRIME_5_PLUS_8 = np.uint64(0x27D4EB2F165667C5 + 8)


def slot_of(any_id: int) -> int:
    """The slot of one user or tweet id."""
    return xxhash.xxh64_intdigest(any_id.to_bytes(8, "big")) % SLOTS


def hash_of(any_id: int) -> int:
    """The number whose remainder is the slot, for whoever wants to see how it comes about."""
    return xxhash.xxh64_intdigest(any_id.to_bytes(8, "big"))


def slots_of(ids: Ids) -> npt.NDArray[np.int64]:
    """The slots of an array of ids: xxh64 of 8 bytes, written out for arrays (xxHash specification, seed 0)."""
    lane = ids.astype(np.uint64).byteswap()
    mixed = _PRIME_5_PLUS_8 ^ (_rotate(lane * _PRIME_2, 31) * _PRIME_1)
    mixed = _rotate(mixed, 27) * _PRIME_1 + _PRIME_4
    mixed = (mixed ^ (mixed >> np.uint64(33))) * _PRIME_2
    mixed = (mixed ^ (mixed >> np.uint64(29))) * _PRIME_3
    return ((mixed ^ (mixed >> np.uint64(32))) % np.uint64(SLOTS)).astype(np.int64)


def _rotate(value: Ids, bits: int) -> Ids:
    return (value << np.uint64(bits)) | (value >> np.uint64(64 - bits))
