"""Reading dead letters: how many there are, the newest of them, and one of them whole.

Output of the agents' burials (infra/dead_letters.py). Reads with a consumer that commits nothing and is bounded in
letters, bytes and time. Next: dlq_commands.py, which shows them.
"""

import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from infra import dead_letters
from infra.errors import KafkaUnavailable, NotFound
from infra.kafka import GROUP
from infra.kafka_logs import PARTITION_END
from infra.topics import TOPICS

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


Matches = Callable[[Buried], bool]


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


def look(
    consumer: Consumer, topic: str, newest_max: int, done: Collection[int] = (), wanted: Matches | None = None
) -> Yard:
    """Counts a topic's letters without those that are `done` and, if that is given, those that are not `wanted`; reads
    the oldest and the newest of them. Only with `wanted` it has to read them all."""
    start, end = read_range(consumer, topic)
    if wanted is not None:
        letters = read_letters(consumer, topic, start, end)
        return _yard(topic, (one for one in letters if one.offset not in done and wanted(one)), newest_max)
    open_ = lambda offset: offset not in done  # noqa: E731
    oldest = next(filter(open_, range(start, end)), end)
    oldest_ms = next((letter.time_ms for letter in read_letters(consumer, topic, oldest, min(oldest + 1, end))), None)
    newest = list(islice(filter(open_, range(end - 1, start - 1, -1)), newest_max))
    letters = read_letters(consumer, topic, newest[-1], end) if newest else iter(())
    lines = [_line(letter) for letter in letters if letter.offset in newest]
    lines.reverse()
    count = end - start - sum(start <= offset < end for offset in done)
    return Yard(topic, count, oldest_ms, lines[0].letter.time_ms if lines else None, tuple(lines))


def _yard(topic: str, letters: Iterable[Buried], newest_max: int) -> Yard:
    """Of all these letters, which come in the order of their offsets."""
    count, oldest_ms, newest_ms, newest = 0, None, None, deque[Line](maxlen=newest_max)
    for letter in letters:
        count, newest_ms = count + 1, letter.time_ms
        oldest_ms = letter.time_ms if oldest_ms is None else oldest_ms
        newest.append(_line(letter))
    return Yard(topic, count, oldest_ms, newest_ms, tuple(reversed(newest)))


def _line(letter: Buried) -> Line:
    return Line(replace(letter, value=None), None if letter.value is None else len(letter.value))


def read_one(consumer: Consumer, topic: str, offset: int) -> Buried:
    """The letter at that offset. Raises `NotFound`."""
    start, end = read_range(consumer, topic)
    if start == end:
        raise NotFound(f"{topic} holds no dead letters, so there is none at offset {offset}")
    for letter in read_letters(consumer, topic, offset, offset + 1) if start <= offset < end else ():
        return letter
    raise NotFound(f"{topic} has no dead letter at offset {offset}; it holds the offsets {start} to {end - 1}")


def no_topic(topics: Collection[str]) -> str:
    """The sentence for topics of dead letters of which one is not there."""
    ours = all(topic in {one.dead_letters for one in TOPICS} for topic in topics)
    made = "`fanfold topics create` makes it" if ours else "a group's is made with its first dead letter"
    return f"there is no topic {' or '.join(topics)}: {made}"


def read_range(consumer: Consumer, topic: str) -> tuple[int, int]:
    """The first offset of a topic of dead letters, and the one after the last. Raises `NotFound`."""
    try:
        start, end = consumer.get_watermark_offsets(TopicPartition(topic, PARTITION), ANSWER_WITHIN_S)
    except KafkaException as error:
        if error.args[0].code() in NO_TOPIC:
            raise NotFound(no_topic([topic])) from error
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
