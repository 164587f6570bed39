"""The activity log's messages are CloudEvents 1.0 in Kafka's binary content mode: the headers describe the value.

The writer decides the type, and with it the version, when the outbox row is written; the relay only copies. So a relay
older or newer than the writer still says what the value is. Binding: https://github.com/cloudevents/spec, Kafka 1.0.
"""

from datetime import UTC, datetime

from infra.events import VERSION, ActivityType

Header = tuple[str, bytes]

PREFIX = "ce_"
TYPES = {kind: f"fanfold.activity.{kind.value}.v{VERSION}" for kind in ActivityType}


def source_of(shard: int) -> str:
    """Where the events of one outbox shard come from; an event's id is unique there."""
    return f"/fanfold/outbox/{shard}"


def constant_headers(shard: int) -> tuple[Header, ...]:
    """What all messages of one outbox shard have in common."""
    return (
        ("ce_specversion", b"1.0"),
        ("ce_source", source_of(shard).encode()),
        ("content-type", b"application/json"),
    )


def headers_of(row_id: int, type_: str, author: bytes, created_at: datetime, traceparent: str | None) -> list[Header]:
    """What differs from one message to the next. A row that is sent again has the same id.

    A trace is told twice, which the tracing extension wants equal over one hop: as an attribute of the event, and as
    the plain header that tracing tools read.
    """
    headers = [
        ("ce_id", b"%d" % row_id),
        ("ce_type", type_.encode()),
        ("ce_time", created_at.astimezone(UTC).isoformat().encode()),
        ("ce_subject", author),
    ]
    if traceparent is not None:
        value = traceparent.encode()
        headers += [("ce_traceparent", value), ("traceparent", value)]
    return headers
