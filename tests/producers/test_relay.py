import threading
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone

import pytest

from infra.cloud_events import TYPES
from infra.events import ActivityType
from infra.kafka import TransactionalProducer
from producers.relay import BATCH_ROWS_MAX, BUSY_STEPS_MIN, PACE_S, Relay, Row, as_message, pause_s

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
CREATED_AT = datetime(2026, 11, 25, 13, 0, 0, 250_000, timezone(timedelta(hours=1)))


def row(row_id: int = 17, traceparent: str | None = None) -> Row:
    return Row(row_id, "activity", "5", TYPES[ActivityType.POSTED], '{"version":1}', CREATED_AT, traceparent)


def test_a_row_becomes_a_cloud_event_in_binary_mode() -> None:
    message = as_message(row())

    assert (message.topic, message.key, message.value) == ("activity", b"5", b'{"version":1}')
    headers = dict(message.headers)
    assert len(headers) == len(message.headers)
    assert datetime.fromisoformat(headers.pop("ce_time").decode()) == datetime(2026, 11, 25, 12, 0, 0, 250_000, UTC)
    assert headers == {
        "ce_specversion": b"1.0",
        "ce_id": b"17",
        "ce_source": b"/fanfold/outbox/0",
        "ce_type": b"fanfold.activity.posted.v1",
        "ce_subject": b"5",
        "content-type": b"application/json",
    }


def test_a_row_that_is_sent_again_is_the_same_event() -> None:
    assert as_message(row()) == as_message(row())
    assert dict(as_message(row()).headers)["ce_id"] != dict(as_message(row(18)).headers)["ce_id"]


def test_a_trace_is_an_attribute_of_the_event_and_a_plain_header() -> None:
    headers = dict(as_message(row(traceparent=TRACEPARENT)).headers)

    assert headers["ce_traceparent"] == headers["traceparent"] == TRACEPARENT.encode()


@pytest.mark.parametrize(
    ("sent", "took_s", "expected_s"),
    [
        (1, 0.0, PACE_S),
        (1, PACE_S / 2, PACE_S / 2),
        (1, PACE_S * 2, 0.0),
        (BATCH_ROWS_MAX, 0.0, 0.0),  # more waits already
    ],
)
def test_a_busy_relay_waits_for_what_may_share_its_next_transaction(
    sent: int, took_s: float, expected_s: float
) -> None:
    assert pause_s(sent, took_s) == pytest.approx(expected_s)


class Stepping(Relay):
    """Finds so many rows in each look; it is told to stop after the last one."""

    def __init__(self, rows: Sequence[int]) -> None:
        self._beat = lambda: None
        self._sleeping = True
        self._rows = list(rows)
        self.stop = Pausing()
        self.slept = 0

    def step(self, producer: TransactionalProducer) -> int:
        sent = self._rows.pop(0)
        if not self._rows:
            self.stop.set()
        return sent

    def _sleep(self) -> None:
        self.slept += 1

    def _say_sleeping(self, *, sleeping: bool) -> None:
        self._sleeping = sleeping


class Pausing(threading.Event):
    """Notes what it was to be waited for, and waits for nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.waits_s: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.waits_s.append(timeout or 0.0)
        return self.is_set()


@pytest.mark.parametrize(
    ("rows", "pauses", "slept"),
    [
        ([1, 0, 1, 1, 0], 0, 2),  # a tweet now and then is sent at once
        ([1] * BUSY_STEPS_MIN, 1, 0),
        ([1] * (BUSY_STEPS_MIN + 4), 5, 0),
        ([*[1] * BUSY_STEPS_MIN, 0, 1, 1], 1, 1),
    ],
)
def test_only_a_relay_that_found_something_again_and_again_paces_itself(
    rows: list[int], pauses: int, slept: int
) -> None:
    relay = Stepping(rows)
    relay._keep_sending(None, relay.stop)  # type: ignore[arg-type]  # no step of these uses it
    assert (len(relay.stop.waits_s), relay.slept) == (pauses, slept)
    assert all(0 < wait_s <= PACE_S for wait_s in relay.stop.waits_s)
