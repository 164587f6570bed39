"""The outbox: events written in the transaction of what they tell, and the wake-up of the relay after its commit.

Next: producers/relay.py sends them.
"""

from collections.abc import Sequence
from contextlib import suppress

import sqlalchemy as sa

from infra import trace
from infra.cloud_events import TYPES
from infra.database import reading
from infra.errors import DatabaseUnavailable
from infra.events import Activity, encode_activity
from infra.topics import ACTIVITY

CHANNEL = "fanfold_outbox"
SHARD = 0  # one relay shard so far

_APPEND = sa.text(
    """
    INSERT INTO outbox (aggregatetype, aggregateid, type, payload, traceparent)
    SELECT :topic, author, type, payload, traceparent
    FROM unnest(CAST(:authors AS text[]), CAST(:types AS text[]), CAST(:payloads AS text[]), CAST(:traces AS text[]))
         WITH ORDINALITY AS event (author, type, payload, traceparent, place)
    ORDER BY place
    """
)

# Sent only to a relay that sleeps, and never inside a publishing transaction: NOTIFY serialises commits.
_WAKE = sa.text("SELECT pg_notify(:channel, '') FROM relays WHERE shard = :shard AND sleeping")


def append(
    connection: sa.Connection, events: Sequence[Activity], traceparents: Sequence[str | None] | None = None
) -> None:
    """Writes events in this order. The caller holds the lock of each event's author (`lock_authors`).

    They belong to the trace of the call under way. Who writes for several callers at once took `trace.current()` at
    each call, and gives one for each event.
    """
    if not events:
        return
    traces = [trace.current()] * len(events) if traceparents is None else list(traceparents)
    assert len(traces) == len(events), f"{len(traces)} traces for {len(events)} events"
    connection.execute(
        _APPEND,
        {
            "topic": ACTIVITY.name,
            "authors": [str(event.author_id) for event in events],
            "types": [TYPES[event.type] for event in events],
            "payloads": [encode_activity(event) for event in events],
            "traces": traces,
        },
    )


def wake_relay(engine: sa.Engine) -> None:
    """Wakes a sleeping relay; call it after the commit. A lost wake-up costs one slow poll, so it never fails: the
    caller's transaction is committed, and an error would make him repeat it."""
    with suppress(DatabaseUnavailable), reading(engine) as connection:
        connection.execute(_WAKE, {"channel": CHANNEL, "shard": SHARD})


def is_empty(engine: sa.Engine) -> bool:
    """Whether all events were sent."""
    with reading(engine) as connection:
        return connection.execute(sa.text("SELECT FROM outbox LIMIT 1")).first() is None


def unsent(engine: sa.Engine) -> int:
    """Events that no relay has sent yet."""
    with reading(engine) as connection:
        return int(connection.execute(sa.text("SELECT count(*) FROM outbox")).scalar_one())


def newest(engine: sa.Engine) -> int:
    """The newest event that no relay has sent yet; 0 when all were sent."""
    with reading(engine) as connection:
        return int(connection.execute(sa.text("SELECT coalesce(max(id), 0) FROM outbox")).scalar_one())


def is_sent(engine: sa.Engine, last: int) -> bool:
    """Whether all events up to this one were sent."""
    left = sa.text("SELECT EXISTS (SELECT FROM outbox WHERE id <= :last)")
    with reading(engine) as connection:
        return not connection.execute(left, {"last": last}).scalar_one()
