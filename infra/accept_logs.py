"""Accepting that a log is not the one that was worked off, or lacks something: reading goes on from where it is said.

`fanfold topics accept` shows what that is, and with --execute does it; `fanfold topics recreate` makes a topic anew
that has another number of partitions. Both want the readers stopped, which Kafka checks.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

import sqlalchemy as sa
from confluent_kafka import ConsumerGroupTopicPartitions, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from infra.database import transaction
from infra.errors import Conflict, KafkaUnavailable
from infra.kafka import GROUP
from infra.kafka_logs import GROUP_NOT_YET, admin_client, kafka_errors
from infra.log_losses import COUNTERS, Finding, Loss, Seen
from infra.topics import LOGS_OF_WORKERS, Topic
from infra.worked_logs import (
    ASK_TIMEOUT_S,
    find_losses,
    find_lost_reactions,
    note_worked,
    read_held,
    read_reached,
)

GONE_WITHIN_S = 30.0  # a topic that was deleted, for all brokers
LOOK_EVERY_S = 0.2
SET_WITHIN_S = 30.0  # a broker that has just started makes its topic of offsets first


class From(StrEnum):
    """Where reading goes on."""

    RECORDED = "recorded"  # where it was, if the log still has that; else at its beginning
    EARLIEST = "earliest"
    LATEST = "latest"


@dataclass(frozen=True, slots=True)
class Step:
    """One partition, and the offset at which its reader goes on once this is accepted."""

    finding: Finding
    next_offset: int


def plan(findings: Sequence[Finding], where: From) -> list[Step]:
    """Pure. The counters always read what there is: folding a word again changes nothing."""
    return [Step(one, _next_offset(one, where)) for one in findings]


def _next_offset(one: Finding, where: From) -> int:
    if one.reader == COUNTERS or where is From.EARLIEST:
        return one.held.start
    if where is From.LATEST:
        return one.held.end
    reached = max(one.committed or 0, one.seen.next_offset if one.seen else 0)
    kept = one.loss is Loss.OFFSETS_GONE and one.held.start <= reached <= one.held.end
    return reached if kept else one.held.start


def find_all(
    engine: sa.Engine, bootstrap: str, group: str = GROUP, topics: Sequence[Topic] = LOGS_OF_WORKERS
) -> list[Finding]:
    """The losses of the workers and of the counters."""
    reached = read_reached(engine, bootstrap, group, topics)
    found = find_losses(group, read_held(bootstrap, topics), reached)
    return [*found, *find_lost_reactions(engine, bootstrap)]


def accept(engine: sa.Engine, bootstrap: str, steps: Sequence[Step], group: str = GROUP) -> None:
    """Goes on as planned. Kafka's offsets are set first: after a crash behind that the same is found and planned again.
    Raises `Conflict` while a worker runs."""
    workers = [step for step in steps if step.finding.reader != COUNTERS]
    if workers:
        places = [TopicPartition(one.finding.topic, one.finding.partition, one.next_offset) for one in workers]
        set_offsets(bootstrap, group, places)
        note_worked(engine, {(step.finding.topic, step.finding.partition): _seen(step) for step in workers}, anew=True)
    with transaction(engine) as connection:
        for step in steps:
            if step.finding.reader == COUNTERS:  # counts are made anew when one of them begins without an offset
                connection.execute(_FORGET, {"topic": step.finding.topic, "partition": step.finding.partition})


def _seen(step: Step) -> Seen:
    before = step.finding.seen
    until = before.worked_until if before is not None else None
    return Seen(step.finding.held.log_id, step.next_offset, until or datetime.now(UTC))


def set_offsets(bootstrap: str, group: str, places: list[TopicPartition]) -> None:
    """Where a group without members goes on. Raises `Conflict` when it has members, `KafkaUnavailable`."""
    with kafka_errors(bootstrap):
        admin = admin_client(bootstrap, ASK_TIMEOUT_S)
        deadline_s = time.monotonic() + SET_WITHIN_S
        while (error := _try_to_set(admin, group, places)) is not None:
            if error.code() in GROUP_NOT_YET and time.monotonic() < deadline_s:
                time.sleep(LOOK_EVERY_S)
                continue
            if _has_members(admin, group):
                raise Conflict(f"group {group} has members: stop all workers first, then nothing moves meanwhile")
            raise KafkaException(error)


def _try_to_set(admin: AdminClient, group: str, places: list[TopicPartition]) -> KafkaError | None:
    """None when it is done. The errors of single partitions are in the answer."""
    wanted = [ConsumerGroupTopicPartitions(group, places)]
    try:
        done = admin.alter_consumer_group_offsets(wanted, request_timeout=ASK_TIMEOUT_S)[group].result()
    except KafkaException as error:
        return error.args[0]
    return next((one.error for one in done.topic_partitions if one.error is not None), None)


def _has_members(admin: AdminClient, group: str) -> bool:
    try:
        described = admin.describe_consumer_groups([group], request_timeout=ASK_TIMEOUT_S)[group].result()
    except KafkaException as error:
        if error.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND:
            return False
        raise
    return bool(described.members)


def recreate(engine: sa.Engine, bootstrap: str, topic: Topic, create: Callable[[], object], group: str = GROUP) -> None:
    """Deletes a topic with all that is in it, has it made anew, and lets its readers begin there. Raises `Conflict`
    while a worker runs. What a run that broke off left is done by the next one."""
    with kafka_errors(bootstrap):
        admin = admin_client(bootstrap, ASK_TIMEOUT_S)
        if _has_members(admin, group):
            raise Conflict(f"group {group} has members: stop all workers, relays and counters first")
        _delete(admin, topic)
    create()
    held = read_held(bootstrap, [topic])
    with transaction(engine) as connection:
        connection.execute(_FORGET_TOPIC, {"topic": topic.name})
    set_offsets(bootstrap, group, [TopicPartition(*place, one.start) for place, one in held.items()])
    now = datetime.now(UTC)
    note_worked(engine, {place: Seen(one.log_id, one.start, now) for place, one in held.items()}, anew=True)


def _delete(admin: AdminClient, topic: Topic) -> None:
    """Returns when it is gone; it may be gone already. Raises `KafkaException`, `KafkaUnavailable`."""
    try:
        admin.delete_topics([topic.name])[topic.name].result(ASK_TIMEOUT_S)
    except KafkaException as error:
        if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
            raise
    deadline_s = time.monotonic() + GONE_WITHIN_S
    while topic.name in admin.list_topics(timeout=ASK_TIMEOUT_S).topics:
        if time.monotonic() > deadline_s:
            raise KafkaUnavailable(f"topic {topic.name} is still there {GONE_WITHIN_S:g} s after it was deleted")
        time.sleep(LOOK_EVERY_S)


_FORGET = sa.text("DELETE FROM folded WHERE topic = :topic AND partition = :partition")
_FORGET_TOPIC = sa.text("DELETE FROM folded WHERE topic = :topic")
