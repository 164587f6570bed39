"""What travels in the two logs. Activity is JSON, one event of an author; a delivery message is packed binary.

A delivery message holds records for one partition of the deliveries log:

    version (1 byte), then records:
    kind (1) · reserved (1) · published_ms (8) · subject (8) · targets (4) · ids (4) · targets (8 each) · ids (8 each)

All integers are big-endian; so are the follower ids, which become Redis keys without a loop.
"""

import json
import reprlib
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Any

import numpy as np

from infra.errors import Undecodable
from infra.ids import ID_MAX
from infra.slots import Ids

VERSION = 1
PUBLISHED_MS_MAX = (1 << 63) - 1  # what a delivery record has room for
NO_IDS: Ids = np.empty(0, dtype=">u8")


class ActivityType(StrEnum):
    """What an author's event says happened."""

    POSTED = "posted"
    DELETED = "deleted"
    FOLLOWED = "followed"
    UNFOLLOWED = "unfollowed"


@dataclass(frozen=True, slots=True)
class Activity:
    """One event of an author. `other_id` is the tweet for posted and deleted, the follower for the other two."""

    type: ActivityType
    author_id: int
    other_id: int
    published_ms: int


_OTHER = {
    ActivityType.POSTED: "tweet_id",
    ActivityType.DELETED: "tweet_id",
    ActivityType.FOLLOWED: "follower_id",
    ActivityType.UNFOLLOWED: "follower_id",
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


def decode_activity(data: bytes | None) -> Activity:
    """The inverse; fields that this version does not know are ignored. Raises `Undecodable`."""
    try:
        value: Any = json.loads(data or b"")
        if value["version"] != VERSION:
            raise Undecodable(f"activity has version {reprlib.repr(value['version'])}, and this code reads {VERSION}")
        kind = ActivityType(value["type"])
        author_id, other_id = int(value["author_id"]), int(value[_OTHER[kind]])
        if not (1 <= author_id <= ID_MAX and 1 <= other_id <= ID_MAX):
            ids = f"{reprlib.repr(author_id)} and {reprlib.repr(other_id)}"
            raise Undecodable(f"activity names the ids {ids}, which must be from 1 to {ID_MAX}")
        published_ms = int(value["published_ms"])
        if not 0 <= published_ms <= PUBLISHED_MS_MAX:
            raise Undecodable(f"activity was published at {reprlib.repr(published_ms)} ms, which is no time")
        return Activity(kind, author_id, other_id, published_ms)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise Undecodable(f"activity cannot be read: {type(error).__name__}: {error}") from error


class DeliveryKind(IntEnum):
    """What a delivery record does to its targets."""

    DELIVER = 1  # subject: tweet; targets: followers, into their home timelines
    RETRACT = 2  # subject: tweet; targets: followers
    DELIVER_OWN = 3  # subject: tweet; targets: the author, into the user timeline
    RETRACT_OWN = 4  # subject: tweet; targets: the author
    MERGE = 5  # subject: author; targets: one follower; ids: the bound, then the author's tweets above it
    UNMERGE = 6  # subject: author; targets: one follower
    ADD_CELEBRITY = 7  # subject: author; targets: one follower, into the set of followed celebrities
    REMOVE_CELEBRITY = 8  # subject: author; targets: one follower


ONE_TARGET = frozenset(
    {DeliveryKind.MERGE, DeliveryKind.UNMERGE, DeliveryKind.ADD_CELEBRITY, DeliveryKind.REMOVE_CELEBRITY}
)


@dataclass(frozen=True, slots=True, eq=False)
class Delivery:
    """One record of the deliveries log. `targets` and `ids` are big-endian arrays of 64-bit ids."""

    kind: DeliveryKind
    subject: int
    published_ms: int
    targets: Ids
    ids: Ids = field(default_factory=lambda: NO_IDS)


_RECORD = struct.Struct(">BBqqII")
RECORD_BYTES = _RECORD.size


def encode_deliveries(records: Iterable[Delivery]) -> bytes:
    """One message of the deliveries log."""
    parts = [bytes([VERSION])]
    for record in records:
        counts = len(record.targets), len(record.ids)
        parts.append(_RECORD.pack(record.kind, 0, record.published_ms, record.subject, *counts))
        parts.append(record.targets.astype(">u8", copy=False).tobytes())
        if len(record.ids):
            parts.append(record.ids.astype(">u8", copy=False).tobytes())
    return b"".join(parts)


def decode_deliveries(data: bytes | None) -> list[Delivery]:
    """The inverse, without copying the ids. Raises `Undecodable`."""
    if not data or data[0] != VERSION:
        raise Undecodable(f"delivery message has version {data[0] if data else None!r}, and this code reads {VERSION}")
    records, at = [], 1
    try:
        while at < len(data):
            kind, _, published_ms, subject, targets, ids = _RECORD.unpack_from(data, at)
            at += RECORD_BYTES
            target_ids = np.frombuffer(data, ">u8", targets, at)
            at += 8 * targets
            entry_ids = np.frombuffer(data, ">u8", ids, at) if ids else NO_IDS
            at += 8 * ids
            records.append(_checked(Delivery(DeliveryKind(kind), subject, published_ms, target_ids, entry_ids)))
    except (ValueError, struct.error) as error:
        raise Undecodable(f"delivery message cannot be read at byte {at}: {error}") from error
    return records


def _checked(record: Delivery) -> Delivery:
    if record.kind in ONE_TARGET and len(record.targets) != 1:
        raise Undecodable(f"a {record.kind.name} record has {len(record.targets)} targets; it has exactly one")
    if record.kind is DeliveryKind.MERGE and len(record.ids) == 0:
        raise Undecodable("a MERGE record has no bound")
    if record.subject < 1:
        raise Undecodable(f"a {record.kind.name} record has the subject {record.subject}, which is no id")
    return record
