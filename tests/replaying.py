"""Replays in a test: topics of their own, runs to the end, and what was sent."""

import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from confluent_kafka import Consumer, KafkaError, TopicPartition
from confluent_kafka.admin import AdminClient

from infra.composition import Stores
from infra.events import Activity, ActivityType, decode_activity, encode_activity
from infra.kafka import Message, TransactionalProducer
from infra.lease import Lease
from infra.leases import lease
from infra.replay import Run
from infra.replay_jobs import Job, Jobs, Plan, State, lease_of
from infra.replay_plan import plan_of, read_log_range, total_of
from infra.replay_what import What
from infra.topics import ACTIVITY, create_backfill_topic

POSTED, DELETED = ActivityType.POSTED, ActivityType.DELETED
RATE = 100_000

Sent = tuple[ActivityType, int, int]


class Ground:
    """The servers, and topics that go at the end."""

    def __init__(self, stores: Stores, bootstrap: str) -> None:
        self.stores = stores
        self.bootstrap = bootstrap
        self.jobs = Jobs(stores.zookeeper)
        self.topics: list[str] = []

    def close(self) -> None:
        """Its topics go."""
        if self.topics:
            AdminClient({"bootstrap.servers": self.bootstrap}).delete_topics(self.topics)

    def topic(self) -> str:
        """A new one for a new reader."""
        self.topics.append(f"backfill-{secrets.token_hex(4)}")
        assert create_backfill_topic(self.bootstrap, self.topics[-1])
        return self.topics[-1]

    def plan(self, what: What) -> Plan:
        return plan_of(self.stores.engine, self.bootstrap, what, time.time_ns() // 1_000_000)

    def create(self, what: What) -> Job:
        plan = self.plan(what)
        return self.jobs.create(what, plan, RATE, total_of(self.stores.engine, plan))

    def run(self, job: Job, stop: threading.Event | None = None) -> Job:
        """To its end, in this process."""
        with lease(self.stores.zookeeper, lease_of(job.id)) as held:
            return self.runner(job, held, stop).run()

    def runner(self, job: Job, held: Lease, stop: threading.Event | None = None) -> Run:
        return Run(self.stores, self.bootstrap, job, held, stop or threading.Event())

    def replayed(self, what: What) -> list[Sent]:
        """What a replay into a topic of its own sends, in the order of each partition."""
        what = replace(what, topic=self.topic())
        done = self.run(self.create(what))
        assert done.state is State.DONE
        sent = self.read(what.topic or "")
        assert done.counts.sent == len(sent)
        return [of(event) for event, _ in sent]

    def read(self, topic: str, starts: Sequence[int] | None = None) -> list[tuple[Activity, dict[str, bytes]]]:
        """What a topic has, committed, from these offsets on."""
        partitions = range(ACTIVITY.partitions)
        with self._consumer() as consumer:
            places = [TopicPartition(topic, one, starts[one] if starts else 0) for one in partitions]
            consumer.assign(places)
            found, open_ = [], set(partitions)
            while open_:
                message = consumer.poll(10)
                assert message is not None, "Kafka did not answer within 10 s"
                if message.error() is None:
                    found.append((decode_activity(message.value()), dict(message.headers() or [])))
                    assert message.key() == b"%d" % found[-1][0].author_id
                elif message.error().code() == KafkaError._PARTITION_EOF:
                    open_.discard(message.partition())
            return found

    def log(self) -> dict[int, int]:
        """Where the activity log ends."""
        return dict(read_log_range(AdminClient({"bootstrap.servers": self.bootstrap}), self.bootstrap).ends)

    def publish(self, events: Sequence[Activity], headers: Sequence[tuple[str, bytes]] = ()) -> None:
        """As a relay sends them."""
        producer = TransactionalProducer(self.bootstrap, f"test-{secrets.token_hex(4)}")
        producer.send(
            Message(ACTIVITY.name, encode_activity(one).encode(), b"%d" % one.author_id, headers=headers)
            for one in events
        )
        producer.close()

    @contextmanager
    def _consumer(self) -> Iterator[Consumer]:
        consumer = Consumer(
            {
                "bootstrap.servers": self.bootstrap,
                "group.id": "test",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
            }
        )
        try:
            yield consumer
        finally:
            consumer.close()


def of(event: Activity) -> Sent:
    return event.type, event.author_id, event.other_id
