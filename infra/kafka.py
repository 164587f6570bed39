"""Kafka clients: one place for their settings, and transactional sending. What Kafka says of its logs: kafka_logs.py.

Every producer partitions as Faust does (murmur2_random); librdkafka's own default differs on 9 keys of 10.
"""

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka import Message as KafkaMessage

from infra.errors import KafkaUnavailable, Superseded
from infra.topics import MESSAGE_BYTES_MAX, Topic

GROUP = "fanfold"  # the consumer group of all workers; Faust's app id
TRANSACTION_TIMEOUT_MS = 10_000
CALL_TIMEOUT_S = 20.0
POLL_S = 0.05
# librdkafka's own codes have names with an underscore; they are part of its interface all the same.
FENCED_CODES = (KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH)  # noqa: SLF001
LEFT_CODES = (KafkaError.ILLEGAL_GENERATION, KafkaError.UNKNOWN_MEMBER_ID)

Place = tuple[str, int]  # a topic and a partition of it


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
    generation lasts. `offsets` is where the group goes on in each partition once that is committed.
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
        self._behind: dict[Place, int] = {}
        self._run(lambda: self._producer.init_transactions(CALL_TIMEOUT_S))

    def send(self, messages: Iterable[Message], claim: Claim | None = None) -> dict[Place, int]:
        """All of them, or none that counts: returns after the commit, with the offset behind the last one in each
        partition that took some. When the claim is over, none at all: raises `Superseded`."""
        self.begin(claim)
        return self.finish(messages)

    def begin(self, claim: Claim | None = None) -> None:
        """Opens a transaction, with a claim that the broker has checked when this returns."""
        self._run(self._producer.begin_transaction)
        with self._aborting():
            if claim is not None:
                self._check(claim)

    def finish(self, messages: Iterable[Message]) -> dict[Place, int]:
        """Sends these in the open transaction; returns after the commit, as `send`."""
        self._behind = {}
        with self._aborting():
            for message in messages:
                self._produce(message)
            self._run(lambda: self._producer.commit_transaction(CALL_TIMEOUT_S))
        return self._behind

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
                    message.topic,
                    message.value,
                    message.key,
                    headers=list(message.headers),
                    on_delivery=self._note,
                    **extra,
                )
                return
            except BufferError:
                self._run(lambda: self._producer.poll(POLL_S))  # the local queue is full: let it drain
            except KafkaException as error:
                raise self._ours(error) from error

    def _note(self, error: object, message: KafkaMessage) -> None:
        """The client calls this for each message, in the order of its partition, before a commit returns."""
        topic, partition, offset = message.topic(), message.partition(), message.offset()
        if error is None and offset is not None:  # None: the broker had it from an earlier try
            self._behind[str(topic), int(partition or 0)] = offset + 1

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
