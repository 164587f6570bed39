"""Faust's Kafka consumer with commits for one actor per partition, which acknowledges in order; it notes what it read.

Faust looks for the first run of consecutive offsets among the acknowledged ones. A transactional log has a marker after
each transaction, and Faust gets over one such gap a commit: under load the committed offset falls minutes behind, and a
crash would bring minutes of work again. In order, the newest acknowledged offset says it all.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Generator, Mapping, Sequence
from functools import partial
from typing import Any

import structlog
from faust.transport.drivers.aiokafka import Consumer
from faust.types import TP
from faust.types.tuples import ack_lock
from mode.services import WaitResults

from infra.errors import ConfigurationError, DependencyError
from infra.topics import ACTIVITY
from streams.batches import BATCH_WAIT_S
from streams.ending import end_process
from streams.fair_polls import FairConsumerThread
from streams.progress import AGENT_OF, Fetched, Place, Run
from streams.rounds import Rounds

# Fetches of one partition that a look once a second may find, many times what can wait, one message each at worst.
RUNS_MAX = 16_384
FIND_AGAIN_S = 1.0  # while a server is away that says where a partition goes on

# Of a topic and a partition; raises `ConfigurationError` when something is missing there, `DependencyError`.
FindOffset = Callable[[str, int], int]

log = structlog.get_logger()


class NotingThread(FairConsumerThread):
    """The thread that fetches. What it fetched is noted before anybody else can see the new position."""

    async def _fetch_records(self, *given: Any, **named: Any) -> Any:
        records = await super()._fetch_records(*given, **named)
        self.consumer.note(records)
        return records

    async def go_on(self, consumer: Any, partition: TP) -> None:
        """Where a partition is read on whose next offset is not known, or not there: only transaction markers may have
        been lost. If it is more, or nobody can tell, the process ends and is refused when it starts."""
        try:
            offset = await asyncio.to_thread(self.consumer.find_offset, partition.topic, partition.partition)
        except ConfigurationError as error:
            end_process(str(error))
        except DependencyError as error:
            log.warning("a partition waits", topic=partition.topic, partition=partition.partition, error=str(error))
            await asyncio.sleep(FIND_AGAIN_S)
            return
        if consumer.assignment() and partition in consumer.assignment():
            consumer.seek(partition, offset)


class InOrderConsumer(Consumer):  # type: ignore[misc]
    """Commits after the newest acknowledged message of each partition, and polls them all alike."""

    def __init__(self, *given: Any, rounds: Sequence[Rounds], find_offset: FindOffset, **named: Any) -> None:
        self.find_offset = find_offset
        self._runs: dict[Place, deque[Run]] = {}
        self._rounds = rounds
        super().__init__(*given, **named)

    def note(self, records: Mapping[TP, Sequence[Any]]) -> None:
        """Notes messages that were fetched."""
        for tp, fetched in records.items():
            first, last = fetched[0], fetched[-1]
            runs = self._runs.setdefault(_place(tp), deque(maxlen=RUNS_MAX))
            runs.append(Run(first.offset, last.offset, first.timestamp))

    def read_positions(self) -> dict[Place, Fetched]:
        """How far each assigned partition was read; for any thread. aiokafka's own question for the position waits."""
        subscription = self._thread._consumer._subscription.subscription  # noqa: SLF001
        if subscription is None or subscription.assignment is None:
            return {}
        positions = {tp: subscription.assignment.state_value(tp) for tp in subscription.assignment.tps}
        return {
            _place(tp): Fetched(
                state.position if state.has_valid_position else None,
                self._runs.setdefault(_place(tp), deque(maxlen=RUNS_MAX)),
            )
            for tp, state in positions.items()
        }

    def member_id(self) -> str:
        """Who this worker is to the group's coordinator; for any thread."""
        return str(self._thread._consumer._coordinator.member_id)  # noqa: SLF001

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Nothing: streams/watch.py says when a partition stands still. Faust goes by statistics that are not kept, and
        calls every busy partition stuck once a worker is five minutes old."""

    async def wait_first(
        self,
        *waits: Any,
        timeout: Any = None,  # noqa: ASYNC109 - the overridden method has it
    ) -> WaitResults:
        """Of a message that is given to its stream, and of the flow that may be suspended meanwhile: as far as that
        goes without waiting it is done at once. Faust makes four tasks of it, most of what a message costs the loop;
        they are left to one that waits, since the flow is suspended or its queue is full.

        Each message is a turn of the loop, in which every stream takes one: else their queues fill, and when all of
        them do Faust polls nothing for a second.
        """
        first, *others = waits
        if others and asyncio.iscoroutine(first):
            try:
                first = _Rest(first, first.send(None))
            except BaseException as error:
                for other in others:
                    other.close()
                if not isinstance(error, StopIteration):
                    raise
                await asyncio.sleep(0)
                return WaitResults([first], [error.value], stopped=False)
        found: WaitResults = await super().wait_first(first, *others, timeout=timeout)
        return found

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """What was read is another's now."""
        self._runs.clear()
        await super().on_partitions_revoked(revoked)

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Reading begins anew; a fetch that was under way while partitions were revoked counts no more."""
        self._runs.clear()
        await super().on_partitions_assigned(assigned, generation_id)

    def _new_consumer_thread(self) -> NotingThread:
        return NotingThread(self, loop=self.loop, beacon=self.beacon)

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        """Of deliveries. In activity the group moves in the transactions of fan_out; a commit beside an open one would
        be taken for the newer of the two, with the older place."""
        left = {tp: offset for tp, offset in offsets.items() if tp.topic != ACTIVITY.name}
        return bool(await super()._commit(left)) if left else True

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
        """Ends the rounds at work before a stop, and before partitions are given back; meanwhile nobody in the group
        works. A round that waits for a server ends the process instead, unacknowledged.

        Faust's own waits without limit, and for every message that was given to a stream: also for those that were
        dropped, the last of which its stream holds on to until the next one comes, so never.
        """
        for rounds in self._rounds:
            rounds.drop_waiting(self.app.consumer_generation_id)
        waiting = asyncio.ensure_future(self._commit_when_idle())
        done, _ = await asyncio.wait({waiting}, timeout=BATCH_WAIT_S)  # a commit swallows cancellation: wait_for hangs
        if not done:
            end_process("a batch did not end in time for a stop or a rebalance")
        await waiting

    async def _commit_when_idle(self) -> None:
        for rounds in self._rounds:
            await rounds.wait_idle()
        await self.commit()  # when one is under way, it only waits for that, and the next takes what came after
        await self.commit_and_end_transactions()

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Gaps do not matter here."""


class _Rest:
    """The rest of a coroutine that was begun outside of a task, up to where it waits for something."""

    def __init__(self, begun: Coroutine[Any, Any, Any], waits_for: Any) -> None:
        self._begun = begun
        self._waits_for = waits_for

    def __await__(self) -> Generator[Any, Any, Any]:
        waits_for = self._waits_for
        while True:
            try:
                sent = yield waits_for
            except BaseException as error:  # noqa: BLE001 - it is for the coroutine to decide
                step = partial(self._begun.throw, error)
            else:
                step = partial(self._begun.send, sent)
            try:
                waits_for = step()
            except StopIteration as ended:
                return ended.value


def _place(tp: TP) -> Place:
    return AGENT_OF[tp.topic], tp.partition
