"""Polls that take from every partition in turn.

The Kafka client under Faust empties what it fetched of one partition before it looks at the next. Under a backlog one
activity partition would run thousands of events ahead of the others, and most entries would come out of order.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread
from faust.types import TP

Records = Mapping[TP, Sequence[Any]]


class FairConsumerThread(AIOKafkaConsumerThread):  # type: ignore[misc]
    """Faust's consumer thread, with a poll that looks at each partition for itself first."""

    async def _fetch_records(
        self,
        consumer: Any,
        active_partitions: set[TP] | None,
        timeout: float | None = None,  # noqa: ASYNC109 - the overridden method has it
        max_records: int | None = None,
    ) -> Records:
        found: dict[TP, Sequence[Any]] = {}
        for partition in active_partitions or ():
            found |= await super()._fetch_records(consumer, {partition}, 0, max_records)
        return found or await super()._fetch_records(consumer, active_partitions, timeout, max_records)
