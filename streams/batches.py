"""Batches of one partition: what has come while the last batch was worked on is the next batch.

Faust's own `take()` acknowledges in a `finally`, also when cancelled, and wakes up all the time while nothing comes. So
an agent's stream is read with acknowledgement off, and a batch is acknowledged only after its effect is there. Nothing
escapes an agent: a batch that cannot be finished ends the process, unacknowledged, and is read again.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import NoReturn

import faust
import structlog

BATCH_MESSAGES_MAX = 200  # messages of one batch; a delivery message is itself bounded
BATCH_WAIT_S = 8.0  # a stop or a revoke waits this long for the batch at work: below the session of 10 s
EXIT_UNFINISHED = 75  # EX_TEMPFAIL: start me again

log = structlog.get_logger()

Process = Callable[[Sequence[faust.EventT]], Awaitable[None]]


async def work_in_batches(stream: faust.StreamT, process: Process) -> None:
    """Feeds one partition's events to `process`, in order, one batch at a time, and acknowledges each batch after it.

    A crash before the acknowledgement brings the batch again: `process` is idempotent.
    """
    stream.enable_acks = False
    batches = _Batches(stream, process)
    worker = asyncio.create_task(batches.work())
    try:
        async for event in stream.events():
            await batches.put(event)
    finally:
        await batches.finish(worker)


class _Batches:
    def __init__(self, stream: faust.StreamT, process: Process) -> None:
        self._stream = stream
        self._process = process
        self._waiting: list[faust.EventT] = []
        self._changed = asyncio.Condition()
        self._closed = False

    async def put(self, event: faust.EventT) -> None:
        async with self._changed:
            while len(self._waiting) >= BATCH_MESSAGES_MAX:
                await self._changed.wait()
            self._waiting.append(event)
            self._changed.notify_all()

    async def work(self) -> None:
        try:
            while batch := await self._next_batch():
                await self._process(batch)
                for event in batch:
                    await self._stream.ack(event)
        except Exception:
            log.exception("batch failed")
            end_process("a batch failed for a reason that no retry can mend")

    async def _next_batch(self) -> list[faust.EventT]:
        async with self._changed:
            while not self._waiting and not self._closed:
                await self._changed.wait()
            batch, self._waiting = self._waiting, []
            self._changed.notify_all()
            return batch

    async def finish(self, worker: "asyncio.Task[None]") -> None:
        """Lets the worker end what was taken, whatever cancels us meanwhile; ends the process when it can't."""
        self._closed = True
        deadline = asyncio.get_running_loop().time() + BATCH_WAIT_S
        while not worker.done():
            left_s = deadline - asyncio.get_running_loop().time()
            if left_s <= 0:
                end_process("a batch did not end in time for a stop or a rebalance")
            try:
                async with self._changed:
                    self._changed.notify_all()
                await asyncio.wait({worker}, timeout=left_s)
            except asyncio.CancelledError:
                continue  # being cancelled twice must not acknowledge half a batch


def end_process(reason: str, code: int = EXIT_UNFINISHED) -> NoReturn:
    """Ends this process at once: cancelling the app instead would commit what is not done."""
    log.error("worker ends", reason=reason)
    os._exit(code)
