"""Dead letters: a message that cannot be processed goes to `<topic>.dlq` with its key, value, headers and the reason.

The agent goes on only after the broker has it. Header names are those of Kafka Connect's dead letter queue.
"""

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka import Message as Report

from infra import metrics
from infra.errors import KafkaUnavailable
from infra.kafka import producer_config
from infra.topics import DEAD_LETTER_BYTES_MAX

SEND_TIMEOUT_S = 30.0
MISTAKES_AT_ONCE_MAX = 5
MISTAKES_SHARE_MAX = 0.01
HEADER = "__connect.errors."


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message as it was read, and why it could not be processed."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]
    reason: Exception


def headers_of(letter: DeadLetter) -> list[tuple[str, bytes]]:
    """The message's own headers, then where it was and why it is here."""
    return [
        *letter.headers,
        (HEADER + "topic", letter.topic.encode()),
        (HEADER + "partition", str(letter.partition).encode()),
        (HEADER + "offset", str(letter.offset).encode()),
        (HEADER + "exception.class.name", type(letter.reason).__name__.encode()),
        (HEADER + "exception.message", str(letter.reason).encode()),
    ]


@dataclass(slots=True)
class Mistakes:
    """How many messages of one agent may fail for unforeseen reasons: a few at once, then one in a hundred."""

    handled: int = 0
    made: int = 0

    def allow(self) -> bool:
        """Counts one more. False when it is too many."""
        self.made += 1
        return self.made <= MISTAKES_AT_ONCE_MAX + self.handled * MISTAKES_SHARE_MAX


class DeadLetters:
    """Sends dead letters. Safe to share between threads."""

    def __init__(self, bootstrap: str) -> None:
        self._producer = Producer(producer_config(bootstrap) | {"message.max.bytes": DEAD_LETTER_BYTES_MAX})
        self._lock = threading.Lock()

    def send(self, letters: Sequence[DeadLetter]) -> None:
        """Returns when the broker has them all. Raises `KafkaUnavailable`; sending again doubles a letter at worst."""
        failures: list[KafkaError] = []

        def report(error: KafkaError | None, _: Report) -> None:
            if error is not None:
                failures.append(error)

        with self._lock:
            try:
                for letter in letters:
                    self._producer.produce(
                        f"{letter.topic}.dlq", letter.value, letter.key, headers=headers_of(letter), on_delivery=report
                    )
            except (KafkaException, BufferError) as error:
                raise KafkaUnavailable(f"a dead letter of {letters[0].topic} cannot be sent: {error}") from error
            left = self._producer.flush(SEND_TIMEOUT_S)
        if left or failures:
            reason = failures[0].str() if failures else "time-out"
            raise KafkaUnavailable(
                f"{left + len(failures)} dead letters of {letters[0].topic} were not taken: {reason}"
            )
        for letter in letters:
            metrics.DEAD_LETTERS.labels(letter.topic).inc()
