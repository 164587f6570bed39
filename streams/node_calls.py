"""What one run of delivery records means for each Redis node: pure routing, without a loop over followers.

A run is a list of whole messages of one partition. Plain chunks in it are sorted by tweet id; every other record keeps
its place. The answer for a node is the tail of the `apply` Function's arguments: five for each record.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import numpy.typing as npt

from infra.events import Delivery, DeliveryKind
from infra.redis_keys import KEY_BYTES, page_of_keys
from infra.redis_node import Argument
from infra.shard_map import ShardMap
from infra.slots import slots_of

PLAIN = frozenset({DeliveryKind.DELIVER, DeliveryKind.DELIVER_OWN})

# The letter that `apply` knows a record by, and the letter that its keys begin with.
LETTERS: Mapping[DeliveryKind, tuple[bytes, bytes]] = {
    DeliveryKind.DELIVER: (b"D", b"h"),
    DeliveryKind.RETRACT: (b"R", b"h"),
    DeliveryKind.DELIVER_OWN: (b"D", b"u"),
    DeliveryKind.RETRACT_OWN: (b"R", b"u"),
    DeliveryKind.MERGE: (b"M", b"h"),
    DeliveryKind.UNMERGE: (b"X", b"h"),
    DeliveryKind.ADD_CELEBRITY: (b"A", b"f"),
    DeliveryKind.REMOVE_CELEBRITY: (b"B", b"f"),
}


@dataclass(frozen=True, slots=True)
class Placed:
    """A record and the offset of the message that brought it."""

    offset: int
    record: Delivery


def in_order_of_effect(placed: Sequence[Placed]) -> list[Placed]:
    """Runs of plain chunks sorted by tweet id, so that most entries are the newest when they come; the rest as is."""
    ordered: list[Placed] = []
    for plain, group in groupby(placed, key=lambda one: one.record.kind in PLAIN):
        run = list(group)
        ordered += sorted(run, key=lambda one: one.record.subject) if plain else run
    return ordered


def arguments_by_node(placed: Sequence[Placed], shard_map: ShardMap) -> dict[str, list[Argument]]:
    """For every node of the map the records that concern it, as arguments of `apply`; none for many."""
    arguments: dict[str, list[Argument]] = {name: [] for name in shard_map.nodes}
    if not placed:
        return arguments
    ids = np.concatenate([one.record.targets for one in placed]).astype(np.uint64)
    counts = np.array([len(one.record.targets) for one in placed])
    owner = np.repeat(np.arange(len(placed)), counts)
    prefixes = np.array([LETTERS[one.record.kind][1][0] for one in placed], dtype=np.uint8)
    pages = page_of_keys(ids, prefixes[owner])
    slots = slots_of(ids)
    heads = [_head(one) for one in placed]
    for cluster in shard_map.placement:
        places = shard_map.node_indexes(cluster)[slots]
        for index, name in enumerate(shard_map.nodes_of(cluster)):
            mine = np.flatnonzero(places == index)
            for at, page in _pages(pages, owner, mine, len(placed)):
                letter, offset, subject, extra = heads[at]
                arguments[name] += (letter, offset, subject, page, extra)
    return arguments


def _pages(
    pages: npt.NDArray[np.uint8], owner: npt.NDArray[np.int64], mine: npt.NDArray[np.int64], records: int
) -> Iterator[tuple[int, bytes]]:
    """(record, its page of keys) for one node, in order."""
    data = pages[mine].tobytes()
    start = 0
    for at, count in enumerate(np.bincount(owner[mine], minlength=records)):
        if count:
            end = start + int(count) * KEY_BYTES
            yield at, data[start:end]
            start = end


def _head(one: Placed) -> tuple[bytes, int, int, bytes]:
    """Letter, offset, id and ids of a record. A merge's first id is its bound."""
    letter = LETTERS[one.record.kind][0]
    ids = one.record.ids
    if one.record.kind is DeliveryKind.MERGE:
        return letter, one.offset, int(ids[0]), joined(ids[1:])
    return letter, one.offset, one.record.subject, joined(ids)


def joined(ids: Sequence[int] | npt.NDArray[np.uint64]) -> bytes:
    """Ids as text, separated by spaces."""
    return b" ".join(b"%d" % int(one) for one in ids)
