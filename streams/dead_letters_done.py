"""Which dead letters are done with: redriven or dropped. Kafka takes no single message out of a topic, so they are
written down in a topic of its own, in the transaction that redrives them.

A letter's name is its topic, Kafka's id of that (a topic that was made anew has other letters at the same offsets) and
its offset. Next: redrive.py, which writes it.
"""

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from confluent_kafka import Consumer, KafkaException, TopicPartition

from infra.errors import KafkaUnavailable, NotFound
from infra.kafka import GROUP, Message
from infra.kafka_logs import PARTITION_END, admin_client, ids_by_name
from infra.topics import DEAD_LETTERS_DONE
from streams.read_dead_letters import ANSWER_WITHIN_S, NO_TOPIC, no_topic

READ_MESSAGES_MAX = 10_000  # of one call; some 60 bytes each
PARTITION = 0  # the only one


class Outcome(StrEnum):
    """What was done with a letter."""

    REDRIVEN = "redriven"
    DROPPED = "dropped"


@dataclass(frozen=True, slots=True)
class Done:
    """What became of a letter, and when."""

    outcome: Outcome
    at_ms: int


class DoneLetters:
    """The letters that were done with when this was made. Raises `KafkaUnavailable`."""

    def __init__(self, bootstrap: str, topics: Iterable[str]) -> None:
        self._ids = _ids(bootstrap, list(topics))
        found = _read(bootstrap)
        self._of = {topic: _offsets_of(topic, topic_id, found) for topic, topic_id in self._ids.items()}

    def of(self, topic: str) -> Mapping[int, Done]:
        """The done ones of a topic of dead letters, by their offsets."""
        return self._of[topic]

    def note(self, topic: str, offset: int, outcome: Outcome, now_ms: int) -> Message:
        """The message that says so, for the transaction of what it is about."""
        value = json.dumps({"outcome": outcome, "at_ms": now_ms}, separators=(",", ":"))
        return Message(DEAD_LETTERS_DONE, value.encode(), _name(topic, self._ids[topic], offset))

    def forget(self, topic: str, first_kept: int) -> list[Message]:
        """The messages that remove what is said of letters below this offset, which are past their retention."""
        gone = [offset for offset in self._of[topic] if offset < first_kept]
        return [Message(DEAD_LETTERS_DONE, None, _name(topic, self._ids[topic], offset)) for offset in gone]


def _name(topic: str, topic_id: str, offset: int) -> bytes:
    return f"{topic}/{topic_id}/{offset}".encode()


def _offsets_of(topic: str, topic_id: str, found: Mapping[bytes, Done]) -> dict[int, Done]:
    start = f"{topic}/{topic_id}/".encode()
    return {int(name[len(start) :]): done for name, done in found.items() if name.startswith(start)}


def _ids(bootstrap: str, topics: list[str]) -> dict[str, str]:
    try:
        return ids_by_name(admin_client(bootstrap, ANSWER_WITHIN_S), topics, ANSWER_WITHIN_S)
    except KafkaException as error:
        if error.args[0].code() in NO_TOPIC:
            raise NotFound(no_topic(topics)) from error
        raise KafkaUnavailable(f"Kafka at {bootstrap} does not answer: {error.args[0].str()}") from error


def _read(bootstrap: str) -> dict[bytes, Done]:
    """Everything that the topic says, by name; nothing when it was not made yet: then no letter was done."""
    found: dict[bytes, Done] = {}
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": f"{GROUP}-dead-letters",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
            "log_level": 0,
        }
    )
    try:
        consumer.assign([TopicPartition(DEAD_LETTERS_DONE, PARTITION, 0)])
        while _take(consumer, found, bootstrap):
            continue
    finally:
        consumer.close()
    return found


def _take(consumer: Consumer, found: dict[bytes, Done], bootstrap: str) -> bool:
    """Reads some; False at the end of the topic."""
    deadline_s = time.monotonic() + ANSWER_WITHIN_S
    while not (messages := consumer.consume(READ_MESSAGES_MAX, 0.2)):
        if time.monotonic() > deadline_s:
            raise KafkaUnavailable(f"Kafka at {bootstrap} did not hand over {DEAD_LETTERS_DONE} in time: try again")
    for message in messages:
        error = message.error()
        if error is not None and (error.code() == PARTITION_END or error.code() in NO_TOPIC):
            return False
        if error is not None:
            raise KafkaUnavailable(f"Kafka at {bootstrap} did not hand over {DEAD_LETTERS_DONE}: {error.str()}")
        if message.value() is None:
            found.pop(message.key(), None)
        else:
            value = json.loads(message.value())
            found[message.key()] = Done(Outcome(value["outcome"]), int(value["at_ms"]))
    return True
