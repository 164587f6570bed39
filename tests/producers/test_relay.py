from datetime import UTC, datetime, timedelta, timezone

from infra.cloud_events import TYPES
from infra.events import ActivityType
from producers.relay import Row, as_message

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
