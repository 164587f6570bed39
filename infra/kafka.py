"""Kafka clients: one place for their settings, transactional sending, and the lag of both agents.

Every producer partitions as Faust does (murmur2_random); librdkafka's own default differs on 9 keys of 10.
"""

import struct
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from confluent_kafka import (
    Consumer,
    IsolationLevel,
    KafkaError,
    KafkaException,
    Producer,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, OffsetSpec

from infra.errors import KafkaUnavailable, Superseded
from infra.topics import ACTIVITY, DELIVERIES, LOGS_OF_WORKERS, MESSAGE_BYTES_MAX, Topic

GROUP = "fanfold"  # the consumer group of all workers; Faust's app id
TRANSACTION_TIMEOUT_MS = 10_000
CALL_TIMEOUT_S = 20.0
POLL_S = 0.05
PROBE_TIMEOUT_S = 10.0
ENDS_TIMEOUT_S = 5.0
SETTLED_TIMEOUT_S = 1.0
# librdkafka's own codes have names with an underscore; they are part of its interface all the same.
FENCED_CODES = (KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH)  # noqa: SLF001
LEFT_CODES = (KafkaError.ILLEGAL_GENERATION, KafkaError.UNKNOWN_MEMBER_ID)
PARTITION_END = KafkaError._PARTITION_EOF  # noqa: SLF001
MARKERS_MAX = 64  # a lag this small may be transaction markers only, so it is looked at


@dataclass(frozen=True, slots=True)
class Message:
    """What is sent: a partition, or None to let the key choose it."""

    topic: str
    value: bytes | None
    key: bytes | None = None
    partition: int | None = None
    headers: Sequence[tuple[str, bytes]] = field(default=())


def producer_config(bootstrap: str) -> dict[str, str | int | float | bool]:
    """librdkafka's settings for every producer of Fanfold."""
    return {
        "bootstrap.servers": bootstrap,
        "partitioner": "murmur2_random",
        "acks": "all",
        "enable.idempotence": True,
        "linger.ms": 1,
        # A transaction's first request may come before the last one's markers are written; then it is tried again.
        "retry.backoff.ms": 2,
        "compression.type": "none",
        "message.max.bytes": MESSAGE_BYTES_MAX,
        "queue.buffering.max.kbytes": 65_536,
        "log.connection.close": False,
        "log_level": 4,  # warnings; a purge on closing is none
    }


@dataclass(frozen=True, slots=True)
class Claim:
    """A group member's claim to partitions of a topic: the broker commits what is sent with it only while the member's
    generation lasts. `offsets` is where its work in each partition begins, and what the group goes on from.
    """

    topic: Topic
    offsets: Mapping[int, int]
    generation: int
    member: str

    def positions(self) -> list[TopicPartition]:
        """The offsets as the client takes them."""
        return [TopicPartition(self.topic.name, partition, offset) for partition, offset in self.offsets.items()]

    def metadata(self) -> bytes:
        """What `Consumer.consumer_group_metadata` would give, if the member were confluent-kafka's: librdkafka's form
        of generation, group, member and no static member's name. A test compares it with the library's own."""
        group, member = GROUP.encode(), self.member.encode()
        return b"CGMDv2:" + struct.pack("=i", self.generation) + group + b"\0" + member + b"\0\1"


class TransactionalProducer:
    """Sends batches, each in one transaction. A newer producer with the same id fences it.

    Not safe for several threads. Raises `Superseded`, or `KafkaUnavailable` after aborting: send it again.
    """

    def __init__(self, bootstrap: str, transactional_id: str) -> None:
        self._id = transactional_id
        self._producer = Producer(
            producer_config(bootstrap)
            | {"transactional.id": transactional_id, "transaction.timeout.ms": TRANSACTION_TIMEOUT_MS}
        )
        self._run(lambda: self._producer.init_transactions(CALL_TIMEOUT_S))

    def send(self, messages: Iterable[Message], claim: Claim | None = None) -> None:
        """All of them, or none that counts: returns after the commit. When the claim is over, none at all: raises
        `Superseded`."""
        self.begin(claim)
        self.finish(messages)

    def begin(self, claim: Claim | None = None) -> None:
        """Opens a transaction, with a claim that the broker has checked when this returns."""
        self._run(self._producer.begin_transaction)
        with self._aborting():
            if claim is not None:
                self._check(claim)

    def finish(self, messages: Iterable[Message]) -> None:
        """Sends these in the open transaction; returns after the commit."""
        with self._aborting():
            for message in messages:
                self._produce(message)
            self._run(lambda: self._producer.commit_transaction(CALL_TIMEOUT_S))

    def abort(self) -> None:
        """Ends the open transaction: nothing of it counts."""
        try:
            self._producer.abort_transaction(CALL_TIMEOUT_S)
        except KafkaException as error:
            raise self._ours(error) from error

    def close(self) -> None:
        """Drops what is buffered; the broker aborts an open transaction."""
        with suppress(KafkaException):  # a fenced producer raises again here what `send` has told already
            self._producer.purge()
            self._producer.poll(0)

    def _check(self, claim: Claim) -> None:
        """Before anything is in the log, since Faust reads what is not committed too."""
        if claim.generation < 0 or not claim.member:  # the broker takes this without a look at the group
            self.abort()
            raise Superseded(f"this worker is no member of group {GROUP} any more")
        try:
            self._producer.send_offsets_to_transaction(claim.positions(), claim.metadata(), CALL_TIMEOUT_S)
        except KafkaException as error:
            if error.args[0].code() not in LEFT_CODES:
                raise self._ours(error) from error
            self.abort()
            raise Superseded(
                f"{claim.member!r} is not in generation {claim.generation} of group {GROUP}: {error.args[0].str()}"
            ) from error

    def _produce(self, message: Message) -> None:
        extra = {} if message.partition is None else {"partition": message.partition}
        while True:
            try:
                self._producer.produce(
                    message.topic, message.value, message.key, headers=list(message.headers), **extra
                )
                return
            except BufferError:
                self._run(lambda: self._producer.poll(POLL_S))  # the local queue is full: let it drain
            except KafkaException as error:
                raise self._ours(error) from error

    def _run(self, call: Callable[[], object]) -> None:
        try:
            call()
        except KafkaException as error:
            raise self._ours(error) from error

    def _ours(self, error: KafkaException) -> Exception:
        reason = error.args[0]
        if reason.code() in FENCED_CODES:
            return Superseded(f"a newer producer has taken over {self._id}")
        return KafkaUnavailable(f"transaction of {self._id} failed: {reason.str()}")

    @contextmanager
    def _aborting(self) -> Iterator[None]:
        """Aborts when something fails; a fenced producer has nothing left to abort."""
        try:
            yield
        except Superseded:
            raise
        except BaseException:
            self.abort()
            raise


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
            self._admin = self._admin or admin_client(self._bootstrap, ENDS_TIMEOUT_S)
            return log_offsets(self._admin, self._topics, OffsetSpec.latest(), ENDS_TIMEOUT_S)
        except KafkaException:
            self._admin = None
            return None

    def unowned(self) -> int | None:
        """How many partitions of both logs no worker has; None when Kafka is away."""
        try:
            self._admin = self._admin or admin_client(self._bootstrap, ENDS_TIMEOUT_S)
            described = self._admin.describe_consumer_groups([GROUP], request_timeout=ENDS_TIMEOUT_S)[GROUP].result()
        except KafkaException:
            self._admin = None
            return None
        owned = sum(len(member.assignment.topic_partitions) for member in described.members)
        return sum(topic.partitions for topic in LOGS_OF_WORKERS) - owned


def admin_client(bootstrap: str, timeout_s: float) -> AdminClient:
    """A client that knows where the logs are. One that is asked for offsets before it does may miss the answer that
    tells it: of new clients with two topics one in eight waited a second longer. Raises `KafkaException`."""
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.list_topics(timeout=timeout_s)
    return admin


def topic_ids(admin: AdminClient, topics: Iterable[Topic], timeout_s: float) -> dict[str, str]:
    """Kafka's id of each topic, which one of the same name that is made anew does not have. Raises `KafkaException`."""
    names = [topic.name for topic in topics]
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
