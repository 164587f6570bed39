"""The small parts of live timelines: positions, matching, frames and the bounded queue, and where a stream begins."""

import asyncio
from dataclasses import replace

import numpy as np
import pytest

from consumers.live_frames import EVENTS_MAX, QUEUE_BYTES_MAX, EventQueue, Reason, because, event, heartbeat, with_id
from consumers.live_lag import Stuck
from consumers.live_match import Happening, happenings, sorted_ids
from consumers.live_position import Place, Position, audience_of, parse_position
from consumers.live_sightings import Sightings
from consumers.live_start import RESUME_OFFSETS_MAX, now, start_of
from infra.errors import InvalidInput
from infra.events import Delivery, DeliveryKind, one_chunk
from infra.log_reader import ACTIVITY_LOGS, DELIVERY_LOGS, LOGS, Bounds
from infra.slots import slot_of

USER = 7
LOG = DELIVERY_LOGS[slot_of(USER) % len(DELIVERY_LOGS)]
PLACES = tuple(Place(number, number // 2) for number in range(len(ACTIVITY_LOGS)))
POSITIONS = [
    Position("0a1b2c3d", audience_of(USER, []), Place(12)),
    Position("0a1b2c3d", audience_of(USER, [9]), Place(10**18 - 1, 5), 17, 3, PLACES),
]


@pytest.mark.parametrize("position", POSITIONS)
def test_a_position_is_read_back_from_its_id(position: Position) -> None:
    assert parse_position(str(position)) == position
    assert len(str(position)) < 500


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "3799912185593856000",
        "2-0a1b2c3d-0123456789abcdef-1.0.0--",
        "1-0a1b2c3d-0123456789abcdef-1.0.0--1.0",
        "1-0a1b2c3d-0123456789abcdef--1.0.0--",
        "1-0a1b2c3d-0123456789abcdef-1.0.0--" + "_".join(["1.0"] * 8) + "_",
        "1-0a1b2c3d-0123456789abcdef-" + "9" * 19 + ".0.0--",
        "1-0a1b2c3d-0123456789abcdef-1.999999.0--",
        "1-0a1b2c3d-0123456789abcdef-١.0.0--",
        str(POSITIONS[0]) + "\n",
        "1" * 100_000,
    ],
)
def test_what_no_stream_sent_is_refused_and_named(text: str) -> None:
    with pytest.raises(InvalidInput, match="Last-Event-ID is '") as refusal:
        parse_position(text)
    assert len(str(refusal.value)) < 200


def test_another_celebrity_or_another_user_is_another_audience() -> None:
    assert audience_of(1, [3, 2]) == audience_of(1, [2, 3])
    assert len({audience_of(1, []), audience_of(1, [2]), audience_of(2, []), audience_of(2, [1])}) == 4


def test_only_those_who_listen_are_found_with_what_happens_to_them_in_order() -> None:
    big = (1 << 63) - 1
    two = Delivery(
        DeliveryKind.DELIVER,
        np.array([50, 51], dtype=">u8"),
        np.zeros(2, dtype=">i8"),
        np.array([3, 1], dtype=">u4"),
        np.array([big, 4, 5, 4], dtype=">u8"),
    )
    records = [two, one_chunk(DeliveryKind.RETRACT, 49, 0, [4, 6]), one_chunk(DeliveryKind.MERGE, 8, 0, [big])]
    assert happenings(records, sorted_ids([big, 4, 9])) == {
        big: [Happening(DeliveryKind.DELIVER, 50, False), Happening(DeliveryKind.MERGE, 8, True)],
        4: [
            Happening(DeliveryKind.DELIVER, 50, False),
            Happening(DeliveryKind.DELIVER, 51, True),
            Happening(DeliveryKind.RETRACT, 49, False),
        ],
    }
    assert happenings(records, sorted_ids([])) == {}
    assert happenings([replace(one, verify=True) for one in records], sorted_ids([big, 4, 9])) == {}
    assert happenings(records, sorted_ids([3, 1 << 62])) == {}


def test_sightings_are_bounded_in_number_and_reach() -> None:
    met = Sightings(count_max=2, reach=10)
    met.note(1, 100, gone=False)
    met.note(2, 101, gone=True)
    assert (met.gone(1, 105), met.gone(2, 105), met.gone(3, 105)) == (False, True, None)
    assert met.gone(1, 111) is None
    met.note(1, 102, gone=False)
    met.note(3, 103, gone=False)
    assert met.gone(2, 105) is None
    assert met.oldest(105) == 102
    assert (met.oldest(113), met.oldest(114)) == (103, 114)


def test_frames_are_server_sent_events() -> None:
    assert with_id("p", event("delete", '{"id": "1"}')) == b'id: p\nevent: delete\ndata: {"id": "1"}\n\n'
    assert heartbeat(None) == b": heartbeat\n\n"
    assert heartbeat("p") == b": heartbeat\nid: p\n\n"
    assert b'"reason": "too_slow"' in because("dropped", Reason.TOO_SLOW)


@pytest.mark.parametrize("frame", [b"x", b"x" * (QUEUE_BYTES_MAX // 10)])
def test_a_queue_that_is_full_ends_with_the_reason_alone(frame: bytes) -> None:
    queue = EventQueue()
    for _ in range(EVENTS_MAX):
        queue.put(frame)
    if len(frame) == 1:
        assert queue.ended is None
        assert queue.half_full
        queue.put(frame)
    assert queue.ended is Reason.TOO_SLOW
    queue.put(b"later")
    queue.end(Reason.STOPPING, b"bye")
    assert queue.take() == because("dropped", Reason.TOO_SLOW)
    assert queue.take() == b""


def test_a_mark_is_told_only_when_nothing_comes_behind_it() -> None:
    queue = EventQueue()
    queue.mark("5")
    assert (queue.take_mark(), queue.take_mark()) == ("5", None)
    queue.mark("6")
    queue.put(b"event 7")
    assert queue.take_mark() is None
    asyncio.run(queue.wait())


def test_a_log_that_is_not_read_on_is_noticed_and_one_that_is_is_not() -> None:
    stuck = Stuck()
    one, other = LOGS[0], LOGS[1]
    assert stuck.since({one: 5, other: 5}, 100.0) == 0
    assert stuck.since({one: 6, other: 5}, 103.0) == 3
    assert stuck.since({one: 7}, 104.0) == 0
    assert stuck.since({}, 200.0) == 0
    assert stuck.since({one: 7}, 201.0) == 0


BOUNDS = Bounds(
    "0a1b2c3d", dict.fromkeys(LOGS, 10), dict.fromkeys(LOGS, 10 + 2 * RESUME_OFFSETS_MAX), dict.fromkeys(LOGS, 200_000)
)
WITHIN = Position("0a1b2c3d", audience_of(USER, [9]), Place(200_002, 1), 1, None, (Place(200_003),) * 8)


@pytest.mark.parametrize(
    ("position", "reason"),
    [
        (None, None),
        (WITHIN, None),
        (replace(WITHIN, deliveries=Place(200_011)), Reason.POSITION_UNKNOWN),
        (replace(WITHIN, deliveries=Place(200_010)), Reason.POSITION_UNKNOWN),  # something of it was told
        (replace(WITHIN, reload_after=200_010), Reason.POSITION_UNKNOWN),
        (replace(WITHIN, incarnation="ffffffff"), Reason.POSITION_UNKNOWN),
        (replace(WITHIN, audience=audience_of(USER, [])), Reason.FOLLOWS_CHANGED),
        (replace(WITHIN, deliveries=Place(9)), Reason.POSITION_EXPIRED),
        (replace(WITHIN, activity=(*WITHIN.activity[1:], Place(9))), Reason.POSITION_EXPIRED),
        (replace(WITHIN, deliveries=Place(100_009)), Reason.POSITION_TOO_FAR),
        (replace(WITHIN, activity=(Place(100_010, 1), *WITHIN.activity[1:])), Reason.POSITION_TOO_FAR),
    ],
)
def test_a_stream_goes_on_where_the_client_was_or_says_why_not(
    position: Position | None, reason: Reason | None
) -> None:
    start, said = start_of(position, USER, [9], BOUNDS)
    assert said == reason
    if position is WITHIN:
        assert start is position
    else:
        assert (start.deliveries, start.activity, start.reload_after) == (Place(200_000), (), None)


def test_a_new_stream_begins_where_the_copies_are_and_says_so_later_when_that_is_too_long_ago() -> None:
    behind = replace(BOUNDS, applied=dict.fromkeys(LOGS, 50))
    start, reason = start_of(None, USER, [], behind)
    assert (start.deliveries, start.reload_after, reason) == (Place(100_010), 100_010, None)
    assert set(now(replace(BOUNDS, applied={})).values()) == {100_010}
