"""The fan-out policy, as a table."""

from dataclasses import replace

import numpy as np
import pytest

from infra.events import Activity, ActivityType, DeliveryKind, decode_deliveries
from infra.slots import slot_of
from infra.status import Standing, Status
from infra.topics import DELIVERIES, MESSAGE_BYTES_MAX
from streams.fan_out import (
    MESSAGE_CHUNKS_MAX,
    MESSAGE_TARGETS_MAX,
    WHOLE_LISTS_MAX,
    Chunk,
    Facts,
    by_tweet_id,
    pack_messages,
    plan_deliveries,
)
from streams.follower_index import pack, partitions_of

AUTHOR, FOLLOWER, TWEET, LENGTH = 7, 8, 10**18, 3
FOLLOWERS = pack(np.arange(100, 200, dtype=np.uint64))


PULL, UP, DOWN = Standing(Status.PULL), Standing(Status.BOTH, Status.PUSH), Standing(Status.BOTH, Status.PULL)


def facts(
    live: bool = True,
    standing: Standing | None = None,
    following: bool | None = None,
    newest: tuple[int, ...] = (),
) -> Facts:
    return Facts(
        live=frozenset([TWEET] if live else []),
        standings={AUTHOR: standing} if standing else {},
        following={} if following is None else {(AUTHOR, FOLLOWER): following},
        newest={AUTHOR: newest},
    )


def plan(kind: ActivityType, known: Facts) -> list[Chunk]:
    other = {ActivityType.STATUS_CHANGED: AUTHOR}.get(kind, FOLLOWER)
    other = TWEET if kind in (ActivityType.POSTED, ActivityType.DELETED) else other
    return list(plan_deliveries(Activity(kind, AUTHOR, other, 5), known, FOLLOWERS, LENGTH))


def kinds(chunks: list[Chunk]) -> set[DeliveryKind]:
    return {chunk.kind for chunk in chunks}


@pytest.mark.parametrize(
    ("kind", "known", "expected"),
    [
        (ActivityType.POSTED, facts(), {DeliveryKind.DELIVER, DeliveryKind.DELIVER_OWN}),
        (ActivityType.POSTED, facts(standing=PULL), {DeliveryKind.DELIVER_OWN}),
        (ActivityType.POSTED, facts(standing=UP), {DeliveryKind.DELIVER, DeliveryKind.DELIVER_OWN}),
        (ActivityType.POSTED, facts(standing=DOWN), {DeliveryKind.DELIVER, DeliveryKind.DELIVER_OWN}),
        (ActivityType.POSTED, facts(live=False), set()),
        (ActivityType.DELETED, facts(live=False), {DeliveryKind.RETRACT, DeliveryKind.RETRACT_OWN}),
        (ActivityType.DELETED, facts(live=False, standing=PULL), {DeliveryKind.RETRACT_OWN}),
        (ActivityType.FOLLOWED, facts(following=True), {DeliveryKind.MERGE}),
        (ActivityType.FOLLOWED, facts(following=True, standing=PULL), {DeliveryKind.ADD_CELEBRITY}),
        (ActivityType.FOLLOWED, facts(following=True, standing=UP), {DeliveryKind.ADD_CELEBRITY, DeliveryKind.MERGE}),
        (ActivityType.FOLLOWED, facts(following=True, standing=DOWN), {DeliveryKind.ADD_CELEBRITY, DeliveryKind.MERGE}),
        (ActivityType.STATUS_CHANGED, facts(standing=UP), {DeliveryKind.ADD_CELEBRITY}),
        (ActivityType.STATUS_CHANGED, facts(standing=PULL), {DeliveryKind.UNMERGE}),
        (ActivityType.STATUS_CHANGED, facts(standing=DOWN), {DeliveryKind.MERGE}),
        (ActivityType.STATUS_CHANGED, facts(), {DeliveryKind.REMOVE_CELEBRITY}),
        (ActivityType.FOLLOWED, facts(following=False), {DeliveryKind.UNMERGE, DeliveryKind.REMOVE_CELEBRITY}),
        (ActivityType.UNFOLLOWED, facts(following=False), {DeliveryKind.UNMERGE, DeliveryKind.REMOVE_CELEBRITY}),
        (ActivityType.UNFOLLOWED, facts(following=True), {DeliveryKind.UNMERGE, DeliveryKind.MERGE}),
    ],
)
def test_an_event_asks_for_records_by_what_the_database_says_now(
    kind: ActivityType, known: Facts, expected: set[DeliveryKind]
) -> None:
    assert kinds(plan(kind, known)) == expected


def test_an_unfollow_of_one_who_follows_again_takes_all_entries_out_before_it_puts_live_ones_back() -> None:
    """An index loaded between the two let a retract pass him by, so what is deleted may still be there."""
    chunks = plan(ActivityType.UNFOLLOWED, facts(following=True))

    assert [chunk.kind for chunk in chunks] == [DeliveryKind.UNMERGE, DeliveryKind.MERGE]


def test_each_follower_is_a_target_once_in_the_partition_of_his_slot() -> None:
    chunks = [one for one in plan(ActivityType.POSTED, facts()) if one.kind is DeliveryKind.DELIVER]

    targets = [(chunk.partition, int(target)) for chunk in chunks for target in chunk.targets]
    assert sorted(target for _, target in targets) == list(range(100, 200))
    assert all(slot_of(target) % DELIVERIES.partitions == partition for partition, target in targets)


@pytest.mark.parametrize(
    ("newest", "ids"),
    [((), [0]), ((3, 2, 1), [0, 1, 2, 3]), ((4, 3, 2, 1), [1, 2, 3, 4])],
)
def test_a_merge_carries_the_newest_tweets_and_how_far_they_are_complete(
    newest: tuple[int, ...], ids: list[int]
) -> None:
    [chunk] = plan(ActivityType.FOLLOWED, facts(following=True, newest=newest))

    assert chunk.ids.tolist() == ids


def chunk(partition: int, kind: DeliveryKind, targets: int = 1) -> Chunk:
    return Chunk(partition, kind, TWEET, 5, np.arange(targets, dtype=">u8"))


def test_chunks_of_a_partition_share_messages_and_those_of_one_kind_share_records() -> None:
    chunks = [
        chunk(3, DeliveryKind.DELIVER),
        chunk(4, DeliveryKind.DELIVER),
        chunk(3, DeliveryKind.DELIVER_OWN),
        chunk(3, DeliveryKind.DELIVER),
        chunk(3, DeliveryKind.RETRACT),
        chunk(3, DeliveryKind.DELIVER),
    ]

    messages = {message.partition: decode_deliveries(message.value) for message in pack_messages(chunks)}

    assert [(one.kind, len(one.subjects)) for one in messages[3]] == [
        (DeliveryKind.DELIVER, 2),
        (DeliveryKind.RETRACT, 1),
        (DeliveryKind.DELIVER, 1),
        (DeliveryKind.DELIVER_OWN, 1),
    ]
    assert [(one.kind, len(one.subjects)) for one in messages[4]] == [(DeliveryKind.DELIVER, 1)]


def test_what_an_event_that_was_sent_again_asks_for_is_to_be_verified_and_has_records_of_its_own() -> None:
    event = Activity(ActivityType.POSTED, AUTHOR, TWEET, 5)
    both = [*plan_deliveries(event, facts(), FOLLOWERS, LENGTH)]
    both += plan_deliveries(replace(event, replayed=True), facts(), FOLLOWERS, LENGTH)

    records = [one for message in pack_messages(both) for one in decode_deliveries(message.value)]

    sizes = {verify: sum(len(one.targets) for one in records if one.verify is verify) for verify in (False, True)}
    assert sizes == {False: 101, True: 101}


@pytest.mark.parametrize("alone", [DeliveryKind.MERGE, DeliveryKind.UNMERGE])
def test_a_merge_or_unmerge_travels_alone_between_its_neighbours(alone: DeliveryKind) -> None:
    order = [DeliveryKind.DELIVER, alone, DeliveryKind.DELIVER]
    one_id = np.array([0], dtype=">u8")

    messages = list(pack_messages([chunk(0, kind)._replace(ids=one_id) for kind in order]))

    assert [[one.kind for one in decode_deliveries(message.value)] for message in messages] == [
        [kind] for kind in order
    ]


@pytest.mark.parametrize(
    "chunks",
    [
        [chunk(0, DeliveryKind.DELIVER)] * (3 * MESSAGE_CHUNKS_MAX),
        [chunk(0, DeliveryKind.DELIVER, MESSAGE_TARGETS_MAX)] * 3,
        [chunk(0, DeliveryKind.DELIVER, 10_000)] * 7,
        [chunk(0, DeliveryKind.DELIVER), chunk(0, DeliveryKind.RETRACT)] * MESSAGE_CHUNKS_MAX,
    ],
)
def test_a_message_never_outgrows_the_broker(chunks: list[Chunk]) -> None:
    messages = list(pack_messages(chunks))

    assert max(len(message.value or b"") for message in messages) < MESSAGE_BYTES_MAX / 2
    records = [record for message in messages for record in decode_deliveries(message.value)]
    assert sum(len(record.subjects) for record in records) == len(chunks)
    assert sum(len(record.targets) for record in records) == sum(len(one.targets) for one in chunks)


def test_new_tweets_of_several_partitions_are_in_the_order_of_timelines_and_each_partition_in_its_own() -> None:
    def chunk(kind: DeliveryKind, subject: int) -> Chunk:
        return Chunk(0, kind, subject, 0, np.array([1], dtype=">u8"))

    new, gone, merged = DeliveryKind.DELIVER, DeliveryKind.RETRACT, DeliveryKind.MERGE
    one = [chunk(new, 10), chunk(new, 30), chunk(gone, 5), chunk(new, 40)]
    other = [chunk(merged, 7), chunk(new, 20), chunk(new, 50), chunk(new, 25), chunk(new, 60)]

    together = by_tweet_id([one, other])

    expected = [(merged, 7), (new, 10), (new, 20), (new, 30), (gone, 5), (new, 40), (new, 50), (new, 25), (new, 60)]
    assert [(made.kind, made.subject) for made in together] == expected
    assert by_tweet_id([]) == by_tweet_id([[], []]) == []


@pytest.mark.parametrize("standing", [PULL, UP, DOWN, None])
def test_a_change_of_status_concerns_each_follower_once_in_bounded_chunks(standing: Standing | None) -> None:
    followers = pack(np.arange(1, 3_000, dtype=np.uint64))
    event = Activity(ActivityType.STATUS_CHANGED, AUTHOR, AUTHOR, 5)
    chunks = list(plan_deliveries(event, facts(standing=standing, newest=(3, 2, 1)), followers, LENGTH))

    assert sorted(int(target) for one in chunks for target in one.targets) == list(range(1, 3_000))
    assert all(partitions_of(one.targets).tolist() == [one.partition] * len(one.targets) for one in chunks)
    whole = [len(one.targets) for one in chunks if one.kind in (DeliveryKind.MERGE, DeliveryKind.UNMERGE)]
    assert max(whole, default=1) <= WHOLE_LISTS_MAX
