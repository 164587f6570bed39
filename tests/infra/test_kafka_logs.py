"""Ends of the logs: a time-out is no offset, and a client that failed is replaced."""

from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any, cast

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from infra import kafka_logs
from infra.kafka_logs import Overview, end_offsets
from infra.topics import DELIVERIES, LOGS_OF_WORKERS

TIMED_OUT = -1001  # what librdkafka answers for a partition whose leader did not answer in time


class Admin:
    """An admin client whose answer the test chooses."""

    def __init__(self, answer: int | KafkaException) -> None:
        self.answer = answer
        self.knows_leaders = False

    def list_topics(self, **_: Any) -> None:
        self.knows_leaders = True

    def list_offsets(self, wanted: dict[TopicPartition, Any], **_: Any) -> dict[TopicPartition, "Future[Any]"]:
        futures: dict[TopicPartition, Future[Any]] = {place: Future() for place in wanted}
        for future in futures.values():
            if isinstance(self.answer, KafkaException):
                future.set_exception(self.answer)
            else:
                future.set_result(SimpleNamespace(offset=self.answer))
        return futures


REFUSED = KafkaException(KafkaError(KafkaError.FENCED_LEADER_EPOCH))


def test_ends_are_in_the_order_of_the_partitions() -> None:
    assert end_offsets(cast(AdminClient, Admin(7)), DELIVERIES) == [7] * DELIVERIES.partitions


@pytest.mark.parametrize("answer", [TIMED_OUT, REFUSED])
def test_a_time_out_is_never_taken_for_an_end(answer: int | KafkaException) -> None:
    with pytest.raises(KafkaException):
        end_offsets(cast(AdminClient, Admin(answer)), DELIVERIES)


@pytest.mark.parametrize("answer", [TIMED_OUT, REFUSED])
def test_a_client_that_failed_is_replaced(monkeypatch: pytest.MonkeyPatch, answer: int | KafkaException) -> None:
    replaced = Admin(7)
    clients = iter([Admin(answer), replaced])
    monkeypatch.setattr(kafka_logs, "AdminClient", lambda _: next(clients))
    kafka_of = Overview("nobody:1")

    assert kafka_of.ends() is None
    found = kafka_of.ends()

    assert found is not None
    assert len(found) == sum(topic.partitions for topic in LOGS_OF_WORKERS)
    assert set(found.values()) == {7}
    assert replaced.knows_leaders, "one that does not know them yet may miss the answer that names them"
    assert kafka_of.ends() == found, "a client that answers is kept"
