"""Batches of one partition: what has come while the last batch was worked on is the next batch.

Faust's own `take()` acknowledges in a `finally`, also when cancelled, and wakes up all the time while nothing comes. So
an agent's stream is read with acknowledgement off, and a batch is acknowledged only after its effect is there. Nothing
escapes an agent: a batch that cannot be finished ends the process, unacknowledged, and is read again.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import NoReturn
from weakref import WeakSet

import faust
import structlog

from streams.progress import AGENT_OF, PROGRESS
from streams.turns import Turns

BATCH_MESSAGES_MAX = 1_000  # what waits for the next batch: of activity, 0.3 s of work that shares a transaction
BATCH_BYTES_MAX = 2 * 1_048_576  # what waits, but for one message: 262,000 follower ids, a second's work at most
BATCH_WAIT_S = 8.0  # a stop or a revoke waits this long for the batch at work: below the session of 10 s
EXIT_UNFINISHED = 75  # EX_TEMPFAIL: start me again

log = structlog.get_logger()

Process = Callable[[Sequence[faust.EventT]], Awaitable[None]]


class Partitions:
    """The batches of all partitions that one process works on."""

    def __init__(self) -> None:
        self._batches: WeakSet[_Batches] = WeakSet()

    def add(self, batches: "_Batches") -> None:
        """One partition more; it is forgotten when its agent is."""
        self._batches.add(batches)

    def drop_waiting(self) -> None:
        """Before a stop or a rebalance: only batches at work are ended, what waits for the next ones is read again."""
        for batches in list(self._batches):
            batches.drop_waiting()


async def work_in_batches(stream: faust.StreamT, partitions: Partitions, turns: Turns, process: Process) -> None:
    """Feeds one partition's events to `process`, in order, one batch a turn, and acknowledges each batch after it.

    A crash before the acknowledgement brings the batch again: `process` is idempotent.
    """
    stream.enable_acks = False
    batches = _Batches(stream, turns, process)
    partitions.add(batches)
    worker = asyncio.create_task(batches.work())
    try:
        async for event in stream.events():
            await batches.put(event)
    finally:
        await batches.finish(worker)


def size_of(event: faust.EventT) -> int:
    """Bytes of its value."""
    return len(event.message.value or b"")


class _Batches:
    def __init__(self, stream: faust.StreamT, turns: Turns, process: Process) -> None:
        self._stream = stream
        self._turns = turns
        self._process = process
        self._waiting: list[faust.EventT] = []
        self._waiting_bytes = 0
        self._newest_generation = -1
        self._dropped_generation = -1  # what comes of it is not taken: what came before it was dropped
        self._changed = asyncio.Event()
        self._closed = False

    async def put(self, event: faust.EventT) -> None:
        self._newest_generation = max(self._newest_generation, event.message.generation_id)
        await self._until(lambda: len(self._waiting) < BATCH_MESSAGES_MAX and self._waiting_bytes < BATCH_BYTES_MAX)
        if event.message.generation_id <= self._dropped_generation:
            return
        self._waiting.append(event)
        self._waiting_bytes += size_of(event)
        self._changed.set()

    def drop_waiting(self) -> None:
        self._dropped_generation = self._newest_generation
        self._take()

    async def work(self) -> None:
        try:
            while await self._some_wait():
                first = self._waiting[0].message
                PROGRESS.line_up((AGENT_OF[first.topic], first.partition))
                async with self._turns.take(first.timestamp):
                    batch = self._take()  # as late as possible: what came while it waited is in it
                    await self._process(batch)
                for event in batch:
                    await self._stream.ack(event)
        except Exception:
            log.exception("batch failed")
            end_process("a batch failed for a reason that no retry can mend")

    async def _some_wait(self) -> bool:
        """False when the agent ends: what waits then is read again."""
        await self._until(lambda: bool(self._waiting) or self._closed)
        return not self._closed

    def _take(self) -> list[faust.EventT]:
        """What waits; nothing when it was dropped meanwhile."""
        batch, self._waiting, self._waiting_bytes = self._waiting, [], 0
        self._changed.set()
        return batch

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    async def finish(self, worker: "asyncio.Task[None]") -> None:
        """Lets the worker end what was taken, whatever cancels us meanwhile; ends the process when it can't."""
        self._closed = True
        self._changed.set()
        deadline = asyncio.get_running_loop().time() + BATCH_WAIT_S
        while not worker.done():
            left_s = deadline - asyncio.get_running_loop().time()
            if left_s <= 0:
                end_process("a batch did not end in time for a stop or a rebalance")
            try:
                await asyncio.wait({worker}, timeout=left_s)
            except asyncio.CancelledError:
                continue  # being cancelled twice must not acknowledge half a batch


def end_process(reason: str, code: int = EXIT_UNFINISHED) -> NoReturn:
    """Ends this process at once: cancelling the app instead would commit what is not done."""
    log.error("worker ends", reason=reason)
    os._exit(code)
