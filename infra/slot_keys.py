"""Removes what a node holds of some slots: what it had of a slot before the slot was moved to it is old.

Every key that belongs to a slot ends in eight bytes, big-endian: a user's id, or a tweet's.
"""

from collections.abc import Callable, Collection, Sequence

import numpy as np

from infra import redis_keys
from infra.redis_node import RedisNode
from infra.slots import slots_of

SCAN_COUNT = 2_000  # keys of one look: about a millisecond of the node's time
PREFIXES = (redis_keys.HOME, redis_keys.USER, redis_keys.CELEBRITIES, redis_keys.BODY, redis_keys.COUNTS)


def remove_slots(node: RedisNode, slots: Collection[int], beat: Callable[[], object] = lambda: None) -> int:
    """Removes all keys of these slots, and returns how many there were. What is written meanwhile may stay or not.
    Raises `RedisUnavailable`; repeating is safe."""
    cursor, removed = b"0", 0
    while True:
        cursor, keys = node.command("SCAN", cursor, "COUNT", SCAN_COUNT)
        found = keys_in(keys, slots)
        if found:
            removed += node.command("UNLINK", *found)
        beat()
        if int(cursor) == 0:
            return removed


def keys_in(keys: Sequence[bytes], slots: Collection[int]) -> list[bytes]:
    """Those of the keys that belong to one of these slots."""
    with_id = [key for key in keys if len(key) == redis_keys.KEY_BYTES and key[:2] in PREFIXES]
    ids = np.frombuffer(b"".join(key[2:] for key in with_id), dtype=">u8").astype(np.uint64)
    inside = np.isin(slots_of(ids), list(slots))
    return [key for key, one in zip(with_id, inside.tolist(), strict=True) if one]
