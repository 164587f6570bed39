"""The fan-out policy, as a table."""

import numpy as np
import pytest

from infra.events import Activity, ActivityType, Delivery, DeliveryKind, decode_deliveries
from infra.slots import slot_of
from infra.topics import DELIVERIES, MESSAGE_BYTES_MAX
from streams.fan_out import MESSAGE_RECORDS_MAX, MESSAGE_TARGETS_MAX, Facts, Placed, pack_messages, plan_deliveries
from streams.follower_index import pack

AUTHOR, FOLLOWER, TWEET, LENGTH = 7, 8, 10**18, 3
FOLLOWERS = pack(np.arange(100, 200, dtype=np.uint64))


def facts(live: bool = True, pull: bool = False, following: bool | None = None, newest: tuple[int, ...] = ()) -> Facts:
    return Facts(
        live=frozenset([TWEET] if live else []),
        pull=frozenset([AUTHOR] if pull else []),
        following={} if following is None else {(AUTHOR, FOLLOWER): following},
        newest={AUTHOR: newest},
    )


def plan(kind: ActivityType, known: Facts) -> list[Placed]:
    other = TWEET if kind in (ActivityType.POSTED, ActivityType.DELETED) else FOLLOWER
    return list(plan_deliveries(Activity(kind, AUTHOR, other, 5), known, FOLLOWERS, LENGTH))


def kinds(placed: list[Placed]) -> set[DeliveryKind]:
    return {record.kind for _, record in placed}


@pytest.mark.parametrize(
    ("kind", "known", "expected"),
    [
        (ActivityType.POSTED, facts(), {DeliveryKind.DELIVER, DeliveryKind.DELIVER_OWN}),
        (ActivityType.POSTED, facts(pull=True), {DeliveryKind.DELIVER_OWN}),
        (ActivityType.POSTED, facts(live=False), set()),
        (ActivityType.DELETED, facts(live=False), {DeliveryKind.RETRACT, DeliveryKind.RETRACT_OWN}),
        (ActivityType.DELETED, facts(live=False, pull=True), {DeliveryKind.RETRACT_OWN}),
        (ActivityType.FOLLOWED, facts(following=True), {DeliveryKind.MERGE}),
        (ActivityType.FOLLOWED, facts(following=True, pull=True), {DeliveryKind.ADD_CELEBRITY}),
        (ActivityType.FOLLOWED, facts(following=False), {DeliveryKind.UNMERGE, DeliveryKind.REMOVE_CELEBRITY}),
        (ActivityType.UNFOLLOWED, facts(following=False), {DeliveryKind.UNMERGE, DeliveryKind.REMOVE_CELEBRITY}),
        (ActivityType.UNFOLLOWED, facts(following=True), {DeliveryKind.MERGE}),
    ],
)
def test_an_event_asks_for_records_by_what_the_database_says_now(
    kind: ActivityType, known: Facts, expected: set[DeliveryKind]
) -> None:
    assert kinds(plan(kind, known)) == expected


def test_each_follower_is_a_target_once_in_the_partition_of_his_slot() -> None:
    placed = [one for one in plan(ActivityType.POSTED, facts()) if one[1].kind is DeliveryKind.DELIVER]

    targets = [(partition, int(target)) for partition, record in placed for target in record.targets]
    assert sorted(target for _, target in targets) == list(range(100, 200))
    assert all(slot_of(target) % DELIVERIES.partitions == partition for partition, target in targets)


@pytest.mark.parametrize(
    ("newest", "ids"),
    [((), [0]), ((3, 2, 1), [0, 1, 2, 3]), ((4, 3, 2, 1), [1, 2, 3, 4])],
)
def test_a_merge_carries_the_newest_tweets_and_how_far_they_are_complete(
    newest: tuple[int, ...], ids: list[int]
) -> None:
    [(_, record)] = plan(ActivityType.FOLLOWED, facts(following=True, newest=newest))

    assert record.ids.tolist() == ids


def record(kind: DeliveryKind, targets: int = 1) -> Delivery:
    return Delivery(kind, TWEET, 5, np.arange(targets, dtype=">u8"))


def test_records_of_a_partition_share_messages_in_their_order() -> None:
    placed = [(3, record(DeliveryKind.DELIVER)), (4, record(DeliveryKind.DELIVER)), (3, record(DeliveryKind.RETRACT))]

    messages = {message.partition: decode_deliveries(message.value) for message in pack_messages(placed)}

    assert [one.kind for one in messages[3]] == [DeliveryKind.DELIVER, DeliveryKind.RETRACT]
    assert [one.kind for one in messages[4]] == [DeliveryKind.DELIVER]


def test_an_unmerge_travels_alone_between_its_neighbours() -> None:
    order = [DeliveryKind.DELIVER, DeliveryKind.UNMERGE, DeliveryKind.DELIVER]

    messages = [decode_deliveries(message.value) for message in pack_messages([(0, record(kind)) for kind in order])]

    assert [[one.kind for one in message] for message in messages] == [[kind] for kind in order]


@pytest.mark.parametrize(
    "placed",
    [
        [(0, record(DeliveryKind.DELIVER))] * (3 * MESSAGE_RECORDS_MAX),
        [(0, record(DeliveryKind.DELIVER, MESSAGE_TARGETS_MAX))] * 3,
        [(0, record(DeliveryKind.DELIVER, 10_000))] * 7,
    ],
)
def test_a_message_never_outgrows_the_broker(placed: list[Placed]) -> None:
    messages = list(pack_messages(placed))

    assert max(len(message.value or b"") for message in messages) < MESSAGE_BYTES_MAX / 2
    assert sum(len(decode_deliveries(message.value)) for message in messages) == len(placed)
