"""Polls that take from every partition in turn, and jump over nothing.

The Kafka client under Faust empties what it fetched of one partition before it looks at the next. Under a backlog one
activity partition would run thousands of events ahead of the others, and most entries would come out of order.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from aiokafka.errors import NoOffsetForPartitionError, OffsetOutOfRangeError
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread
from faust.types import TP

# One fetch is under way at a time, and it leaves out partitions whose last messages still wait to be taken. Their next
# messages wait for its end: for 1.5 s when nothing else comes, if Faust had its way.
FETCH_WAIT_MS = 25
# More than the marker of a transaction (78 bytes), less than the smallest message: a marker alone wakes nobody.
FETCH_BYTES_MIN = 100

Records = Mapping[TP, Sequence[Any]]


class FairConsumerThread(AIOKafkaConsumerThread):  # type: ignore[misc]
    """Faust's consumer thread, with a poll that looks at each partition for itself first."""

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_max_wait_ms = FETCH_WAIT_MS  # noqa: SLF001 - Faust has no setting for it
        consumer._fetch_min_bytes = FETCH_BYTES_MIN  # noqa: SLF001
        return consumer

    async def _fetch_records(
        self,
        consumer: Any,
        active_partitions: set[TP] | None,
        timeout: float | None = None,  # noqa: ASYNC109 - the overridden method has it
        max_records: int | None = None,
    ) -> Records:
        found: dict[TP, Sequence[Any]] = {}
        fetched = consumer._fetcher._records  # noqa: SLF001 - what the client has of each partition
        for partition in [one for one in fetched if active_partitions is None or one in active_partitions]:
            found |= await self._fetch(consumer, {partition}, 0, max_records)
        return found or await self._fetch(consumer, active_partitions, timeout, max_records)

    async def _fetch(
        self,
        consumer: Any,
        partitions: set[TP] | None,
        timeout: float | None,  # noqa: ASYNC109 - as above
        max_records: int | None,
    ) -> Records:
        """A partition whose next offset Kafka does not have is never read from another one without a word."""
        try:
            found: Records = await super()._fetch_records(consumer, partitions, timeout, max_records)
        except OffsetOutOfRangeError as error:
            await self.go_on(consumer, next(iter(error.args[0])))
            return {}
        except NoOffsetForPartitionError as error:
            await self.go_on(consumer, error.args[0])
            return {}
        return found

    async def go_on(self, consumer: Any, partition: TP) -> None:
        """Sets where the partition is read on, or ends the process."""
        raise NotImplementedError
