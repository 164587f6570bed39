"""Reading both logs for folding: from given offsets, without a consumer group, since PostgreSQL has the offsets.

What was committed only. An offset that the log does not have, or a topic that is gone, is an error and never a silent
jump: fold_start.py then compares anew.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from infra.errors import KafkaUnavailable
from infra.kafka_logs import PARTITION_END, Overview, kafka_errors
from streams.fold import FOLDED, Place

BATCH_MESSAGES_MAX = 1_000  # of one fold: some 50 ms, and at most 20 ms of a node's time
QUEUED_KB_MAX = 8_192  # read ahead: some twenty folds
# A fold waits so long for more: a like is in the database after 0.3 s, in four transactions a second.
FOLD_EVERY_S = 0.25
LOOK_EVERY_S = 5.0  # at the ends, to see that Kafka answers
# What a client mends by itself; everything else makes it start again.
PASSING = (KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT, KafkaError._RESOLVE)  # noqa: SLF001


@dataclass(slots=True)
class Positions:
    """How far each partition was read, transaction markers included, and where it ends."""

    read: dict[Place, int]
    ends: dict[Place, int] = field(default_factory=dict)

    def lag(self, topic: str) -> int:
        """Offsets of a topic that were not read yet."""
        return sum(max(end - self.read[place], 0) for place, end in self.ends.items() if place[0] == topic)


class FoldedLogs:
    """A reader of both logs. Not safe for several threads; close it once. Raises `KafkaUnavailable`."""

    def __init__(
        self, bootstrap: str, next_offsets: Mapping[Place, int], clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self.positions = Positions(dict(next_offsets))
        self._clock_s = clock_s
        self._looked_s = -LOOK_EVERY_S
        self._bootstrap = bootstrap
        self._overview = Overview(bootstrap, FOLDED)
        self._consumer = Consumer(
            {
                "bootstrap.servers": bootstrap,
                "group.id": "fanfold-counters",  # librdkafka wants one; nothing is committed to it
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "isolation.level": "read_committed",
                "auto.offset.reset": "error",
                "queued.max.messages.kbytes": QUEUED_KB_MAX,
                "log_level": 4,  # warnings
            }
        )
        with kafka_errors(self._bootstrap):
            self._consumer.assign([TopicPartition(*place, offset) for place, offset in next_offsets.items()])

    def read(self) -> list[Message]:
        """The next messages, at most `BATCH_MESSAGES_MAX`; fewer after `FOLD_EVERY_S`, if need be none."""
        with kafka_errors(self._bootstrap):
            self._look()
            found = self._consumer.consume(BATCH_MESSAGES_MAX, FOLD_EVERY_S)
        messages = []
        for message in found:
            error = message.error()
            if error is None:
                messages.append(message)
            elif error.code() != PARTITION_END:
                self._judge(error)
                continue
            place = message.topic(), message.partition()
            self.positions.read[place] = message.offset() + (error is None)
        return messages

    def close(self) -> None:
        """Ends the client."""
        self._consumer.close()

    def _look(self) -> None:
        if self._clock_s() - self._looked_s < LOOK_EVERY_S:
            return
        ends = self._overview.ends()  # asked apart from the consumer, whose questions wait for its long polls
        if ends is None:
            raise KafkaUnavailable(f"Kafka at {self._bootstrap} does not say where its logs end")
        self.positions.ends = ends
        self._looked_s = self._clock_s()

    def _judge(self, error: KafkaError) -> None:
        if error.code() not in PASSING and not error.retriable():
            raise KafkaUnavailable(f"the logs cannot be read on: {error.str()}")
