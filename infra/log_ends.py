"""Where the partitions of a topic end, asked of Kafka by a client of its own."""

import threading
from collections.abc import Iterable

from confluent_kafka import IsolationLevel, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from infra.errors import KafkaUnavailable
from infra.kafka_logs import admin_client

ANSWER_WITHIN_S = 5.0


class PartitionEnds:
    """Safe to share between threads. Connects when it is first asked; after a failure the client is made anew, since
    one that was refused for the leader's epoch, as after a broker froze, never asks for the new one."""

    def __init__(self, bootstrap: str) -> None:
        self._bootstrap = bootstrap
        self._lock = threading.Lock()
        self._admin: AdminClient | None = None

    def of(self, topic: str, partitions: Iterable[int]) -> dict[int, int]:
        """Behind the last message of each of which it is known whether it counts. Raises `KafkaUnavailable`."""
        wanted = {TopicPartition(topic, partition): OffsetSpec.latest() for partition in partitions}
        with self._lock:
            try:
                if self._admin is None:  # a client with nothing under way is false
                    self._admin = admin_client(self._bootstrap, ANSWER_WITHIN_S)
                futures = self._admin.list_offsets(
                    wanted, isolation_level=IsolationLevel.READ_COMMITTED, request_timeout=ANSWER_WITHIN_S
                )
                ends = {place.partition: int(future.result().offset) for place, future in futures.items()}
                if any(end < 0 for end in ends.values()):  # so librdkafka reports a time-out
                    raise KafkaException(KafkaError(KafkaError._TIMED_OUT))  # noqa: SLF001
                return ends
            except KafkaException as error:
                self._admin = None
                raise KafkaUnavailable(
                    f"Kafka at {self._bootstrap} does not say where {topic} ends: {error.args[0].str()}"
                ) from error
