"""What the workers have worked off of their logs, kept beside Kafka's committed offsets, and the guards that compare
both with what Kafka has. A worker asks before it starts, and when Kafka does not have an offset that it asks for.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from infra.database import reading, transaction
from infra.errors import ConfigurationError
from infra.kafka import GROUP, Place
from infra.kafka_logs import GROUP_NOT_YET, admin_client, kafka_errors, log_offsets, topic_ids
from infra.log_losses import COUNTERS, Finding, Held, Seen, judge, refusal
from infra.topics import LOGS_OF_WORKERS, REACTIONS, Topic, need_partitions

ASK_TIMEOUT_S = 10.0
LOOK_EVERY_S = 0.2


@dataclass(frozen=True, slots=True)
class Ground:
    """What a group can go on with: Kafka's ids of the topics, and the offset of each partition."""

    log_ids: Mapping[str, str]
    next_offsets: Mapping[Place, int]


@dataclass(frozen=True, slots=True)
class Reached:
    """How far a group is: where it goes on by Kafka, and what it was seen to have worked off."""

    committed: Mapping[Place, int | None]
    seen: Mapping[Place, Seen]


def refuse_losses(
    engine: sa.Engine, bootstrap: str, group: str = GROUP, topics: Sequence[Topic] = LOGS_OF_WORKERS
) -> Ground:
    """Where a group goes on when nothing is missing. Raises `ConfigurationError` when something is, `KafkaUnavailable`,
    `DatabaseUnavailable`."""
    reached = read_reached(engine, bootstrap, group, topics)
    held = read_held(bootstrap, topics)
    if findings := find_losses(group, held, reached):
        raise ConfigurationError(refusal(findings))
    log_ids = {topic: one.log_id for (topic, _), one in held.items()}
    return Ground(log_ids, {place: max(reached.committed[place] or 0, one.start) for place, one in held.items()})


def refuse_lost_reactions(seen: Mapping[Place, Seen], held: Mapping[Place, Held]) -> None:
    """The same for the counters, who keep their own offsets. Activity is not looked at: counts are made anew from the
    tables, which say what it said. A partition that was never folded is nobody's loss."""
    if findings := _losses_of_counters(seen, held):
        raise ConfigurationError(refusal(findings))


def read_reached(engine: sa.Engine, bootstrap: str, group: str, topics: Sequence[Topic]) -> Reached:
    """How far a group is. Asked before what the logs hold: others work meanwhile, and would be beyond the ends."""
    places = [(topic.name, partition) for topic in topics for partition in range(topic.partitions)]
    return Reached(read_places(bootstrap, group, places), read_seen(engine))


def find_losses(group: str, held: Mapping[Place, Held], reached: Reached) -> list[Finding]:
    """All losses of a group, by topic and partition."""
    committed, seen = reached.committed, reached.seen
    return [
        Finding(f"group {group}", *place, loss, committed[place], seen.get(place), one)
        for place, one in sorted(held.items())
        if (loss := judge(committed[place], seen.get(place), one)) is not None
    ]


def find_lost_reactions(engine: sa.Engine, bootstrap: str) -> list[Finding]:
    """The counters' losses."""
    return _losses_of_counters(read_folded(engine), read_held(bootstrap, [REACTIONS]))


def _losses_of_counters(seen: Mapping[Place, Seen], held: Mapping[Place, Held]) -> list[Finding]:
    return [
        Finding(COUNTERS, *place, loss, seen[place].next_offset, seen[place], one)
        for place, one in sorted(held.items())
        if place[0] == REACTIONS.name and place in seen
        if (loss := judge(seen[place].next_offset, seen[place], one)) is not None
    ]


def read_held(bootstrap: str, topics: Sequence[Topic]) -> dict[Place, Held]:
    """What Kafka has. Raises `ConfigurationError` when a topic has another number of partitions than it must have."""
    with kafka_errors(bootstrap):
        admin = admin_client(bootstrap, ASK_TIMEOUT_S)
        need_logs(admin, bootstrap, topics)
        ids = topic_ids(admin, topics, ASK_TIMEOUT_S)
        starts = log_offsets(admin, topics, OffsetSpec.earliest(), ASK_TIMEOUT_S)
        ends = log_offsets(admin, topics, OffsetSpec.latest(), ASK_TIMEOUT_S)
    return {place: Held(ids[place[0]], start, ends[place]) for place, start in starts.items()}


def need_logs(admin: AdminClient, bootstrap: str, topics: Iterable[Topic]) -> None:
    """Raises `ConfigurationError` when a log is missing or has another number of partitions."""
    found = admin.list_topics(timeout=ASK_TIMEOUT_S).topics
    for topic in topics:
        if topic.name not in found:
            raise ConfigurationError(f"there is no topic {topic.name} at {bootstrap}: `fanfold topics create` makes it")
        need_partitions(topic, len(found[topic.name].partitions), bootstrap)


def read_places(bootstrap: str, group: str, places: Iterable[Place]) -> dict[Place, int | None]:
    """Where a group goes on; None where it has committed nothing, or that is gone. It does not wait for open
    transactions, as that of a frozen worker. Raises `KafkaUnavailable`."""
    config = {"group.id": group, "enable.auto.commit": False, "isolation.level": "read_uncommitted"}
    consumer = Consumer({"bootstrap.servers": bootstrap} | config)
    wanted, deadline_s = [TopicPartition(*place) for place in places], time.monotonic() + ASK_TIMEOUT_S
    with kafka_errors(bootstrap):
        try:
            found, error = _committed(consumer, wanted)
            while error is not None:
                if error.code() not in GROUP_NOT_YET or time.monotonic() > deadline_s:
                    raise KafkaException(error)
                time.sleep(LOOK_EVERY_S)
                found, error = _committed(consumer, wanted)
        finally:
            consumer.close()
    return {(one.topic, one.partition): one.offset if one.offset >= 0 else None for one in found}


def _committed(consumer: Consumer, wanted: list[TopicPartition]) -> tuple[list[TopicPartition], KafkaError | None]:
    """Where a group goes on, and the error of the answer or of one place in it."""
    try:
        found = consumer.committed(wanted, ASK_TIMEOUT_S)
    except KafkaException as error:
        return [], error.args[0]
    return found, next((one.error for one in found if one.error is not None), None)


def read_seen(engine: sa.Engine) -> dict[Place, Seen]:
    """What the workers were seen to have worked off."""
    with reading(engine) as connection:
        rows = connection.execute(_SEEN).all()
    return {(row.topic, row.partition): Seen(row.log_id, row.next_offset, row.worked_until) for row in rows}


def read_folded(engine: sa.Engine) -> dict[Place, Seen]:
    """What the counters have folded."""
    with reading(engine) as connection:
        rows = connection.execute(_FOLDED).all()
    return {(row.topic, row.partition): Seen(row.log_id, row.next_offset) for row in rows}


def note_worked(engine: sa.Engine, worked: Mapping[Place, Seen], *, anew: bool = False) -> None:
    """Writes down what was worked off. Never less than before of the same log, so a worker that froze takes nothing
    back, and nothing of another log, unless that was accepted (`anew`)."""
    if worked:
        with transaction(engine) as connection:
            connection.execute(_NOTE_ANEW if anew else _NOTE, list(_rows(worked)))


def _rows(worked: Mapping[Place, Seen]) -> Iterator[dict[str, str | int | datetime | None]]:
    for (topic, partition), seen in sorted(worked.items()):
        yield {
            "topic": topic,
            "partition": partition,
            "log_id": seen.log_id,
            "next_offset": seen.next_offset,
            "worked_until": seen.worked_until,
        }


_SEEN = sa.text("SELECT topic, partition, log_id, next_offset, worked_until FROM worked_logs")
_FOLDED = sa.text("SELECT topic, partition, log_id, next_offset FROM folded")
_INSERT = """
    INSERT INTO worked_logs (topic, partition, log_id, next_offset, worked_until)
    VALUES (:topic, :partition, :log_id, :next_offset, :worked_until) ON CONFLICT (topic, partition) DO UPDATE
    SET log_id = excluded.log_id, next_offset = excluded.next_offset, worked_until = excluded.worked_until
"""
_NOTE_ANEW = sa.text(_INSERT)
_NOTE = sa.text(
    f"{_INSERT} WHERE worked_logs.log_id = excluded.log_id AND worked_logs.next_offset <= excluded.next_offset"
)
