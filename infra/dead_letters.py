"""Dead letters: a message that cannot be processed goes to `<topic>.dlq` with its key, value, headers and the reason.

The letters of another reader's group have a topic of their own. Who buries one goes on only after the broker has it.
Header names are Kafka Connect's (`DeadLetterQueueReporter`); an agent or a group is its connector, a partition its
task. Read them with `fanfold dlq`.
"""

import threading
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial

from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka import Message as Report

from infra import metrics
from infra.errors import KafkaUnavailable
from infra.kafka import producer_config
from infra.topics import DEAD_LETTER_BYTES_MAX, dead_letters_of

# A letter that the broker does not take within this time is told so and sent again; below the 8 s that a stop or a
# rebalance waits for a batch. Every message has its answer by then, so nothing is left in the queue to be doubled.
TAKEN_WITHIN_S = 5.0
POLL_S = 0.05
MESSAGE_BYTES_MAX = 1_024  # of an exception's message: an error that quotes its input may quote all of it
STACKTRACE_BYTES_MAX = 8_192  # the innermost calls, which stand last
# What a letter is cut to that its topic does not take: together below 100 kB, which any topic takes.
CUT_VALUE_BYTES = 65_536
CUT_KEY_BYTES = 1_024
CUT_HEADERS_BYTES = 16_384  # own headers; beyond that they are left out

CONNECT = "__connect.errors."
TOPIC = CONNECT + "topic"
PARTITION = CONNECT + "partition"
OFFSET = CONNECT + "offset"
CONNECTOR_NAME = CONNECT + "connector.name"
TASK_ID = CONNECT + "task.id"
STAGE = CONNECT + "stage"
EXECUTING_CLASS = CONNECT + "class.name"
EXCEPTION = CONNECT + "exception.class.name"
EXCEPTION_MESSAGE = CONNECT + "exception.message"
EXCEPTION_STACKTRACE = CONNECT + "exception.stacktrace"
# Ours. The letter's own timestamp is the burial: with the message's it could be past its retention already.
FANFOLD = "__fanfold.errors."
TIMESTAMP_MS = FANFOLD + "timestamp_ms"
TRUNCATED = FANFOLD + "truncated"  # only on a letter that was cut: how large it was

Headers = list[tuple[str, bytes | None]]


class Stage(StrEnum):
    """Where a message failed; the two of Kafka Connect's stages that we have."""

    DECODE = "VALUE_CONVERTER"
    HANDLE = "TASK_PUT"


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message as it was read, and why it could not be processed."""

    topic: str
    partition: int
    offset: int
    timestamp_ms: int | None
    key: bytes | None
    value: bytes | None
    headers: Headers
    agent: str
    stage: Stage
    executing_class: str
    reason: Exception
    truncated: str = ""
    buried_in: str = ""  # the topic that takes it; empty for that of its own topic

    @property
    def goes_to(self) -> str:
        """The topic that takes it."""
        return self.buried_in or dead_letters_of(self.topic)

    @property
    def place(self) -> str:
        """Where the message is in its log."""
        return f"{self.topic} partition {self.partition} offset {self.offset}"


def headers_of(letter: DeadLetter) -> Headers:
    """The message's own headers, then where it was and why it is here; those of an earlier burial are replaced."""
    own = [(name, value) for name, value in letter.headers if not name.startswith((CONNECT, FANFOLD))]
    added = {
        TOPIC: letter.topic,
        PARTITION: str(letter.partition),
        OFFSET: str(letter.offset),
        CONNECTOR_NAME: letter.agent,
        TASK_ID: str(letter.partition),
        STAGE: letter.stage.value,
        EXECUTING_CLASS: letter.executing_class,
        EXCEPTION: class_name(type(letter.reason)),
        EXCEPTION_MESSAGE: brief(letter.reason),
        EXCEPTION_STACKTRACE: _stacktrace(letter.reason),
    }
    if letter.timestamp_ms is not None:
        added[TIMESTAMP_MS] = str(letter.timestamp_ms)
    if letter.truncated:
        added[TRUNCATED] = letter.truncated
    return [*own, *((name, text.encode(errors="backslashreplace")) for name, text in added.items())]


def class_name(kind: type) -> str:
    """As a traceback names it: with its module, unless it is a builtin."""
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def brief(error: Exception) -> str:
    """An error's message, bounded."""
    text = str(error)
    return text if len(text) <= MESSAGE_BYTES_MAX else text[:MESSAGE_BYTES_MAX] + "…"


def _stacktrace(error: Exception) -> str:
    # Each line is bounded too: a long message must not push out the calls.
    lines = [line[:MESSAGE_BYTES_MAX] for line in traceback.format_exception(error)]
    return "".join(lines)[-STACKTRACE_BYTES_MAX:]


def cut(letter: DeadLetter) -> DeadLetter:
    """The beginning of a letter, with a header that says what it was: for a topic that does not take it whole."""
    sizes = len(letter.value or b""), len(letter.key or b""), _bytes_of(letter.headers)
    return replace(
        letter,
        key=None if letter.key is None else letter.key[:CUT_KEY_BYTES],
        value=None if letter.value is None else letter.value[:CUT_VALUE_BYTES],
        headers=letter.headers if sizes[2] <= CUT_HEADERS_BYTES else [],
        truncated="was larger than the topic takes: value {}, key {}, headers {} bytes".format(*sizes),
    )


def _bytes_of(headers: Headers) -> int:
    return sum(len(name.encode()) + len(value or b"") for name, value in headers)


class DeadLetters:
    """Sends dead letters. Safe to share between threads."""

    def __init__(self, bootstrap: str, taken_within_s: float = TAKEN_WITHIN_S) -> None:
        self._config = producer_config(bootstrap) | {
            "message.max.bytes": DEAD_LETTER_BYTES_MAX,
            "message.timeout.ms": int(taken_within_s * 1000),
        }
        self._taken_within_s = taken_within_s
        self._producer: Producer | None = None
        self._lock = threading.Lock()

    def send(self, letters: Sequence[DeadLetter]) -> None:
        """Returns when the broker has them all, those that are too large cut.

        Raises `KafkaUnavailable`: send them all again then; that doubles a letter at worst.
        """
        with self._lock:
            try:
                too_large = self._send_some(letters)
                if too_large and self._send_some([cut(letter) for letter in too_large]):
                    raise KafkaUnavailable(
                        f"{letters[0].goes_to} does not even take letters cut to {CUT_VALUE_BYTES} "
                        "bytes: raise its max.message.bytes"
                    )
            except BaseException:
                self._drop_producer()
                raise
        for letter in letters:
            metrics.DEAD_LETTERS.labels(letter.topic).inc()

    def _send_some(self, letters: Sequence[DeadLetter]) -> list[DeadLetter]:
        """Returns those that are larger than the topic takes; the others are there."""
        if self._producer is None:
            self._producer = Producer(self._config)
        failed: dict[int, KafkaError] = {}

        def report(number: int, error: KafkaError | None, _: Report) -> None:
            if error is not None:
                failed[number] = error

        deadline_s = time.monotonic() + 2 * self._taken_within_s
        for number, letter in enumerate(letters):
            error = _produce(self._producer, letter, partial(report, number), deadline_s)
            if error is not None:
                failed[number] = error
        left = self._producer.flush(max(deadline_s - time.monotonic(), POLL_S))
        others = [error.str() for error in failed.values() if error.code() != KafkaError.MSG_SIZE_TOO_LARGE]
        if left or others:
            raise KafkaUnavailable(
                f"{letters[0].goes_to} did not take {left + len(others)} of {len(letters)} dead letters "
                f"({others[0] if others else 'no answer'}); is the topic there? `fanfold topics create` makes it"
            )
        return [letters[number] for number in sorted(failed)]

    def _drop_producer(self) -> None:
        """What is still queued must not be sent beside the next try."""
        if self._producer is not None:
            self._producer.purge()
            self._producer.flush(POLL_S)
            self._producer = None


def _produce(producer: Producer, letter: DeadLetter, report: object, deadline_s: float) -> KafkaError | None:
    """Queues a letter; waits while the queue is full: it holds fewer large letters than a batch may have."""
    topic, headers = letter.goes_to, headers_of(letter)
    while True:
        try:
            producer.produce(topic, letter.value, letter.key, headers=headers, on_delivery=report)
            return None
        except KafkaException as error:
            return error.args[0]
        except BufferError as error:
            if time.monotonic() > deadline_s:
                raise KafkaUnavailable(f"{topic} takes no dead letters: {error}") from error
            producer.poll(POLL_S)
