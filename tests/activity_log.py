"""The activity log as a read-committed consumer sees it, from the start of a test."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from confluent_kafka import Consumer, KafkaError, TopicPartition

from infra.events import Activity, decode_activity
from infra.topics import ACTIVITY


@dataclass(frozen=True, slots=True)
class Relayed:
    """A message of the activity log. `event_id` is the outbox row's id, the same when it is sent again."""

    key: bytes
    event: Activity
    headers: dict[str, bytes]

    @property
    def event_id(self) -> int:
        return int(self.headers["ce_id"])


def other_ids(relayed: Iterable[Relayed]) -> list[int]:
    """The tweets that they tell of, or the followers."""
    return [message.event.other_id for message in relayed]


@contextmanager
def reading_from_now(bootstrap: str) -> Iterator[Callable[[], list[Relayed]]]:
    """A function that returns what was committed to the activity log since, in the order of each partition."""
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": "test", "enable.auto.commit": False, "enable.partition.eof": True}
    )
    partitions = range(ACTIVITY.partitions)
    starts = [
        TopicPartition(ACTIVITY.name, one, consumer.get_watermark_offsets(TopicPartition(ACTIVITY.name, one))[1])
        for one in partitions
    ]

    def read() -> list[Relayed]:
        consumer.assign(starts)
        found, open_ = [], set(partitions)
        while open_:
            message = consumer.poll(10)
            assert message is not None, "Kafka did not answer within 10 s"
            if message.error() is None:
                event = decode_activity(message.value())
                found.append(Relayed(message.key(), event, dict(message.headers())))
            elif message.error().code() == KafkaError._PARTITION_EOF:
                open_.discard(message.partition())
        return found

    try:
        yield read
    finally:
        consumer.close()
