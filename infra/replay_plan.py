"""Which part of the activity log and of the database a replay reads: asked once, when it is created, and fixed then.

Without a fixed end a replay would read what it sends itself. Next: replay_sources.py reads it.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from infra.database import reading
from infra.errors import InvalidInput, NotFound
from infra.kafka import CALL_TIMEOUT_S, GROUP
from infra.kafka_logs import PARTITION_END, admin_client, kafka_errors, log_offsets
from infra.replay_jobs import Plan
from infra.replay_what import Source, What, shown_time
from infra.topics import ACTIVITY
from infra.tweet_ids import first_id_at

# Between the time of an event and the one that its message has: it waited in the outbox, and two clocks differ.
SLACK_MS = 120_000
# While no relay ran an event waited in the outbox, so it stands in the log far behind its time: nobody lets it wait for
# longer than this. To look further than needed costs only reading.
LATE_MS = 86_400_000
NOTHING_LATER = -1  # instead of the offset of a time


@dataclass(frozen=True, slots=True)
class LogRange:
    """The activity log as it is now: the first offset and the end of each partition, and when the last of the first
    messages was written. None: there is none, or a partition has nothing left, and how old that was nobody knows."""

    starts: Mapping[int, int]
    ends: Mapping[int, int]
    reaches_back_ms: int | None


def plan_of(engine: sa.Engine, bootstrap: str, what: What, now_ms: int) -> Plan:
    """The plan. Raises `InvalidInput` for a range that there is not, `NotFound` for a user who does not exist,
    `KafkaUnavailable` and `DatabaseUnavailable`."""
    what.check(now_ms)
    _check_users(engine, what)
    until_ms = now_ms + SLACK_MS if what.until_ms is None else what.until_ms  # ids are made by other clocks
    if what.source is Source.DATABASE:
        return Plan(_ids(what.since_ms, until_ms))
    with kafka_errors(bootstrap):
        admin = admin_client(bootstrap, CALL_TIMEOUT_S)
        log = read_log_range(admin, bootstrap)
        if what.offsets:
            return Plan(offsets=_checked(what.offsets, log))
        offsets = _offsets_between(admin, log, what.since_ms, what.until_ms)
    back_ms = now_ms if log.reaches_back_ms is None else log.reaches_back_ms
    if what.source is Source.AUTO:
        return Plan(_ids(what.since_ms, min(until_ms, back_ms + SLACK_MS)), offsets)
    if what.since_ms is not None and what.since_ms < back_ms and any(log.starts.values()):
        raise InvalidInput(
            f"the log reaches back to {shown_time(back_ms)} only, and the range starts at {shown_time(what.since_ms)}: "
            "--source auto reads the database before that"
        )
    return Plan(offsets=offsets)


def total_of(engine: sa.Engine, plan: Plan) -> int:
    """About how many rows and messages that is: by the ends of offsets, and by PostgreSQL's statistics."""
    of_log = sum(last - first for first, last in plan.offsets.values())
    if plan.ids[0] >= plan.ids[1]:
        return of_log
    with reading(engine) as connection:
        [found] = connection.execute(_ABOUT, {"after": plan.ids[0], "before": plan.ids[1]}).scalar_one()
    return of_log + int(found["Plan"]["Plan Rows"])


def read_log_range(admin: AdminClient, bootstrap: str) -> LogRange:
    """Raises `KafkaException`."""
    starts = {p: one for (_, p), one in log_offsets(admin, [ACTIVITY], OffsetSpec.earliest(), CALL_TIMEOUT_S).items()}
    ends = {p: one for (_, p), one in log_offsets(admin, [ACTIVITY], OffsetSpec.latest(), CALL_TIMEOUT_S).items()}
    firsts = {p: _time_at(bootstrap, p, starts[p], ends[p]) for p in starts}
    is_known = all(time_ms is not None or starts[p] == 0 for p, time_ms in firsts.items())
    written_ms = [time_ms for time_ms in firsts.values() if time_ms is not None]
    return LogRange(starts, ends, max(written_ms, default=None) if is_known else None)


def _time_at(bootstrap: str, partition: int, start: int, end: int) -> int | None:
    """When the first message of a partition was written; None when it has none. Raises `KafkaException`."""
    if start == end:
        return None
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"{GROUP}-reader",
            "enable.auto.commit": False,
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
        }
    )
    try:
        consumer.assign([TopicPartition(ACTIVITY.name, partition, start)])
        deadline_s = time.monotonic() + CALL_TIMEOUT_S
        while (message := consumer.poll(max(deadline_s - time.monotonic(), 0))) is not None:
            if message.error() is None:
                return int(message.timestamp()[1])
            if message.error().code() == PARTITION_END:
                return None
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT))  # noqa: SLF001
    finally:
        consumer.close()


def _offsets_between(
    admin: AdminClient, log: LogRange, since_ms: int | None, until_ms: int | None
) -> dict[int, tuple[int, int]]:
    """What may hold events of this time: each event is looked at when it is read."""
    firsts = log.starts if since_ms is None else _offsets_at(admin, log, since_ms - SLACK_MS)
    lasts = log.ends if until_ms is None else _offsets_at(admin, log, until_ms + LATE_MS)
    return {p: (firsts[p], lasts[p]) for p in log.ends if firsts[p] < lasts[p]}


def _offsets_at(admin: AdminClient, log: LogRange, time_ms: int) -> dict[int, int]:
    """The first offset that was written then or later, and the end where there is none."""
    wanted = {TopicPartition(ACTIVITY.name, p): OffsetSpec.for_timestamp(max(time_ms, 0)) for p in log.ends}
    futures = admin.list_offsets(wanted, request_timeout=CALL_TIMEOUT_S)
    found = {place.partition: int(future.result().offset) for place, future in futures.items()}
    if min(found.values()) < NOTHING_LATER:  # so librdkafka reports a time-out
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT))  # noqa: SLF001
    return {p: log.ends[p] if offset == NOTHING_LATER else offset for p, offset in found.items()}


def _checked(offsets: Mapping[int, tuple[int, int]], log: LogRange) -> dict[int, tuple[int, int]]:
    for partition, (first, last) in offsets.items():
        start, end = log.starts[partition], log.ends[partition]
        if first < start or last > end:
            raise InvalidInput(
                f"--offsets name {first} to {last} of partition {partition}, and the log has {start} to {end} there"
            )
    return dict(offsets)


def _ids(since_ms: int | None, until_ms: int) -> tuple[int, int]:
    """Above the first id and below the second."""
    return (0 if since_ms is None else max(first_id_at(since_ms) - 1, 0)), first_id_at(until_ms)


def _check_users(engine: sa.Engine, what: What) -> None:
    users = [*what.authors, *([] if what.followers_of is None else [what.followers_of])]
    if not users:
        return
    with reading(engine) as connection:
        known = set(connection.execute(_USERS, {"ids": users}).scalars())
    for user in users:
        if user not in known:
            raise NotFound(f"user {user} does not exist, so there is nothing of him to replay")


_USERS = sa.text("SELECT id FROM users WHERE id = ANY (CAST(:ids AS bigint[]))")
_ABOUT = sa.text(
    "EXPLAIN (FORMAT json) SELECT FROM tweets WHERE id > CAST(:after AS bigint) AND id < CAST(:before AS bigint)"
)
