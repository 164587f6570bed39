"""What Kafka says of its logs: where they begin and end, which topics they are, how far the workers' group has come.

Next: worked_logs.py, log_ends.py.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, OffsetSpec, ResourceType

from infra.errors import KafkaUnavailable
from infra.kafka import CALL_TIMEOUT_S, GROUP, POLL_S
from infra.topics import ACTIVITY, DELIVERIES, LOGS_OF_WORKERS, Topic

PROBE_TIMEOUT_S = 10.0
ENDS_TIMEOUT_S = 5.0
SETTLED_TIMEOUT_S = 1.0
MARKERS_MAX = 64  # a lag this small may be transaction markers only, so it is looked at
PARTITION_END = KafkaError._PARTITION_EOF  # noqa: SLF001


def agent_lags(bootstrap: str) -> dict[str, int]:
    """Messages that each agent has still to acknowledge: `fan_out` on activity, `deliver` on deliveries.

    A small difference can be transaction markers, which no consumer ever acknowledges: the log is looked at then.
    """
    with kafka_errors(bootstrap):
        admin = admin_client(bootstrap, CALL_TIMEOUT_S)
        return {
            "fan_out": _lag(admin, bootstrap, ACTIVITY),
            "deliver": _lag(admin, bootstrap, DELIVERIES),
        }


def end_offsets(admin: AdminClient, topic: Topic) -> list[int]:
    """The offset after the last message of each partition."""
    ends = log_offsets(admin, [topic], OffsetSpec.latest(), CALL_TIMEOUT_S)
    return [ends[topic.name, partition] for partition in range(topic.partitions)]


class LogEnds:
    """Where the partitions of a log end now, to ask later whether the workers have acknowledged all that is there.
    Raises `KafkaUnavailable`."""

    def __init__(self, bootstrap: str, topic: Topic) -> None:
        self._bootstrap = bootstrap
        self._topic = topic
        with kafka_errors(bootstrap):
            self._ends = end_offsets(admin_client(bootstrap, CALL_TIMEOUT_S), topic)

    def are_acknowledged(self) -> bool:
        """Transaction markers, which no consumer ever acknowledges, do not count."""
        with kafka_errors(self._bootstrap):
            committed = committed_offsets(self._bootstrap, self._topic)
            return _messages_between(self._bootstrap, self._topic, committed, self._ends) == 0


# Of a group's coordinator that has just started, or moved: asked again, it answers.
GROUP_NOT_YET = (
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.NOT_COORDINATOR,
    KafkaError.REQUEST_TIMED_OUT,
    KafkaError._TIMED_OUT,  # noqa: SLF001
)


@contextmanager
def kafka_errors(bootstrap: str) -> Iterator[None]:
    """Raises `KafkaUnavailable` for a `KafkaException`."""
    try:
        yield
    except KafkaException as error:
        raise KafkaUnavailable(f"Kafka at {bootstrap} does not answer: {error.args[0].str()}") from error


class Overview:
    """The ends of some logs, by default those of the workers, and which of these nobody has; asked again and again. Not
    safe for several threads."""

    def __init__(self, bootstrap: str, topics: Sequence[Topic] = LOGS_OF_WORKERS) -> None:
        self._bootstrap = bootstrap
        self._topics = topics
        self._admin: AdminClient | None = None

    def ends(self) -> dict[tuple[str, int], int] | None:
        """The offset after the last one of each (topic, partition), markers included; None when Kafka is away.

        A client that was refused for the leader's epoch, as after a broker froze, never asks for the new one: it goes.
        """
        try:
            return log_offsets(self._connected(), self._topics, OffsetSpec.latest(), ENDS_TIMEOUT_S)
        except KafkaException:
            self._admin = None
            return None

    def unowned(self) -> int | None:
        """How many partitions of both logs no worker has; None when Kafka is away."""
        try:
            described = (
                self._connected().describe_consumer_groups([GROUP], request_timeout=ENDS_TIMEOUT_S)[GROUP].result()
            )
        except KafkaException:
            self._admin = None
            return None
        owned = sum(len(member.assignment.topic_partitions) for member in described.members)
        return sum(topic.partitions for topic in LOGS_OF_WORKERS) - owned

    def _connected(self) -> AdminClient:
        if self._admin is None:  # a client with nothing under way is false
            self._admin = admin_client(self._bootstrap, ENDS_TIMEOUT_S)
        return self._admin


def admin_client(bootstrap: str, timeout_s: float) -> AdminClient:
    """A client that knows where the logs are. One that is asked for offsets before it does may miss the answer that
    tells it: of new clients with two topics one in eight waited a second longer. Raises `KafkaException`, and logs
    nothing: what went wrong is one sentence of ours."""
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    admin.list_topics(timeout=timeout_s)
    return admin


def topic_ids(admin: AdminClient, topics: Iterable[Topic], timeout_s: float) -> dict[str, str]:
    """Kafka's id of each topic, which one of the same name that is made anew does not have. Raises `KafkaException`."""
    return ids_by_name(admin, [topic.name for topic in topics], timeout_s)


def ids_by_name(admin: AdminClient, names: Sequence[str], timeout_s: float) -> dict[str, str]:
    """The same by the topics' names."""
    described = admin.describe_topics(TopicCollection(names), request_timeout=timeout_s)
    return {name: str(described[name].result().topic_id) for name in names}


def log_offsets(
    admin: AdminClient,
    topics: Iterable[Topic],
    which: OffsetSpec,
    timeout_s: float,
    isolation: IsolationLevel = IsolationLevel.READ_UNCOMMITTED,
) -> dict[tuple[str, int], int]:
    """The first or last offset of each partition. Raises `KafkaException`, also where librdkafka reports a time-out as
    an offset below zero."""
    wanted = {TopicPartition(topic.name, partition): which for topic in topics for partition in range(topic.partitions)}
    futures = admin.list_offsets(wanted, isolation_level=isolation, request_timeout=timeout_s)
    offsets = {(place.topic, place.partition): int(future.result().offset) for place, future in futures.items()}
    if any(offset < 0 for offset in offsets.values()):
        raise KafkaException(KafkaError(KafkaError._TIMED_OUT))  # noqa: SLF001
    return offsets


def retentions_ms(bootstrap: str, topics: Iterable[Topic]) -> dict[str, int | None]:
    """For how long each topic keeps its messages, as it is set at the broker; None is without end. Raises
    `KafkaUnavailable`."""
    resources = {topic.name: ConfigResource(ResourceType.TOPIC, topic.name) for topic in topics}
    with kafka_errors(bootstrap):
        admin = admin_client(bootstrap, CALL_TIMEOUT_S)
        answers = admin.describe_configs(list(resources.values()), request_timeout=CALL_TIMEOUT_S)
        found = {name: int(answers[one].result()["retention.ms"].value) for name, one in resources.items()}
    return {name: ms if ms > 0 else None for name, ms in found.items()}


def committed_offsets(bootstrap: str, topic: Topic) -> list[int]:
    """The offset that the workers' group goes on from, in each partition; 0 where it has none. Raises
    `KafkaException`. It does not wait for open transactions."""
    return _committed(bootstrap, topic, range(topic.partitions), "read_uncommitted", CALL_TIMEOUT_S)


def await_settled(bootstrap: str, topic: Topic, partitions: Sequence[int]) -> None:
    """Returns when no transaction with a claim to one of these partitions is open.

    A member that froze once its claim was checked may still send: before what a new owner sends, or not at all. Raises
    `KafkaUnavailable` after a second: the broker ends such a transaction, so ask again.
    """
    try:
        _committed(bootstrap, topic, partitions, "read_committed", SETTLED_TIMEOUT_S)
    except KafkaException as error:
        raise KafkaUnavailable(
            f"{topic.name} {list(partitions)}: a transaction of the last owner is still open, or Kafka at {bootstrap} "
            f"does not answer: {error.args[0].str()}"
        ) from error


def _committed(bootstrap: str, topic: Topic, partitions: Iterable[int], isolation: str, timeout_s: float) -> list[int]:
    """Asked by a client that is no member of the group. To `read_committed` the coordinator answers only when no
    transaction holds one of them. Raises `KafkaException`, also for an error that came with a single partition."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": GROUP,
            "enable.auto.commit": False,
            "isolation.level": isolation,
        }
    )
    try:
        places = consumer.committed([TopicPartition(topic.name, partition) for partition in partitions], timeout_s)
    finally:
        consumer.close()
    for place in places:
        if place.error is not None:
            raise KafkaException(place.error)
    return [max(place.offset, 0) for place in places]


def _lag(admin: AdminClient, bootstrap: str, topic: Topic) -> int:
    return _messages_between(bootstrap, topic, committed_offsets(bootstrap, topic), end_offsets(admin, topic))


def messages_from(bootstrap: str, topic: Topic, offsets: Sequence[int]) -> int:
    """How many messages a topic has from these offsets on, one for each partition. Raises `KafkaUnavailable`."""
    with kafka_errors(bootstrap):
        ends = end_offsets(admin_client(bootstrap, CALL_TIMEOUT_S), topic)
        return _messages_between(bootstrap, topic, offsets, ends)


def _messages_between(bootstrap: str, topic: Topic, offsets: Sequence[int], ends: Sequence[int]) -> int:
    """At most so many as lie between; 0 when only transaction markers do, and nothing behind them either."""
    behind = {
        partition: end - done for partition, (end, done) in enumerate(zip(ends, offsets, strict=True)) if end > done
    }
    small = [partition for partition, count in behind.items() if count <= MARKERS_MAX]
    for partition in _holding_markers_only(bootstrap, topic, {p: offsets[p] for p in small}):
        del behind[partition]
    return sum(behind.values())


def _holding_markers_only(bootstrap: str, topic: Topic, starts: dict[int, int]) -> list[int]:
    """The partitions that hold no message at or after their start offset."""
    if not starts:
        return []
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"{GROUP}-lag",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": "read_uncommitted",
            "auto.offset.reset": "earliest",
        }
    )
    empty, open_ = [], set(starts)
    try:
        consumer.assign([TopicPartition(topic.name, partition, start) for partition, start in starts.items()])
        deadline = time.monotonic() + PROBE_TIMEOUT_S
        while open_ and time.monotonic() < deadline:
            message = consumer.poll(POLL_S)
            if message is None or message.partition() not in open_:
                continue
            if message.error() is None:
                open_.discard(message.partition())
            elif message.error().code() == PARTITION_END:
                open_.discard(message.partition())
                empty.append(message.partition())
        return empty
    finally:
        consumer.close()
