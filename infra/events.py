"""What travels in the two logs. Activity is JSON, one event of an author; a delivery message is packed binary.

A delivery message holds records for one partition of the deliveries log:

    version (1 byte), then records:
    kind (1) · flags (1) · reserved (2) · chunks (4) · targets (4) · ids (4)
    · subjects (8 each chunk) · published_ms (8 each chunk) · counts (4 each chunk) · targets (8 each) · ids (8 each)

A record holds chunks of one kind: the first chunk's targets are the first `counts[0]` of all, and so on. Its one flag
is `verify`: it did not come in the live order, and is compared with the database right before it is applied.
All integers are big-endian; so are the follower ids, which become Redis keys without a loop.
"""

import json
import reprlib
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

from infra.errors import Undecodable
from infra.ids import ID_MAX
from infra.slots import Ids

VERSION = 1
DELIVERY_VERSION = 2  # 1 had one chunk a record
PUBLISHED_MS_MAX = (1 << 63) - 1  # what a delivery record has room for
NO_IDS: Ids = np.empty(0, dtype=">u8")
# A header of activity that was sent again: its value is the id of the replay, or of the redrive. It is no news: who
# tells people or counts as things happen leaves it out, and who writes down what the database says now takes it.
REPLAY_HEADER = "fanfold-replay"


class ActivityType(StrEnum):
    """What an author's event says happened."""

    POSTED = "posted"
    DELETED = "deleted"
    FOLLOWED = "followed"
    UNFOLLOWED = "unfollowed"
    STATUS_CHANGED = "status_changed"


@dataclass(frozen=True, slots=True)
class Activity:
    """One event of an author. `other_id` is the tweet for posted and deleted, the follower for followed and unfollowed,
    and the author himself for a change of his status: which one, his row says.

    `replayed` is told by a header (`is_replayed`) and is no part of the value."""

    type: ActivityType
    author_id: int
    other_id: int
    published_ms: int
    replayed: bool = False


_OTHER = {
    ActivityType.POSTED: "tweet_id",
    ActivityType.DELETED: "tweet_id",
    ActivityType.FOLLOWED: "follower_id",
    ActivityType.UNFOLLOWED: "follower_id",
    ActivityType.STATUS_CHANGED: "author_id",
}


def encode_activity(activity: Activity) -> str:
    """The outbox payload and the Kafka value. Ids are strings, as everywhere in JSON."""
    return json.dumps(
        {
            "version": VERSION,
            "type": activity.type,
            "author_id": str(activity.author_id),
            _OTHER[activity.type]: str(activity.other_id),
            "published_ms": activity.published_ms,
        },
        separators=(",", ":"),
    )


def is_replayed(headers: Mapping[str, Any] | Iterable[tuple[str, Any]] | None) -> bool:
    """Whether a message of the activity log was sent again, by its headers as any client has them."""
    return any(name == REPLAY_HEADER for name in (headers if isinstance(headers, Mapping) else dict(headers or ())))


def decode_activity(data: bytes | None, *, replayed: bool = False) -> Activity:
    """The inverse; fields that this version does not know are ignored. Raises `Undecodable`."""
    try:
        value: Any = json.loads(data or b"")
        read_version("activity", value, VERSION)
        kind = ActivityType(value["type"])
        author_id, other_id = read_ids("activity", value, "author_id", _OTHER[kind])
        return Activity(kind, author_id, other_id, read_time_ms("activity", value), replayed)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise Undecodable(f"activity cannot be read: {type(error).__name__}: {error}") from error


def read_version(what: str, value: Any, version: int) -> None:
    """Raises `Undecodable` for another version than this code's."""
    if value["version"] != version:
        raise Undecodable(f"{what} has version {reprlib.repr(value['version'])}, and this code reads {version}")


def read_ids(what: str, value: Any, first: str, second: str) -> tuple[int, int]:
    """Two ids of a JSON value. Raises `Undecodable` when one is none."""
    ids = int(value[first]), int(value[second])
    if not all(1 <= one <= ID_MAX for one in ids):
        named = " and ".join(map(reprlib.repr, ids))
        raise Undecodable(f"{what} names the ids {named}, which must be from 1 to {ID_MAX}")
    return ids


def read_time_ms(what: str, value: Any) -> int:
    """When it was published. Raises `Undecodable` for what is no time."""
    published_ms = int(value["published_ms"])
    if not 0 <= published_ms <= PUBLISHED_MS_MAX:
        raise Undecodable(f"{what} was published at {reprlib.repr(published_ms)} ms, which is no time")
    return published_ms


class DeliveryKind(IntEnum):
    """What a delivery record does to its targets."""

    DELIVER = 1  # subject: tweet; targets: followers, into their home timelines
    RETRACT = 2  # subject: tweet; targets: followers
    DELIVER_OWN = 3  # subject: tweet; targets: the author, into the user timeline
    RETRACT_OWN = 4  # subject: tweet; targets: the author
    MERGE = 5  # subject: author; targets: followers; ids: the bound, then the author's tweets above it
    UNMERGE = 6  # subject: author; targets: followers
    ADD_CELEBRITY = 7  # subject: author; targets: followers, into their sets of followed celebrities
    REMOVE_CELEBRITY = 8  # subject: author; targets: followers


# Their records have one chunk.
ONE_CHUNK = frozenset(
    {DeliveryKind.MERGE, DeliveryKind.UNMERGE, DeliveryKind.ADD_CELEBRITY, DeliveryKind.REMOVE_CELEBRITY}
)
ALONE = frozenset({DeliveryKind.MERGE, DeliveryKind.UNMERGE})  # these have a message to themselves


class Family(StrEnum):
    """The keys that a kind changes. Only within a family does order matter."""

    HOME = "home"
    USER = "user"
    CELEBRITIES = "celebrities"


FAMILY = {
    DeliveryKind.DELIVER: Family.HOME,
    DeliveryKind.RETRACT: Family.HOME,
    DeliveryKind.DELIVER_OWN: Family.USER,
    DeliveryKind.RETRACT_OWN: Family.USER,
    DeliveryKind.MERGE: Family.HOME,
    DeliveryKind.UNMERGE: Family.HOME,
    DeliveryKind.ADD_CELEBRITY: Family.CELEBRITIES,
    DeliveryKind.REMOVE_CELEBRITY: Family.CELEBRITIES,
}


@dataclass(frozen=True, slots=True, eq=False)
class Delivery:
    """One record of the deliveries log: chunks of one kind, as columns. All arrays are big-endian.

    Chunk i says what happens to `subjects[i]` in `counts[i]` of the `targets`. `ids` belong to merges. What is to be
    verified counts only as far as the database still says so when it is applied (streams/verify.py).
    """

    kind: DeliveryKind
    subjects: Ids
    published_ms: npt.NDArray[np.int64]
    counts: npt.NDArray[np.uint32]
    targets: Ids
    ids: Ids = field(default_factory=lambda: NO_IDS)
    verify: bool = False

    @property
    def subject(self) -> int:
        """The subject of a record with one chunk."""
        return int(self.subjects[0])


def one_chunk(
    kind: DeliveryKind, subject: int, published_ms: int, targets: Sequence[int] | Ids, ids: Ids = NO_IDS
) -> Delivery:
    """A record with one chunk."""
    return Delivery(
        kind,
        np.array([subject], dtype=">u8"),
        np.array([published_ms], dtype=">i8"),
        np.array([len(targets)], dtype=">u4"),
        np.array(targets, dtype=">u8"),
        ids,
    )


_RECORD = struct.Struct(">BB2xIII")
_VERIFY = 1  # the flag; messages from before it have none
RECORD_BYTES = _RECORD.size
CHUNK_BYTES = 20  # of a chunk without its targets


def encode_deliveries(records: Iterable[Delivery]) -> bytes:
    """One message of the deliveries log."""
    parts = [bytes([DELIVERY_VERSION])]
    for record in records:
        sizes = len(record.subjects), len(record.targets), len(record.ids)
        parts.append(_RECORD.pack(record.kind, _VERIFY * record.verify, *sizes))
        parts.append(record.subjects.astype(">u8", copy=False).tobytes())
        parts.append(record.published_ms.astype(">i8", copy=False).tobytes())
        parts.append(record.counts.astype(">u4", copy=False).tobytes())
        parts.append(record.targets.astype(">u8", copy=False).tobytes())
        parts.append(record.ids.astype(">u8", copy=False).tobytes())
    return b"".join(parts)


def decode_deliveries(data: bytes | None) -> list[Delivery]:
    """The inverse, without copying the ids. Raises `Undecodable`."""
    if not data or data[0] != DELIVERY_VERSION:
        version = data[0] if data else None
        raise Undecodable(f"delivery message has version {version!r}, and this code reads {DELIVERY_VERSION}")
    records, at = [], 1
    try:
        while at < len(data):
            kind, flags, of_chunks, of_targets, of_ids = _RECORD.unpack_from(data, at)
            at += RECORD_BYTES
            columns = []
            sizes = (">u8", of_chunks), (">i8", of_chunks), (">u4", of_chunks), (">u8", of_targets), (">u8", of_ids)
            for dtype, count in sizes:
                columns.append(np.frombuffer(data, dtype, count, at) if count else np.empty(0, dtype))
                at += columns[-1].nbytes
            subjects, published_ms, counts, targets, ids = columns
            record = Delivery(DeliveryKind(kind), subjects, published_ms, counts, targets, ids, _verifies(flags))
            records.append(_checked(record))
    except (ValueError, struct.error) as error:
        raise Undecodable(f"delivery message cannot be read at byte {at}: {error}") from error
    return records


def _verifies(flags: int) -> bool:
    """Raises `Undecodable` for a flag that this version does not know: what it leaves out might matter."""
    if flags & ~_VERIFY:
        raise Undecodable(f"a delivery record has the flags {flags:#x}, and this code knows {_VERIFY:#x}")
    return bool(flags)


def _checked(record: Delivery) -> Delivery:
    """Raises `Undecodable` for what no writer of ours can have meant."""
    name, targets = record.kind.name, len(record.targets)
    if int(record.counts.sum(dtype=np.uint64)) != targets:
        raise Undecodable(f"the chunks of a {name} record count {record.counts.sum()} targets, and it has {targets}")
    if record.kind in ONE_CHUNK and (targets == 0 or len(record.subjects) != 1):
        raise Undecodable(
            f"a {name} record has {len(record.subjects)} chunks and {targets} targets; it has one chunk, with targets"
        )
    if record.kind is DeliveryKind.MERGE and len(record.ids) == 0:
        raise Undecodable("a MERGE record has no bound")
    if not len(record.subjects) or not 1 <= int(record.subjects.min()) <= int(record.subjects.max()) <= ID_MAX:
        raise Undecodable(f"a {name} record has a subject that is no id")
    return record
