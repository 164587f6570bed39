"""The topics, as one table, and their creation. docs/asyncapi.yaml is made from it.

topic          event               key       partitions   retention   written by   read by
activity       events.Activity     author    8            7 days      relay        fan_out, counters
deliveries     events.Delivery     none      4            2 days      fan_out      deliver
               (its partition is the slot of the owner mod 4)
reactions      reactions.Reaction  tweet     4            7 days      publish      counters
<topic>.dlq    as it was read      as read   1            30 days     the agent    people
"""

from dataclasses import dataclass

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from infra.errors import ConfigurationError, KafkaUnavailable

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
CREATE_TIMEOUT_S = 30.0
MESSAGE_BYTES_MAX = 1_048_576  # the broker's limit for one message, and what a chunk's bounds stay under
# Eight times that: a topic's limit may have been raised by hand, and headers that say why are added. What is larger
# still is cut (streams/dead_letters.py); the whole message stays in its own log until its retention.
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


def dead_letters_of(topic: str) -> str:
    """The topic that takes what cannot be processed of this one."""
    return f"{topic}.dlq"


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


def create_topics(bootstrap: str, replicas: int = -1) -> list[str]:
    """Creates what is missing and returns its names; `replicas` -1 is the broker's default. Raises `ConfigurationError`
    when a log is there with another number of partitions: its messages would be another partition's now."""
    wanted = [(topic.name, topic.partitions, topic.retention_ms, MESSAGE_BYTES_MAX) for topic in TOPICS]
    wanted += [(topic.dead_letters, 1, DEAD_LETTER_RETENTION_MS, DEAD_LETTER_BYTES_MAX) for topic in TOPICS]
    admin = AdminClient({"bootstrap.servers": bootstrap})
    new = [
        NewTopic(
            name,
            partitions,
            replicas,
            config={"retention.ms": str(retention_ms), "max.message.bytes": str(bytes_max)},
        )
        for name, partitions, retention_ms, bytes_max in wanted
    ]
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
    _check_partitions(admin, bootstrap)
    return created


def _check_partitions(admin: AdminClient, bootstrap: str) -> None:
    try:
        found = admin.list_topics(timeout=CREATE_TIMEOUT_S).topics
    except KafkaException as error:
        raise KafkaUnavailable(f"Kafka at {bootstrap} does not list its topics: {error.args[0].str()}") from error
    for topic in TOPICS:
        has = len(found[topic.name].partitions) if topic.name in found else topic.partitions
        if has != topic.partitions:
            raise ConfigurationError(
                f"topic {topic.name} at {bootstrap} has {has} partitions, and this version of Fanfold needs "
                f"{topic.partitions}: start in an empty folder (`fanfold --data-dir`), or on a Kafka without that topic"
            )
