"""Batching and acknowledging: after the effect, in order, and never half a batch."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from faust.types import TP

from streams import batches, in_order, rounds
from streams.batches import BATCH_BYTES_MAX, work_in_batches
from streams.in_order import InOrderConsumer
from streams.rounds import BATCH_MESSAGES_MAX, Limits, Rounds


@dataclass(frozen=True)
class FakeMessage:
    """A message as far as batches look at it."""

    generation_id: int = 1
    value: bytes = b""
    timestamp: float = 0.0
    topic: str = "activity"
    partition: int = 0


SETTLES_S = 0.1


@dataclass(frozen=True)
class FakeEvent:
    """An event with a number."""

    number: int
    message: FakeMessage = FakeMessage()


class FakeStream:
    """Faust's stream as far as batches use it: events until it is closed, and acknowledgements."""

    def __init__(self, events: Iterable[int | FakeEvent]) -> None:
        self.enable_acks = True
        self.acknowledged: list[int] = []
        self.given = 0
        self._events = events
        self.closed = asyncio.Event()

    async def events(self) -> AsyncIterator[FakeEvent]:
        for event in self._events:
            self.given += 1
            yield event if isinstance(event, FakeEvent) else FakeEvent(event)
            await asyncio.sleep(0)
        await self.closed.wait()

    async def ack(self, event: FakeEvent) -> None:
        self.acknowledged.append(event.number)


def numbers(events: Sequence[FakeEvent]) -> list[int]:
    return [event.number for event in events]


class Ended(Exception):
    """Stands for the end of the process."""


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    reasons: list[str] = []

    def end(reason: str) -> None:
        reasons.append(reason)
        raise Ended(reason)

    monkeypatch.setattr(batches, "end_process", end)
    monkeypatch.setattr(rounds, "end_process", end)
    return reasons


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - the fake has many conditions and one loop
            await asyncio.sleep(0)


def run(
    stream: Any,
    process: Callable[[Sequence[Any]], Any],
    then: Callable[["asyncio.Task[None]"], Any],
    made: list[Rounds] | None = None,
    messages_max: int = BATCH_MESSAGES_MAX,
) -> None:
    async def each(of_partitions: Sequence[Sequence[Any]]) -> list[float]:
        """What `process` answers is after how many seconds the batch may be acknowledged."""
        return [await process(batch) or 0.0 for batch in of_partitions]

    async def main() -> None:
        rounds = Rounds(Limits(at_once=1, partitions=1, messages_max=messages_max), each)
        if made is not None:
            made.append(rounds)
        await then(asyncio.create_task(work_in_batches(stream, rounds)))

    asyncio.run(main())


def test_a_batch_is_acknowledged_after_its_effect_and_in_order() -> None:
    stream, seen = FakeStream(range(10)), list[list[int]]()

    async def process(events: Sequence[FakeEvent]) -> None:
        assert not set(numbers(events)) & set(stream.acknowledged)
        seen.append(numbers(events))
        await asyncio.sleep(0)

    async def then(task: "asyncio.Task[None]") -> None:
        await until(lambda: len(stream.acknowledged) == 10)
        stream.closed.set()
        await task

    run(stream, process, then)

    assert not stream.enable_acks
    assert [event for batch in seen for event in batch] == stream.acknowledged == list(range(10))


def test_what_is_newer_than_a_partition_that_has_more_to_come_waits_for_it() -> None:
    ahead, behind = (
        FakeStream([FakeEvent(one, FakeMessage(timestamp=float(one), value=b"1")) for one in times])
        for times in ([0, 10, 20, 30], [0, 11, 12])
    )
    seen = list[list[list[int]]]()

    async def process(of_partitions: Sequence[Sequence[FakeEvent]]) -> list[float]:
        seen.append(sorted(map(numbers, of_partitions)))
        await until(lambda: (ahead.given, behind.given) == (4, 3))
        await asyncio.sleep(0)
        return [0.0] * len(of_partitions)

    async def main() -> None:
        rounds = Rounds(Limits(at_once=1, partitions=2, level_from=2), process)
        tasks = [asyncio.create_task(work_in_batches(stream, rounds)) for stream in (ahead, behind)]
        await until(lambda: (len(ahead.acknowledged), len(behind.acknowledged)) == (4, 3))
        assert all(partition.waiting_bytes == 0 for partition in rounds._partitions)
        for stream in (ahead, behind):
            stream.closed.set()
        await asyncio.gather(*tasks)

    asyncio.run(main())

    assert seen[0] == [[0], [0]]
    assert seen[1:] == [[[10], [11, 12]], [[20, 30]]]


def test_what_comes_while_a_batch_is_worked_on_is_the_next_batch() -> None:
    stream, seen = FakeStream(range(5)), list[list[int]]()

    async def process(events: Sequence[FakeEvent]) -> None:
        seen.append(numbers(events))
        if len(seen) == 1:
            await until(lambda: stream.given == 5)
            await asyncio.sleep(0)

    async def then(task: "asyncio.Task[None]") -> None:
        await until(lambda: len(stream.acknowledged) == 5)
        stream.closed.set()
        await task

    run(stream, process, then)

    assert seen == [[0], [1, 2, 3, 4]]


@pytest.mark.parametrize("messages_max", [7, BATCH_MESSAGES_MAX])
def test_no_more_than_a_batch_is_taken_ahead(messages_max: int) -> None:
    stream, go_on = FakeStream(range(3 * messages_max)), asyncio.Event()

    async def process(_: Sequence[FakeEvent]) -> None:
        await go_on.wait()

    async def then(task: "asyncio.Task[None]") -> None:
        for _ in range(4 * messages_max):
            await asyncio.sleep(0)
        assert stream.given <= messages_max + 2  # the one at work, those that wait, the one that is offered
        go_on.set()
        await until(lambda: len(stream.acknowledged) == 3 * messages_max)
        stream.closed.set()
        await task

    run(stream, process, then, messages_max=messages_max)


def test_a_cancelled_agent_first_ends_the_batch_at_work() -> None:
    stream, go_on = FakeStream(range(3)), asyncio.Event()
    started = asyncio.Event()

    async def process(_: Sequence[FakeEvent]) -> None:
        started.set()
        await go_on.wait()

    async def then(task: "asyncio.Task[None]") -> None:
        await started.wait()
        task.cancel()
        await asyncio.sleep(0)
        task.cancel()
        assert stream.acknowledged == []
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert stream.acknowledged == [0]  # what waited is read again

    run(stream, process, then)


def test_what_waits_is_bounded_in_bytes() -> None:
    large = FakeMessage(value=bytes(BATCH_BYTES_MAX // 2))
    stream, go_on = FakeStream(FakeEvent(number, large) for number in range(9)), asyncio.Event()

    async def process(_: Sequence[FakeEvent]) -> None:
        await go_on.wait()

    async def then(task: "asyncio.Task[None]") -> None:
        for _ in range(100):
            await asyncio.sleep(0)
        assert stream.given == 4  # the one at work, the two that wait, the one that is offered
        go_on.set()
        await until(lambda: len(stream.acknowledged) == 9)
        stream.closed.set()
        await task

    run(stream, process, then)


def test_who_offers_a_message_goes_on_when_what_waits_is_dropped() -> None:
    old, new = FakeMessage(generation_id=1), FakeMessage(generation_id=2)
    events = [FakeEvent(number, old) for number in range(BATCH_MESSAGES_MAX + 5)] + [FakeEvent(1, new)]
    stream, go_on, made = FakeStream(events), asyncio.Event(), list[Rounds]()

    async def process(_: Sequence[FakeEvent]) -> None:
        await go_on.wait()

    async def then(task: "asyncio.Task[None]") -> None:
        for _ in range(3 * BATCH_MESSAGES_MAX):
            await asyncio.sleep(0)
        assert stream.given < len(events)
        made[0].drop_waiting(generation=1)
        go_on.set()
        await until(lambda: stream.acknowledged == [0, 1])
        stream.closed.set()
        await task

    run(stream, process, then, made)


def test_before_a_rebalance_what_waits_is_dropped_and_nothing_after_it_is_taken() -> None:
    """Taking a later message would commit past the dropped ones."""
    old, new = FakeMessage(generation_id=1), FakeMessage(generation_id=2)
    early, late = asyncio.Event(), asyncio.Event()
    made, seen = list[Rounds](), list[int]()

    class Stream(FakeStream):
        async def events(self) -> AsyncIterator[FakeEvent]:
            for number in range(3):
                yield FakeEvent(number, old)
                await asyncio.sleep(0)
            await early.wait()
            yield FakeEvent(3, old)
            await late.wait()
            yield FakeEvent(1, new)
            await self.closed.wait()

    stream, go_on = Stream([]), asyncio.Event()

    async def process(events: Sequence[FakeEvent]) -> None:
        seen.extend(numbers(events))
        await go_on.wait()

    async def then(task: "asyncio.Task[None]") -> None:
        for _ in range(20):
            await asyncio.sleep(0)
        made[0].drop_waiting(generation=1)
        early.set()
        go_on.set()
        await until(lambda: stream.acknowledged == [0])
        late.set()
        await until(lambda: stream.acknowledged == [0, 1])
        stream.closed.set()
        await task

    run(stream, process, then, made)

    assert seen == [0, 1]


def test_a_batch_that_does_not_end_in_time_ends_the_process_unacknowledged(
    ended: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "BATCH_WAIT_S", 0.05)
    stream, started = FakeStream(range(3)), asyncio.Event()

    async def process(_: Sequence[FakeEvent]) -> None:
        started.set()
        await asyncio.Event().wait()

    async def then(task: "asyncio.Task[None]") -> None:
        await started.wait()
        task.cancel()
        with pytest.raises(Ended):
            await task

    run(stream, process, then)

    assert ended == ["a batch did not end in time for a stop or a rebalance"]
    assert stream.acknowledged == []


def test_an_exception_never_leaves_the_agent(ended: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "BATCH_WAIT_S", 0.05)  # the fake end leaves the batch at work
    stream = FakeStream(range(3))

    async def process(_: Sequence[FakeEvent]) -> None:
        raise OSError("unforeseen")

    async def then(task: "asyncio.Task[None]") -> None:
        await until(lambda: bool(ended))
        stream.closed.set()
        await asyncio.wait({task})

    run(stream, process, then)

    assert ended[0] == "a batch failed for a reason that no retry can mend"
    assert stream.acknowledged == []


class FakeRounds:
    """Rounds as far as the consumer uses them."""

    def __init__(self, *, idle: bool) -> None:
        self.dropped_generation = 0
        self._idle = idle

    def drop_waiting(self, generation: int) -> None:
        self.dropped_generation = generation

    async def wait_idle(self) -> None:
        if not self._idle:
            await asyncio.Event().wait()


def consumer_with(rounds: Any, committed: list[bool]) -> InOrderConsumer:
    """A consumer of generation 7 that has given a message to a stream, which still holds on to it."""

    async def commit(start_new_transaction: bool = True) -> bool:
        committed.append(start_new_transaction)
        return True

    consumer = InOrderConsumer.__new__(InOrderConsumer)
    consumer._rounds = [rounds]
    consumer.app = SimpleNamespace(consumer_generation_id=7)
    consumer.commit = commit
    consumer._unacked_messages = {"held by its stream"}
    return consumer


def test_faust_does_not_wait_for_a_batch_for_longer_than_a_session(monkeypatch: pytest.MonkeyPatch) -> None:
    committed: list[bool] = []

    def end(reason: str) -> None:
        raise Ended(reason)

    monkeypatch.setattr(in_order, "end_process", end)
    monkeypatch.setattr(in_order, "BATCH_WAIT_S", 0.01)
    rounds = FakeRounds(idle=False)

    with pytest.raises(Ended, match="a batch did not end in time for a stop or a rebalance"):
        asyncio.run(consumer_with(rounds, committed).wait_empty())

    assert rounds.dropped_generation == 7
    assert committed == []


def test_dropped_messages_that_streams_hold_on_to_are_not_waited_for() -> None:
    committed: list[bool] = []
    rounds = FakeRounds(idle=True)

    asyncio.run(consumer_with(rounds, committed).wait_empty())

    assert rounds.dropped_generation == 7
    assert committed == [True, False]


@pytest.mark.parametrize(
    ("acknowledged", "commit"), [([], None), ([7], 8), ([7, 9, 12], 13), ([12, 9, 7], 13)], ids=str
)
def test_the_newest_acknowledged_offset_is_committed_over_gaps(acknowledged: list[int], commit: int | None) -> None:
    consumer = InOrderConsumer.__new__(InOrderConsumer)
    consumer._acked = {"place": list(acknowledged)}
    consumer._acked_index = {"place": set(acknowledged)}

    assert consumer._new_offset("place") == commit
    assert consumer._new_offset("place") is None


def test_the_group_is_moved_in_deliveries_only_since_fan_out_moves_it_in_activity() -> None:
    heard: list[Any] = []

    async def commit(offsets: Any) -> bool:
        heard.append(dict(offsets))
        return True

    consumer = InOrderConsumer.__new__(InOrderConsumer)
    consumer._thread = SimpleNamespace(commit=commit)

    assert asyncio.run(consumer._commit({TP("activity", 1): 4, TP("deliveries", 2): 6})) is True
    assert asyncio.run(consumer._commit({TP("activity", 1): 5})) is True
    assert heard == [{TP("deliveries", 2): 6}]


@pytest.mark.usefixtures("ended")
def test_a_batch_that_may_not_be_acknowledged_yet_holds_up_no_other_and_all_are_acknowledged_in_order() -> None:
    stream, seen = FakeStream(range(6)), list[int]()

    async def process(events: Sequence[FakeEvent]) -> float:
        assert stream.acknowledged == [], "the first one is not settled yet"
        seen.extend(numbers(events))
        await asyncio.sleep(0)
        return SETTLES_S if 0 in numbers(events) else 0.0

    async def then(task: "asyncio.Task[None]") -> None:
        began_s = asyncio.get_running_loop().time()
        await until(lambda: len(seen) == 6)
        await until(lambda: bool(stream.acknowledged))
        assert asyncio.get_running_loop().time() - began_s >= SETTLES_S
        await until(lambda: len(stream.acknowledged) == 6)
        stream.closed.set()
        await task

    run(stream, process, then)

    assert stream.acknowledged == list(range(6))


@pytest.mark.usefixtures("ended")
@pytest.mark.parametrize("how", ["stop", "rebalance"])
def test_before_a_stop_or_a_rebalance_what_is_done_settles_and_is_acknowledged(how: str) -> None:
    stream, seen, made = FakeStream(range(1)), list[int](), list[Rounds]()

    async def process(events: Sequence[FakeEvent]) -> float:
        seen.extend(numbers(events))
        return SETTLES_S

    async def then(task: "asyncio.Task[None]") -> None:
        await until(lambda: seen == [0])
        if how == "stop":
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        else:
            await made[0].wait_idle()
        assert stream.acknowledged == [0]
        stream.closed.set()
        await asyncio.wait({task})

    run(stream, process, then, made)
