"""A log of a test's own, with the activity that the test writes there."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from confluent_kafka.admin import AdminClient, NewTopic

from infra.events import Activity, ActivityType, encode_activity
from infra.kafka import Message, TransactionalProducer
from infra.topics import MESSAGE_BYTES_MAX
from tests.waiting import wait_until

PARTITIONS = 4


@dataclass(frozen=True)
class OwnLog:
    """Messages are sent in transactions, as the relay does, each with its marker."""

    bootstrap: str
    topic: str

    def write(self, activities: Sequence[Activity]) -> None:
        """In this order, in one transaction."""
        self.send(
            [
                Message(self.topic, encode_activity(one).encode(), str(one.author_id).encode(), headers=[("own", b"1")])
                for one in activities
            ]
        )

    def send(self, messages: Sequence[Message]) -> None:
        """Whatever it is."""
        producer = TransactionalProducer(self.bootstrap, f"test-{self.topic}")
        producer.send(messages)
        producer.close()


def own_log(bootstrap: str, partitions: int = PARTITIONS, retention_ms: int = -1) -> OwnLog:
    """An empty one."""
    name = f"own-{secrets.token_hex(6)}"
    config = {"max.message.bytes": str(MESSAGE_BYTES_MAX), "retention.ms": str(retention_ms)}
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.create_topics([NewTopic(name, partitions, 1, config=config)])[name].result(20)
    # The broker hears of it a moment after the controller.
    wait_until(lambda: len(admin.list_topics(name, timeout=20).topics[name].partitions) == partitions, "the topic")
    return OwnLog(bootstrap, name)


def posts(author_id: int, tweet_ids: Sequence[int], published_ms: int = 1) -> list[Activity]:
    """An author's posts in this order."""
    return [Activity(ActivityType.POSTED, author_id, tweet_id, published_ms) for tweet_id in tweet_ids]
