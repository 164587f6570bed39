"""Messages as they were once written, one file each: every later version of the code must read them."""

from pathlib import Path

import pytest

from infra import reactions
from infra.events import (
    DELIVERY_VERSION,
    VERSION,
    Activity,
    ActivityType,
    Delivery,
    DeliveryKind,
    decode_activity,
    decode_deliveries,
)
from infra.reactions import Reaction, ReactionType, decode_reaction

GOLDEN = Path(__file__).parent.parent / "golden"
AUTHOR, LARGEST, TIME_MS = 9007199254740993, 9223372036854775807, 1764072000123

ACTIVITIES = {
    "activity.v1.posted.json": Activity(ActivityType.POSTED, AUTHOR, LARGEST, TIME_MS),
    "activity.v1.deleted.json": Activity(ActivityType.DELETED, AUTHOR, LARGEST, TIME_MS),
    "activity.v1.followed.json": Activity(ActivityType.FOLLOWED, AUTHOR, LARGEST, TIME_MS),
    "activity.v1.unfollowed.json": Activity(ActivityType.UNFOLLOWED, AUTHOR, LARGEST, TIME_MS),
    "activity.v1.status_changed.json": Activity(ActivityType.STATUS_CHANGED, AUTHOR, AUTHOR, TIME_MS),
}

Columns = tuple[DeliveryKind, list[int], list[int], list[int], list[int], list[int]]


def run(kind: DeliveryKind) -> Columns:
    """Two chunks."""
    return kind, [AUTHOR, LARGEST], [TIME_MS, TIME_MS + 1], [2, 1], [1, 2, LARGEST], []


def single(kind: DeliveryKind, ids: list[int] | None = None) -> Columns:
    """One chunk with one target."""
    return kind, [7], [TIME_MS], [1], [8], ids or []


def many(kind: DeliveryKind, ids: list[int] | None = None) -> Columns:
    """One chunk with several targets."""
    return kind, [7], [TIME_MS], [3], [8, 9, LARGEST], ids or []


REACTIONS = {
    "reaction.v1.liked.json": Reaction(ReactionType.LIKED, LARGEST, AUTHOR, TIME_MS),
    "reaction.v1.unliked.json": Reaction(ReactionType.UNLIKED, LARGEST, AUTHOR, TIME_MS),
}

DELIVERIES = {
    "deliveries.v2.runs.hex": [
        run(DeliveryKind.DELIVER),
        run(DeliveryKind.RETRACT),
        single(DeliveryKind.DELIVER_OWN),
        single(DeliveryKind.RETRACT_OWN),
        single(DeliveryKind.ADD_CELEBRITY),
        single(DeliveryKind.REMOVE_CELEBRITY),
    ],
    "deliveries.v2.verify.hex": [run(DeliveryKind.DELIVER), single(DeliveryKind.RETRACT_OWN)],
    "deliveries.v2.merge.hex": [single(DeliveryKind.MERGE, [5, 6, AUTHOR])],
    "deliveries.v2.unmerge.hex": [single(DeliveryKind.UNMERGE)],
    "deliveries.v2.merge_many.hex": [many(DeliveryKind.MERGE, [5, 6, AUTHOR])],
    "deliveries.v2.unmerge_many.hex": [many(DeliveryKind.UNMERGE)],
    "deliveries.v2.celebrity_many.hex": [many(DeliveryKind.ADD_CELEBRITY), many(DeliveryKind.REMOVE_CELEBRITY)],
}


def columns(record: Delivery) -> Columns:
    lists = [
        column.tolist() for column in (record.subjects, record.published_ms, record.counts, record.targets, record.ids)
    ]
    return record.kind, lists[0], lists[1], lists[2], lists[3], lists[4]


VERIFIED = ["deliveries.v2.verify.hex"]  # all of their records; before there was the flag, none


@pytest.mark.parametrize("name", ACTIVITIES)
def test_an_activity_of_any_day_is_read(name: str) -> None:
    assert decode_activity((GOLDEN / name).read_bytes()) == ACTIVITIES[name]


@pytest.mark.parametrize("name", REACTIONS)
def test_a_reaction_of_any_day_is_read(name: str) -> None:
    assert decode_reaction((GOLDEN / name).read_bytes()) == REACTIONS[name]


@pytest.mark.parametrize("name", DELIVERIES)
def test_a_delivery_message_of_any_day_is_read(name: str) -> None:
    records = decode_deliveries(bytes.fromhex((GOLDEN / name).read_text()))

    assert [columns(record) for record in records] == DELIVERIES[name]
    assert {record.verify for record in records} == {name in VERIFIED}


def test_every_file_is_read_and_every_kind_of_the_current_versions_has_one() -> None:
    assert {path.name for path in GOLDEN.iterdir()} == ACTIVITIES.keys() | REACTIONS.keys() | DELIVERIES.keys()
    assert {f"activity.v{VERSION}.{kind.value}.json" for kind in ActivityType} <= ACTIVITIES.keys()
    assert {f"reaction.v{reactions.VERSION}.{kind.value}.json" for kind in ReactionType} <= REACTIONS.keys()
    kinds = {kind for name, records in DELIVERIES.items() if f".v{DELIVERY_VERSION}." in name for kind, *_ in records}
    assert kinds == set(DeliveryKind)
