"""What one run of delivery records means for each Redis node: pure routing, without a loop over followers.

A run is a list of whole messages of one partition. Its chunks are turned around, from "this tweet to these timelines"
to "these tweets to this timeline", so a node looks at each list at most once a run. The answer for a node is the tail
of the `apply` Function's arguments: five for each record.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import numpy.typing as npt

from infra.events import FAMILY, ONE_CHUNK, Delivery, DeliveryKind, Family
from infra.redis_keys import CELEBRITIES, HOME, USER, page_of_keys
from infra.redis_node import Argument
from infra.shard_map import ShardMap
from infra.slots import SLOTS, Ids, slots_of
from infra.topics import DELIVERIES

# The letter that `apply` knows a kind by.
LETTERS: Mapping[DeliveryKind, bytes] = {
    DeliveryKind.DELIVER: b"D",
    DeliveryKind.RETRACT: b"R",
    DeliveryKind.DELIVER_OWN: b"D",
    DeliveryKind.RETRACT_OWN: b"R",
    DeliveryKind.MERGE: b"M",
    DeliveryKind.UNMERGE: b"X",
    DeliveryKind.ADD_CELEBRITY: b"A",
    DeliveryKind.REMOVE_CELEBRITY: b"B",
}
SENT_AGAIN = {b"D": b"V"}  # where a record carries `verify`: what it brings is there, as a rule
CONTINUES = {b"D": b"N"}  # for lists that no earlier call of the run was for
INSERTING = (b"D", b"N", b"V")
RECORD_ARGUMENTS, PAGE_AT = 5, 3
PARTS_MAX = SLOTS // DELIVERIES.partitions  # a partition has this many slots
PREFIXES = {Family.HOME: HOME, Family.USER: USER, Family.CELEBRITIES: CELEBRITIES}


@dataclass(frozen=True, slots=True)
class Placed:
    """A record and the offset of the message that brought it."""

    offset: int
    record: Delivery


@dataclass(frozen=True, slots=True, eq=False)
class Segment:
    """Records of one kind, turned around: for each owner, `counts` places in `subjects`, one after the other.

    `subjects` is ascending and has each tweet once; `offsets` says from which message each came, less `offset`. So an
    owner's places are ascending, and each once. A kind of one chunk has one subject for all owners, without places.
    """

    letter: bytes
    prefix: bytes
    offset: int
    subjects: Sequence[int]
    offsets: npt.NDArray[np.uint32]
    owners: Ids
    counts: npt.NDArray[np.uint16]
    places: npt.NDArray[np.uint16]
    ids: Sequence[int] = ()


def partitions_of(records: Iterable[Delivery]) -> list[int]:
    """The partitions that the timelines of these records belong to, ascending."""
    targets = [record.targets for record in records]
    return np.unique(slots_of(_joined(targets)) % DELIVERIES.partitions).tolist() if targets else []


def segments_of(placed: Sequence[Placed]) -> list[Segment]:
    """A run as segments. Within a family of keys they keep the log's order; kinds of one chunk stay single."""
    families: dict[Family, list[Placed]] = {}
    for one in placed:
        families.setdefault(FAMILY[one.record.kind], []).append(one)
    return [
        segment
        for family, members in families.items()
        for kind, group in groupby(members, key=lambda one: one.record.kind)
        for segment in _segments(kind, PREFIXES[family], list(group))
    ]


def _segments(kind: DeliveryKind, prefix: bytes, group: Sequence[Placed]) -> Iterator[Segment]:
    if kind not in ONE_CHUNK:
        with_targets = [one for one in group if len(one.record.targets)]
        if with_targets:
            letter = LETTERS[kind]
            if any(one.record.verify for one in with_targets):
                letter = SENT_AGAIN.get(letter, letter)
            yield _turned_around(letter, prefix, with_targets)
        return
    for one in group:
        record, ids = one.record, one.record.ids.tolist()
        # A merge's first id is its bound, and takes the place of the subject.
        subject = ids.pop(0) if kind is DeliveryKind.MERGE else record.subject
        owners = record.targets.astype(np.uint64)
        yield Segment(LETTERS[kind], prefix, one.offset, [subject], NO_OFFSETS, owners, NO_PLACES, NO_PLACES, ids)


NO_OFFSETS = np.empty(0, dtype=np.uint32)
NO_PLACES = np.empty(0, dtype=np.uint16)


def _turned_around(letter: bytes, prefix: bytes, group: Sequence[Placed]) -> Segment:
    """Sorts by owner, then by tweet id, and drops what is there twice."""
    subjects, place_of_chunk = np.unique(_joined(one.record.subjects for one in group), return_inverse=True)
    first = group[0].offset
    chunks = [len(one.record.subjects) for one in group]
    offset_of_chunk = np.repeat(np.array([one.offset - first for one in group], dtype=np.uint32), chunks)
    offsets = np.zeros(len(subjects), dtype=np.uint32)
    np.maximum.at(offsets, place_of_chunk, offset_of_chunk)  # the later one: it is counted if any of them is
    place = np.repeat(place_of_chunk.astype(np.uint64), _joined(one.record.counts for one in group).astype(np.int64))

    targets = _joined(one.record.targets for one in group)
    order = np.argsort(targets)
    sorted_targets = targets[order]
    starts_owner = np.concatenate(([True], sorted_targets[1:] != sorted_targets[:-1]))
    both = ((np.cumsum(starts_owner) - 1).astype(np.uint64) << np.uint64(32)) | place[order]
    both.sort()
    both = both[np.concatenate(([True], both[1:] != both[:-1]))]
    owners = sorted_targets[starts_owner]
    counts = np.bincount((both >> np.uint64(32)).astype(np.int64), minlength=len(owners)).astype(np.uint16)
    return Segment(letter, prefix, first, subjects.tolist(), offsets, owners, counts, both.astype(np.uint16))


def _joined(columns: Iterable[npt.NDArray[np.unsignedinteger]]) -> Ids:
    """Columns of several records as one, in the machine's byte order."""
    return np.concatenate(list(columns)).astype(np.uint64)


def arguments_by_node(
    segments: Sequence[Segment], shard_map: ShardMap, parts: int = 1
) -> list[dict[str, list[Argument]]]:
    """For each part and node the records that concern it, as arguments of `apply`. A part has its own slots, so that
    each list's records are in one part; every node is in each part, with nothing at times."""
    found: list[dict[str, list[Argument]]] = [{name: [] for name in shard_map.nodes} for _ in range(parts)]
    for segment in segments:
        slots = slots_of(segment.owners)
        pages = page_of_keys(segment.owners, segment.prefix)
        subjects = joined(segment.subjects)
        part_of = slots // DELIVERIES.partitions % parts
        for cluster in shard_map.placement:
            nodes = shard_map.nodes_of(cluster)
            places = shard_map.node_indexes(cluster)[slots] * parts + part_of
            for place in np.flatnonzero(np.bincount(places)).tolist():
                mine = places == place
                arguments = found[place % parts][nodes[place // parts]]
                arguments += (segment.letter, segment.offset, subjects, pages[mine].tobytes(), _extra(segment, mine))
    return found


def inserts_at_home(arguments: Sequence[Argument]) -> bool:
    """Whether a node's records bring something into home timelines."""
    letters, pages = arguments[::RECORD_ARGUMENTS], arguments[PAGE_AT::RECORD_ARGUMENTS]
    return any(
        letter in INSERTING and isinstance(page, bytes) and page.startswith(HOME)
        for letter, page in zip(letters, pages, strict=True)
    )


def continued(arguments: Sequence[Argument]) -> list[Argument]:
    """A node's records with the letters of a call behind one of the same run that has inserted into home timelines
    there. Only for the first try: a call that timed out may have been made."""
    return [
        CONTINUES.get(one, one) if isinstance(one, bytes) and at % RECORD_ARGUMENTS == 0 else one
        for at, one in enumerate(arguments)
    ]


def _extra(segment: Segment, mine: npt.NDArray[np.bool_]) -> bytes:
    """The last argument of a record; lua/timelines.lua has its form."""
    if not len(segment.counts):
        return joined(segment.ids)
    counts, places = segment.counts[mine], segment.places[np.repeat(mine, segment.counts)]
    return counts.astype(">u2").tobytes() + places.astype(">u2").tobytes() + segment.offsets.astype(">u4").tobytes()


def joined(ids: Sequence[int]) -> bytes:
    """Ids as text, separated by spaces."""
    return " ".join(map(str, ids)).encode()
