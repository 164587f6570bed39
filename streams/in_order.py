"""Faust's Kafka consumer with commits for one actor per partition, which acknowledges in order.

Faust looks for the first run of consecutive offsets among the acknowledged ones. A transactional log has a marker after
each transaction, and Faust gets over one such gap a commit: under load the committed offset falls minutes behind, and a
crash would bring minutes of work again. In order, the newest acknowledged offset says it all.
"""

import asyncio
from collections.abc import Callable
from typing import Any

from faust.transport.drivers.aiokafka import Consumer
from faust.types import TP
from faust.types.tuples import ack_lock

from streams.batches import BATCH_WAIT_S, end_process
from streams.fair_polls import FairConsumerThread


class InOrderConsumer(Consumer):  # type: ignore[misc]
    """Commits after the newest acknowledged message of each partition, and polls them all alike."""

    def __init__(self, *arguments: Any, drop_waiting: Callable[[], None], **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self._drop_waiting = drop_waiting

    def _new_consumer_thread(self) -> FairConsumerThread:
        return FairConsumerThread(self, loop=self.loop, beacon=self.beacon)

    def _new_offset(self, tp: TP) -> int | None:
        with ack_lock:
            acknowledged = self._acked[tp]
            if not acknowledged:
                return None
            newest = int(max(acknowledged))
            acknowledged.clear()
            self._acked_index[tp].clear()
            return newest + 1

    async def wait_empty(self) -> None:
        """Faust waits without limit for the batches at work before it stops or gives partitions back; while it waits
        nobody in the group works. A batch that waits for a server ends the process instead, unacknowledged."""
        self._drop_waiting()
        waiting = asyncio.ensure_future(super().wait_empty())
        done, _ = await asyncio.wait({waiting}, timeout=BATCH_WAIT_S)  # it swallows a cancellation, so wait_for hangs
        if not done:
            end_process("a batch did not end in time for a stop or a rebalance")
        await waiting

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Gaps do not matter here."""
