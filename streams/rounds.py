"""Rounds: few of them work at the same time, each on what waits in one or several partitions, the oldest first.

More at once would only queue at the same servers, and partitions that drift apart under a backlog make entries come out
of order. When little waits, one round takes all of it: threads and event loop are woken once, not for each partition.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import faust
import structlog

from streams.ending import end_process

BATCH_MESSAGES_MAX = 1_000  # what waits of one partition for the next round
LINGER_MESSAGES_MAX = 64  # with so many a round starts: one more would make little of a difference
RATE_OVER_S = 0.5  # for which messages count in the rate at which they come
ROUND_BYTES_MAX = 2 * 1_048_576  # 262,000 follower ids, a second's work at most

log = structlog.get_logger()

Batch = Sequence[faust.EventT]
# Returns when the effect of the batches is there, with the seconds that each is to be acknowledged after.
Process = Callable[[Sequence[Batch]], Awaitable[Sequence[float]]]


class Waiting(Protocol):
    """What waits in one partition."""

    at_work: bool  # a partition is in one round at a time: its order is the log's
    waiting_bytes: int  # of all that waits

    @property
    def since(self) -> float | None:
        """The time of the oldest message that waits; None when nothing does."""

    def newest_of(self, count: int) -> float | None:
        """The time of the newest message that waits; None when fewer than so many do."""

    def take(self, until: float) -> Batch:
        """What waits, up to the first message that is newer than this time; it is at work then."""

    async def acknowledge(self, batch: Batch, after_s: float) -> None:
        """Its effect is there; it is no longer at work, and is acknowledged after so many seconds."""

    async def wait_settled(self) -> None:
        """Returns when all that is no longer at work is acknowledged."""

    def drop_waiting(self, generation: int) -> None:
        """Forgets what waits, and what still comes of this generation: it will be read again."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How many rounds work at the same time; on how many partitions each, with how many messages of each; and how much
    has to wait for another one to start beside those at work: with less it is cheaper to wait for their end, and for
    what comes until then. No round goes beyond the newest message of a partition in which at least `level_from` wait,
    since more of that time is to come in it; 0: however far apart partitions drift. A round starts `linger_s` after the
    first message that it takes, if as many others as `linger_from` are expected by then, at the rate of late; else, or
    with 0 s, at once."""

    at_once: int
    partitions: int
    messages_max: int = BATCH_MESSAGES_MAX
    beside_bytes_min: int = 0
    level_from: int = 0
    linger_s: float = 0.0
    linger_from: float = 1.0


class Linger:
    """When the next round may start. By one clock, in seconds."""

    def __init__(self, linger_s: float, linger_from: float = 1.0) -> None:
        self._linger_s = linger_s
        self._linger_from = linger_from
        self._count = 0.0  # of messages, each less by the time that it is ago
        self._counted_s = 0.0
        self._first_s: float | None = None
        self._came = 0

    def came(self, now_s: float) -> None:
        """One message more waits."""
        self._count = self._faded(now_s) + 1.0
        self._counted_s = now_s
        self._first_s = now_s if self._first_s is None else self._first_s
        self._came += 1

    def left_s(self, now_s: float) -> float:
        """For how long a round is still to wait for what comes."""
        if self._first_s is None or self.has_enough:
            return 0.0
        expected = self._faded(now_s) / RATE_OVER_S * self._linger_s
        return max(self._first_s + self._linger_s - now_s, 0.0) if expected >= self._linger_from else 0.0

    @property
    def has_enough(self) -> bool:
        """Whether a round need not wait any more, however soon others come."""
        return self._came >= LINGER_MESSAGES_MAX

    def started(self) -> None:
        """A round has taken what waited: the next one waits for what comes from now on."""
        self._first_s, self._came = None, 0

    def _faded(self, now_s: float) -> float:
        return self._count * math.exp((self._counted_s - now_s) / RATE_OVER_S)


class Rounds:
    """The rounds of one agent in one process. For one event loop."""

    def __init__(self, limits: Limits, process: Process) -> None:
        self.limits = limits
        self._process = process
        self._partitions: set[Waiting] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._next: asyncio.Handle | None = None  # the look whether a round starts, soon or after a while
        self._linger = Linger(limits.linger_s, limits.linger_from)

    def add(self, partition: Waiting) -> None:
        """Looks after one partition more."""
        self._partitions.add(partition)

    def discard(self, partition: Waiting) -> None:
        """Takes nothing more of it."""
        self._partitions.discard(partition)

    def drop_waiting(self, generation: int) -> None:
        """Before a stop or a rebalance: only rounds at work are ended, what waits is read again."""
        for partition in list(self._partitions):
            partition.drop_waiting(generation)

    async def wait_idle(self) -> None:
        """Returns when no round is at work, and what they did is acknowledged."""
        while self._tasks:
            await asyncio.wait(self._tasks)
        for partition in list(self._partitions):
            await partition.wait_settled()

    def came(self, *, at_work: bool) -> None:
        """To be called for each message; `at_work`: of a partition whose next round cannot start yet."""
        self._linger.came(asyncio.get_running_loop().time())
        if self._linger.has_enough and isinstance(self._next, asyncio.TimerHandle):
            self._next.cancel()
            self._next = None
            self.kick()
        elif not at_work:
            self.kick()

    def kick(self) -> None:
        """To be called when more waits: a round starts if one is free, once the event loop has been around. So what one
        fetch brought of several partitions is one round's."""
        if self._next is None:
            self._next = asyncio.get_running_loop().call_soon(self._start)

    def _start(self) -> None:
        loop, self._next = asyncio.get_running_loop(), None
        while len(self._tasks) < self.limits.at_once:
            chosen = choose(self._partitions, self.limits.partitions)
            if not chosen:
                return
            if self._tasks and sum(partition.waiting_bytes for partition in chosen) < self.limits.beside_bytes_min:
                return
            if (left_s := self._linger.left_s(loop.time())) > 0:
                self._next = loop.call_later(left_s, self._start)
                return
            until = _level(chosen, self.limits.level_from)
            level = [partition for partition in chosen if (partition.since or 0.0) <= until]
            task = asyncio.create_task(self._work(level, [partition.take(until) for partition in level]))
            if all(partition.since is None for partition in self._partitions):
                self._linger.started()
            self._tasks.add(task)
            task.add_done_callback(self._ended)

    async def _work(self, chosen: Sequence[Waiting], batches: Sequence[Batch]) -> None:
        try:
            waits_s = await self._process(batches)
            for partition, batch, after_s in zip(chosen, batches, waits_s, strict=True):
                await partition.acknowledge(batch, after_s)
        except Exception:
            log.exception("batch failed")
            end_process("a batch failed for a reason that no retry can mend")

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        self.kick()


def _level(chosen: Sequence[Waiting], level_from: int) -> float:
    """The time up to which a round takes messages. The oldest one that waits is among them, also where the times of a
    partition do not rise."""
    newest = [partition.newest_of(level_from) for partition in chosen if level_from]
    until = min((one for one in newest if one is not None), default=math.inf)
    return max(until, min(partition.since or 0.0 for partition in chosen))


def choose(partitions: "set[Waiting]", partitions_max: int) -> list[Waiting]:
    """The partitions of the next round, those with the oldest messages first: as many as fit, and at least one."""
    ready = [partition for partition in partitions if partition.since is not None and not partition.at_work]
    ready.sort(key=lambda partition: partition.since or 0.0)
    chosen: list[Waiting] = []
    total = 0
    for partition in ready[:partitions_max]:
        total += partition.waiting_bytes
        if chosen and total > ROUND_BYTES_MAX:
            break
        chosen.append(partition)
    return chosen
