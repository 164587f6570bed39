"""Reading both logs by hand: from given offsets, committed messages only, in no group. The reader keeps its own cut.

`LogWatch` asks the broker where the logs begin and end, which logs they are, and how far the agents have worked them
off. Next: consumers/live_feed.py, replay_sources.py.
"""

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import xxhash
from confluent_kafka import Consumer, IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from infra.errors import KafkaUnavailable, PositionLost
from infra.events import is_replayed
from infra.kafka import GROUP
from infra.kafka_logs import PARTITION_END, admin_client, log_offsets, topic_ids
from infra.topics import ACTIVITY, DELIVERIES, LOGS_OF_WORKERS

READ_MESSAGES_MAX = 500  # of one read: some milliseconds of work
ANSWER_WITHIN_S = 1.0  # of the broker, to a question; below what the end of a process may take
FETCHED_KB_MAX = 16_384  # what one reader holds that was not read yet: many of the largest messages (1 MiB)
FETCHED_BYTES = 1_048_576  # of one log at once; the client's own default
RECONNECT_WITHIN_MS = 1_000  # after a broker restarted; librdkafka waits up to ten seconds otherwise
# What ends reading: the offset is not there, or the topic is not.
LOST_CODES = (
    KafkaError._AUTO_OFFSET_RESET,  # noqa: SLF001
    KafkaError.OFFSET_OUT_OF_RANGE,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError._UNKNOWN_PARTITION,  # noqa: SLF001
)

Log = tuple[str, int]  # a topic and a partition of it
Cut = dict[Log, int]  # for each log the offset before which everything was read

ACTIVITY_LOGS: tuple[Log, ...] = tuple((ACTIVITY.name, partition) for partition in range(ACTIVITY.partitions))
DELIVERY_LOGS: tuple[Log, ...] = tuple((DELIVERIES.name, partition) for partition in range(DELIVERIES.partitions))
LOGS = ACTIVITY_LOGS + DELIVERY_LOGS

T = TypeVar("T")


class LogMessage(NamedTuple):
    """A message, or the end of a log: then `value` is None and `next_offset` is behind transaction markers too."""

    log: Log
    offset: int
    next_offset: int
    key: bytes | None
    value: bytes | None
    timestamp_ms: int
    headers: Sequence[tuple[str, bytes]] = ()

    @property
    def replayed(self) -> bool:
        """Whether it is activity that was sent again."""
        return is_replayed(self.headers)


class LogReader:
    """Reads the logs from a cut on. Not safe for several threads; close it once.

    `cut` is the caller's to move, as he works off what was read. While Kafka is away nothing comes. `fetched_bytes` of
    each log come together: the fewer, the more the logs are mixed.
    """

    def __init__(self, bootstrap: str, start: Mapping[Log, int], fetched_bytes: int = FETCHED_BYTES) -> None:
        self._bootstrap = bootstrap
        self._fetched_bytes = fetched_bytes
        self._consumer = self._connected()
        self.cut: Cut = {}
        self.go_to(start)

    def renew(self) -> None:
        """Goes on with another client: one that a frozen broker refused asks for nothing any more."""
        self.close()
        self._consumer = self._connected()
        self.go_to(self.cut)

    def go_to(self, start: Mapping[Log, int]) -> None:
        """Reads from there."""
        self.cut = dict(start)
        self._consumer.assign([TopicPartition(topic, number, offset) for (topic, number), offset in start.items()])

    def read(self, timeout_s: float) -> list[LogMessage]:
        """What there is, in the order of each log; waits for the first one. Raises `PositionLost` when a log does not
        have the offset."""
        first = self._consumer.poll(timeout_s)
        if first is None:
            return []
        found = [first, *self._consumer.consume(READ_MESSAGES_MAX - 1, 0)]
        return [read for read in map(_read, found) if read is not None]

    def close(self) -> None:
        """Ends reading."""
        with suppress(KafkaException):
            self._consumer.close()

    def _connected(self) -> Consumer:
        return Consumer(
            {
                "bootstrap.servers": self._bootstrap,
                "group.id": f"{GROUP}-reader",  # asked for by the client; nothing is committed and nobody joins
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "isolation.level": "read_committed",
                "auto.offset.reset": "error",
                "enable.partition.eof": True,
                "queued.max.messages.kbytes": FETCHED_KB_MAX,
                "max.partition.fetch.bytes": self._fetched_bytes,
                "reconnect.backoff.max.ms": RECONNECT_WITHIN_MS,
            }
        )


def _read(message: "object") -> LogMessage | None:
    """None for an error that librdkafka gets over by itself, such as a broker that is away."""
    error, log = message.error(), (message.topic(), message.partition())  # type: ignore[attr-defined]
    offset = message.offset()  # type: ignore[attr-defined]
    if error is None:
        key, value, (_, timestamp_ms) = message.key(), message.value(), message.timestamp()  # type: ignore[attr-defined]
        headers = message.headers() or ()  # type: ignore[attr-defined]
        return LogMessage(log, offset, offset + 1, key, value or b"", timestamp_ms, headers)
    if error.code() == PARTITION_END:
        return LogMessage(log, offset, offset, None, None, 0)
    if error.code() in LOST_CODES:
        raise PositionLost(f"{log[0]} {log[1]} cannot be read on: {error.str()}")
    return None


@dataclass(frozen=True, slots=True)
class Bounds:
    """What the broker says of both logs. An `incarnation` is another one when a topic was made anew. `ends` are behind
    the last message of which it is known whether it counts; `applied` is where the agents' group goes on."""

    incarnation: str
    starts: Mapping[Log, int]
    ends: Mapping[Log, int]
    applied: Mapping[Log, int]


class LogWatch:
    """Asks the broker. Safe to share between threads. Raises `KafkaUnavailable` within seconds.

    A client that was refused for the leader's epoch, as after a broker froze, never asks for the new one: after a
    failure it is made anew.
    """

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self._lock = threading.Lock()
        self._admin: AdminClient | None = None
        self._consumer: Consumer | None = None

    def bounds(self) -> Bounds:
        """All of it; `ends` and `applied` are read last."""
        incarnation = self._ask(_incarnation)
        starts = self._ask(lambda admin: _offsets(admin, OffsetSpec.earliest()))
        applied = self.applied(LOGS)
        return Bounds(incarnation, starts, self.ends(), applied)

    def ends(self) -> Mapping[Log, int]:
        """Behind the last message of each log."""
        return self._ask(lambda admin: _offsets(admin, OffsetSpec.latest()))

    def written(self) -> Mapping[Log, int]:
        """The same with what open transactions have written. The group's place may be known a little before it is known
        that what was committed with it counts."""
        return self._ask(lambda admin: log_offsets(admin, LOGS_OF_WORKERS, OffsetSpec.latest(), ANSWER_WITHIN_S))

    def applied(self, logs: Iterable[Log]) -> Mapping[Log, int]:
        """Where the agents' group goes on: what is before it in deliveries is in the timelines, what is before it in
        activity is in deliveries. 0 where it never was.

        It does not wait for open transactions: those of fan_out hold places that count when they are committed.
        """
        config = {"bootstrap.servers": self._bootstrap, "group.id": GROUP, "enable.auto.commit": False}
        with self._lock:
            try:
                if self._consumer is None:
                    self._consumer = Consumer(config | {"isolation.level": "read_uncommitted"})
                places = self._consumer.committed([TopicPartition(*log) for log in logs], ANSWER_WITHIN_S)
                for place in places:
                    if place.error is not None:
                        raise KafkaException(place.error)
            except KafkaException as error:
                self._forget()
                raise self._away(error) from error
        return {(place.topic, place.partition): max(place.offset, 0) for place in places}

    def close(self) -> None:
        """Ends the clients."""
        with self._lock:
            self._forget()

    def _ask(self, question: Callable[[AdminClient], T]) -> T:
        with self._lock:
            try:
                if self._admin is None:  # a client with nothing under way is false
                    self._admin = admin_client(self._bootstrap, ANSWER_WITHIN_S)
                return question(self._admin)
            except KafkaException as error:
                self._forget()
                raise self._away(error) from error

    def _forget(self) -> None:
        self._admin = None
        if self._consumer is not None:
            with suppress(KafkaException):
                self._consumer.close()
            self._consumer = None

    def _away(self, error: KafkaException) -> KafkaUnavailable:
        return KafkaUnavailable(f"Kafka at {self._bootstrap} does not answer: {error.args[0].str()}")


def _offsets(admin: AdminClient, which: OffsetSpec) -> dict[Log, int]:
    return log_offsets(admin, LOGS_OF_WORKERS, which, ANSWER_WITHIN_S, IsolationLevel.READ_COMMITTED)


def _incarnation(admin: AdminClient) -> str:
    """A hash of the topics' ids, which Kafka gives anew to a topic that is made anew."""
    ids = topic_ids(admin, LOGS_OF_WORKERS, ANSWER_WITHIN_S)
    return xxhash.xxh32_hexdigest("/".join(ids[topic.name] for topic in LOGS_OF_WORKERS).encode())
