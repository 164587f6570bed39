"""The topics, as one table, and their creation. docs/asyncapi.yaml is made from it.

topic          event               key       partitions   retention   written by   read by
activity       events.Activity     author    8            7 days      relay        fan_out, counters
deliveries     events.Delivery     none      4            2 days      fan_out      deliver
               (its partition is the slot of the owner mod 4)
reactions      reactions.Reaction  tweet     4            7 days      publish      counters
<topic>.dlq    as it was read      as read   1            30 days     the agent    people
dlq.done       what became of it   letter    1            compacted   people       people
<topic>.<group>.dlq   the same, made when the first one is buried   a TweetStream  people
"""

from dataclasses import dataclass

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from infra.errors import ConfigurationError, InvalidInput, KafkaUnavailable

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
CREATE_TIMEOUT_S = 30.0
MESSAGE_BYTES_MAX = 1_048_576  # the broker's limit for one message, and what a chunk's bounds stay under
# Eight times that: a topic's limit may have been raised by hand, and headers that say why are added. What is larger
# still is cut (infra/dead_letters.py); the whole message stays in its own log until its retention.
DEAD_LETTER_BYTES_MAX = 8 * MESSAGE_BYTES_MAX


@dataclass(frozen=True, slots=True)
class Topic:
    """One row of the table above. The number of partitions is fixed for the life of a deployment."""

    name: str
    partitions: int
    retention_ms: int
    written_by: str
    read_by: str  # and this one buries what cannot be processed
    also_read_by: tuple[str, ...] = ()

    @property
    def dead_letters(self) -> str:
        """The topic that takes what cannot be processed."""
        return dead_letters_of(self.name)


def dead_letters_of(topic: str, group: str = "") -> str:
    """The topic that takes what cannot be processed of this one: by its agent, or by another reader's group."""
    return f"{topic}.{group}.dlq" if group else f"{topic}.dlq"


# 8: the order is per author, and one partition's fan-out reaches tens of thousands of events a second.
ACTIVITY = Topic(
    "activity", partitions=8, retention_ms=7 * DAY_MS, written_by="relay", read_by="fan_out", also_read_by=("counters",)
)
# 4: each costs a message, a transaction marker and a call on every node for a tweet. More would spread over more
# workers, but one works off a quarter of a million deliveries a second. 1,024 slots divide evenly.
DELIVERIES = Topic("deliveries", partitions=4, retention_ms=2 * DAY_MS, written_by="fan_out", read_by="deliver")
# 4: the order is per tweet, and one process folds all of them.
REACTIONS = Topic("reactions", partitions=4, retention_ms=7 * DAY_MS, written_by="publish", read_by="counters")
LOGS_OF_WORKERS = (ACTIVITY, DELIVERIES)  # what the workers' group reads
TOPICS = (*LOGS_OF_WORKERS, REACTIONS)
DEAD_LETTER_RETENTION_MS = 30 * DAY_MS
# Which letters were redriven or dropped (streams/dead_letters_done.py). A message cannot be taken out of a topic, so
# this one says which are done; some 60 bytes each, kept for as long as the letter is.
DEAD_LETTERS_DONE = "dlq.done"


def create_topics(bootstrap: str, replicas: int = -1) -> list[str]:
    """Creates what is missing and returns its names; `replicas` -1 is the broker's default. Raises `ConfigurationError`
    when a log is there with another number of partitions: its messages would be another partition's now."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    new = [_new_log(topic.name, topic, replicas) for topic in TOPICS]
    new += [_new_dead_letters(topic.dead_letters, replicas) for topic in TOPICS]
    new.append(NewTopic(DEAD_LETTERS_DONE, 1, replicas, config={"cleanup.policy": "compact"}))
    created = _create(admin, bootstrap, new)
    _check_partitions(admin, bootstrap)
    return created


def _create(admin: AdminClient, bootstrap: str, new: list[NewTopic]) -> list[str]:
    created = []
    for name, future in admin.create_topics(new, operation_timeout=CREATE_TIMEOUT_S).items():
        try:
            future.result(timeout=CREATE_TIMEOUT_S)
            created.append(name)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise KafkaUnavailable(
                    f"topic {name} cannot be created at {bootstrap}: {error.args[0].str()}"
                ) from error
    return created


def _new_log(name: str, like: Topic, replicas: int = -1) -> NewTopic:
    limits = {"retention.ms": str(like.retention_ms), "max.message.bytes": str(MESSAGE_BYTES_MAX)}
    return NewTopic(name, like.partitions, replicas, config=limits)


def _new_dead_letters(name: str, replicas: int = -1) -> NewTopic:
    limits = {"retention.ms": str(DEAD_LETTER_RETENTION_MS), "max.message.bytes": str(DEAD_LETTER_BYTES_MAX)}
    return NewTopic(name, 1, replicas, config=limits)


def create_dead_letters(bootstrap: str, name: str) -> None:
    """Creates a topic of dead letters if it is not there: that of another reader's group. Raises `KafkaUnavailable`."""
    _create(AdminClient({"bootstrap.servers": bootstrap}), bootstrap, [_new_dead_letters(name)])


def check_backfill_topic(name: str) -> None:
    """Raises `InvalidInput` for one of Fanfold's own."""
    if name in {DEAD_LETTERS_DONE, *(one for topic in TOPICS for one in (topic.name, topic.dead_letters))}:
        raise InvalidInput(f"topic {name} is Fanfold's own; leave --topic out to replay into the live timelines")


def create_backfill_topic(bootstrap: str, name: str) -> bool:
    """A topic that takes activity for a new reader, with the partitions and the retention of the log itself. False when
    it is there. Raises `InvalidInput` for one of Fanfold's own, `ConfigurationError` for another number of partitions:
    the order of an author would be another one, and `KafkaUnavailable`."""
    check_backfill_topic(name)
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 4})  # warnings; closing it is none
    try:
        admin.create_topics([_new_log(name, ACTIVITY)], operation_timeout=CREATE_TIMEOUT_S)[name].result(
            timeout=CREATE_TIMEOUT_S
        )
    except KafkaException as error:
        if error.args[0].code() == KafkaError.TOPIC_EXCEPTION:
            raise InvalidInput(f"{name[:60]!r} is no name of a topic: {error.args[0].str()}") from error
        if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
            raise KafkaUnavailable(f"topic {name} cannot be created at {bootstrap}: {error.args[0].str()}") from error
        has = _partitions(admin, bootstrap).get(name, ACTIVITY.partitions)
        if has != ACTIVITY.partitions:
            raise ConfigurationError(
                f"topic {name} at {bootstrap} has {has} partitions, and a replay needs {ACTIVITY.partitions}, as "
                "activity has: delete it, or give another name"
            ) from error
        return False
    return True


def _check_partitions(admin: AdminClient, bootstrap: str) -> None:
    found = _partitions(admin, bootstrap)
    for topic in TOPICS:
        if topic.name in found:
            need_partitions(topic, found[topic.name], bootstrap)


def _partitions(admin: AdminClient, bootstrap: str) -> dict[str, int]:
    """How many each topic has. Raises `KafkaUnavailable`."""
    try:
        found = admin.list_topics(timeout=CREATE_TIMEOUT_S).topics
    except KafkaException as error:
        raise KafkaUnavailable(f"Kafka at {bootstrap} does not list its topics: {error.args[0].str()}") from error
    return {name: len(topic.partitions) for name, topic in found.items()}


def need_partitions(topic: Topic, has: int, bootstrap: str) -> None:
    """Raises `ConfigurationError` when a log has another number of partitions: its keys would be in other ones now, and
    no order would hold over the change."""
    if has != topic.partitions:
        raise ConfigurationError(
            f"topic {topic.name} at {bootstrap} has {has} partitions, and this version of Fanfold needs "
            f"{topic.partitions}: `fanfold topics recreate {topic.name}` says what is unread in it, and with --execute "
            "makes it anew (an embedded stack: after `fanfold up --servers-only`)"
        )
