"""Batches of one partition: what has come while the last batch was worked on is the next batch.

Faust's own `take()` acknowledges in a `finally`, also when cancelled, and wakes up all the time while nothing comes. So
an agent's stream is read with acknowledgement off, and a batch is acknowledged only after its effect is there. Nothing
escapes an agent: a batch that cannot be finished ends the process, unacknowledged, and is read again. Next: rounds.py.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence

import faust
import structlog

from streams.ending import end_process
from streams.progress import AGENT_OF, PROGRESS
from streams.rounds import Rounds

BATCH_BYTES_MAX = 2 * 1_048_576  # what waits, but for one message: 262,000 follower ids, a second's work at most
# A stop or a revoke waits this long for the batch at work, and for its acknowledgement: below the session of 10 s.
BATCH_WAIT_S = 8.0

log = structlog.get_logger()


async def work_in_batches(stream: faust.StreamT, rounds: Rounds) -> None:
    """Feeds one partition's events to the rounds, in order, one batch at a time; each is acknowledged after its effect.

    A crash before the acknowledgement brings the batch again, unless the round has moved the group itself: what a round
    does is idempotent.
    """
    stream.enable_acks = False
    batches = Batches(stream, rounds)
    rounds.add(batches)
    try:
        async for event in stream.events():
            await batches.put(event)
    finally:
        rounds.discard(batches)
        await batches.finish()


class Batches:
    """What waits in one partition, what of it is worked on, and what is done and not acknowledged yet. The last is
    bounded by time: each batch waits for a bounded number of seconds, and those behind it no longer than that."""

    def __init__(self, stream: faust.StreamT, rounds: Rounds) -> None:
        self.at_work = False
        self.waiting_bytes = 0
        self._stream = stream
        self._rounds = rounds
        self._waiting: list[faust.EventT] = []
        self._dropped_generation = -1  # what comes of it is not taken: what came before it was dropped
        self._changed = asyncio.Event()
        self._settling: deque[tuple[float, Sequence[faust.EventT]]] = deque()  # and when each may be acknowledged
        self._settler: asyncio.Task[None] | None = None

    @property
    def since(self) -> float | None:
        """The time of the oldest message that waits."""
        return self._waiting[0].message.timestamp if self._waiting else None

    async def put(self, event: faust.EventT) -> None:
        """Takes one event more; waits while too much waits."""
        message = event.message
        await self._until(
            lambda: len(self._waiting) < self._rounds.limits.messages_max and self.waiting_bytes < BATCH_BYTES_MAX
        )
        if message.generation_id <= self._dropped_generation:
            return
        self._waiting.append(event)
        self.waiting_bytes += len(message.value or b"")
        if not self.at_work:
            PROGRESS.line_up((AGENT_OF[message.topic], message.partition))
        self._rounds.came(at_work=self.at_work)

    def newest_of(self, count: int) -> float | None:
        """The time of the newest message that waits, when at least so many do."""
        return self._waiting[-1].message.timestamp if len(self._waiting) >= max(count, 1) else None

    def take(self, until: float) -> Sequence[faust.EventT]:
        """What waits, up to the first newer message, is the next batch, and at work until it is acknowledged."""
        newer = (place for place, event in enumerate(self._waiting) if event.message.timestamp > until)
        batch = self._drop(next(newer, len(self._waiting)))
        self.at_work = True
        return batch

    async def acknowledge(self, batch: Sequence[faust.EventT], after_s: float = 0.0) -> None:
        """The batch's effect is there, and the next one may be worked on. It is acknowledged after so many seconds, in
        order: an acknowledgement holds for all that is before it. A crash just before brings it again, and what was
        done behind it; just after, only what is behind it."""
        if after_s <= 0 and not self._settling:
            await self._acknowledge(batch)
        else:
            self._settling.append((asyncio.get_running_loop().time() + after_s, batch))
            self._settler = self._settler or asyncio.create_task(self._settle())
        self.at_work = False
        self._changed.set()

    async def wait_settled(self) -> None:
        """Returns when nothing waits to be acknowledged."""
        await self._until(lambda: not self._settling)

    def drop_waiting(self, generation: int) -> None:
        """Before a stop or a rebalance: only the batch at work is ended. What waits is read again, and nothing more is
        taken of this generation: that would commit past it."""
        self._dropped_generation = generation
        self._drop(len(self._waiting))

    async def finish(self) -> None:
        """Lets the batch at work end and be acknowledged, whatever cancels us meanwhile; ends the process when it
        can't."""
        deadline = asyncio.get_running_loop().time() + BATCH_WAIT_S
        while self._is_busy():
            left_s = deadline - asyncio.get_running_loop().time()
            if left_s <= 0:
                end_process("a batch did not end in time for a stop or a rebalance")
            try:
                await asyncio.wait({asyncio.ensure_future(self._until(lambda: not self._is_busy()))}, timeout=left_s)
            except asyncio.CancelledError:
                continue  # being cancelled twice must not acknowledge half a batch

    def _is_busy(self) -> bool:
        return self.at_work or bool(self._settling)

    async def _settle(self) -> None:
        try:
            while self._settling:
                due_s, batch = self._settling[0]
                await asyncio.sleep(due_s - asyncio.get_running_loop().time())
                await self._acknowledge(batch)
                self._settling.popleft()
        except Exception:
            log.exception("acknowledging failed")
            end_process("what was done could not be acknowledged")
        self._settler = None
        self._changed.set()

    async def _acknowledge(self, batch: Sequence[faust.EventT]) -> None:
        for event in batch:
            await self._stream.ack(event)

    def _drop(self, count: int) -> Sequence[faust.EventT]:
        """The first messages that wait, which do so no more."""
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        self.waiting_bytes -= sum(len(event.message.value or b"") for event in batch)
        self._changed.set()
        return batch

    async def _until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            self._changed.clear()
            await self._changed.wait()
