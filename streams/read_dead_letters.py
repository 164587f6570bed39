"""Reading dead letters: how many there are, the newest of them, and one of them whole.

Output of the agents' burials (dead_letters.py). Reads with a consumer that commits nothing and is bounded in letters,
bytes and time. Next: dlq_commands.py, which shows them.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from infra.errors import KafkaUnavailable, NotFound
from infra.kafka import GROUP, PARTITION_END
from streams import dead_letters

PARTITION = 0  # the only one of a topic of dead letters: infra/topics.py
ANSWER_WITHIN_S = 10.0  # for each letter; a broker on a busy machine takes a second
QUEUE_KBYTES_MAX = 16_384  # what the consumer reads ahead; more than one letter of the largest size
NO_TOPIC = (KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC, KafkaError._UNKNOWN_PARTITION)  # noqa: SLF001

Headers = dead_letters.Headers


@dataclass(frozen=True, slots=True)
class Buried:
    """A letter as it lies in its topic. `time_ms` is when it was buried."""

    topic: str
    offset: int
    time_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers

    def header(self, name: str) -> str:
        """The last header of that name as text; empty when there is none."""
        values = [value for one, value in self.headers if one == name and value is not None]
        return values[-1].decode(errors="backslashreplace") if values else ""

    @property
    def reason(self) -> str:
        """The error's class and message."""
        return f"{self.header(dead_letters.EXCEPTION)}: {self.header(dead_letters.EXCEPTION_MESSAGE)}"


@dataclass(frozen=True, slots=True)
class Line:
    """A letter in a list: without its value, which may be large."""

    letter: Buried  # its value is None
    value_bytes: int | None


@dataclass(frozen=True, slots=True)
class Yard:
    """What lies in one topic of dead letters. Times are None when it is empty."""

    topic: str
    count: int
    oldest_ms: int | None
    newest_ms: int | None
    newest: tuple[Line, ...]  # the newest first


@contextmanager
def reader(bootstrap: str) -> Iterator[Consumer]:
    """A consumer that belongs to no group's work. Raises `KafkaUnavailable` for whatever the broker does not answer."""
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"{GROUP}-dead-letters",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_uncommitted",
            "queued.max.messages.kbytes": QUEUE_KBYTES_MAX,
            "log_level": 0,  # what went wrong is one sentence of ours
        }
    )
    try:
        yield consumer
    except KafkaException as error:
        raise KafkaUnavailable(f"Kafka at {bootstrap} does not answer: {error.args[0].str()}") from error
    finally:
        consumer.close()


def look(consumer: Consumer, topic: str, newest_max: int) -> Yard:
    """Counts a topic's letters and reads its oldest and its newest."""
    start, end = _range(consumer, topic)
    oldest_ms = next((letter.time_ms for letter in read_letters(consumer, topic, start, start + 1)), None)
    letters = read_letters(consumer, topic, max(start, end - newest_max), end)
    lines = [
        Line(replace(letter, value=None), None if letter.value is None else len(letter.value)) for letter in letters
    ]
    lines.reverse()
    return Yard(topic, end - start, oldest_ms, lines[0].letter.time_ms if lines else None, tuple(lines))


def read_one(consumer: Consumer, topic: str, offset: int) -> Buried:
    """The letter at that offset. Raises `NotFound`."""
    start, end = _range(consumer, topic)
    if start == end:
        raise NotFound(f"{topic} holds no dead letters, so there is none at offset {offset}")
    for letter in read_letters(consumer, topic, offset, offset + 1) if start <= offset < end else ():
        return letter
    raise NotFound(f"{topic} has no dead letter at offset {offset}; it holds the offsets {start} to {end - 1}")


def _range(consumer: Consumer, topic: str) -> tuple[int, int]:
    try:
        start, end = consumer.get_watermark_offsets(TopicPartition(topic, PARTITION), ANSWER_WITHIN_S)
    except KafkaException as error:
        if error.args[0].code() in NO_TOPIC:
            raise NotFound(f"there is no topic {topic}: `fanfold topics create` makes it") from error
        raise
    return start, end


def read_letters(consumer: Consumer, topic: str, start: int, end: int) -> Iterator[Buried]:
    """The letters from `start` on that lie before `end`."""
    if start >= end:
        return
    consumer.assign([TopicPartition(topic, PARTITION, start)])
    deadline_s = time.monotonic() + ANSWER_WITHIN_S
    while True:
        message = consumer.poll(max(deadline_s - time.monotonic(), 0))
        if message is None:
            raise KafkaUnavailable(f"Kafka did not hand over {topic} within {ANSWER_WITHIN_S:g} s: try again")
        if message.error() is not None:
            if message.error().code() == PARTITION_END:
                return
            raise KafkaException(message.error())
        if message.offset() >= end:
            return
        yield _buried(message)
        if message.offset() + 1 >= end:
            return
        deadline_s = time.monotonic() + ANSWER_WITHIN_S


def _buried(message: Message) -> Buried:
    return Buried(
        topic=message.topic(),
        offset=message.offset(),
        time_ms=message.timestamp()[1],
        key=message.key(),
        value=message.value(),
        headers=list(message.headers() or ()),
    )
