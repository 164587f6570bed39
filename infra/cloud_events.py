"""The activity log's messages are CloudEvents 1.0 in Kafka's binary content mode: the headers describe the value.

The writer decides the type, and with it the version, when the outbox row is written; the relay only copies. So a relay
older or newer than the writer still says what the value is. Binding: https://github.com/cloudevents/spec, Kafka 1.0.

header             value                                     where it comes from
ce_specversion     1.0                                       constant
ce_source          /fanfold/outbox/<shard>                   constant
content-type       application/json                          constant
ce_id              unique for the source                     outbox.id: the same when a row is sent again
ce_type            fanfold.activity.<type>.v<version>        outbox.type
ce_time            RFC 3339, UTC                             outbox.created_at
ce_subject         the author's id                           outbox.aggregateid
ce_traceparent     W3C Trace Context, if the call had one    outbox.traceparent
traceparent        the same
"""

from datetime import UTC, datetime

from infra.events import VERSION, ActivityType

Header = tuple[str, bytes]

TYPES = {kind: f"fanfold.activity.{kind.value}.v{VERSION}" for kind in ActivityType}
SOURCE_ROOT = "/fanfold/outbox/"
SPEC_VERSION = "1.0"
CONTENT_TYPE = "application/json"
# A trace is told twice, which the tracing extension wants equal over one hop: as an attribute of the event, and as the
# plain header that tracing tools read.
TRACE_HEADERS = ("ce_traceparent", "traceparent")


def constant_headers(source: str) -> tuple[Header, ...]:
    """What all messages of one source have in common."""
    return (
        ("ce_specversion", SPEC_VERSION.encode()),
        ("ce_source", source.encode()),
        ("content-type", CONTENT_TYPE.encode()),
    )


def headers_of(event_id: str, type_: str, subject: bytes, at: datetime, traceparent: str | None) -> list[Header]:
    """What differs from one message to the next."""
    headers = [
        ("ce_id", event_id.encode()),
        ("ce_type", type_.encode()),
        ("ce_time", at.astimezone(UTC).isoformat().encode()),
        ("ce_subject", subject),
    ]
    if traceparent is not None:
        value = traceparent.encode()
        headers += [(name, value) for name in TRACE_HEADERS]
    return headers
