"""Batching and acknowledging: after the effect, in order, and never half a batch."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import pytest

from streams import batches, in_order
from streams.batches import BATCH_MESSAGES_MAX, work_in_batches
from streams.in_order import InOrderConsumer


class FakeStream:
    """Faust's stream as far as batches use it: events until it is closed, and acknowledgements."""

    def __init__(self, events: Sequence[int]) -> None:
        self.enable_acks = True
        self.acknowledged: list[int] = []
        self.given = 0
        self._events = events
        self.closed = asyncio.Event()

    async def events(self) -> AsyncIterator[int]:
        for event in self._events:
            self.given += 1
            yield event
            await asyncio.sleep(0)
        await self.closed.wait()

    async def ack(self, event: int) -> None:
        self.acknowledged.append(event)


class Ended(Exception):
    """Stands for the end of the process."""


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    reasons: list[str] = []

    def end(reason: str) -> None:
        reasons.append(reason)
        raise Ended(reason)

    monkeypatch.setattr(batches, "end_process", end)
    return reasons


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - the fake has many conditions and one loop
            await asyncio.sleep(0)


def run(stream: Any, process: Callable[[Sequence[Any]], Any], then: Callable[["asyncio.Task[None]"], Any]) -> None:
    async def main() -> None:
        task = asyncio.create_task(work_in_batches(stream, process))
        await then(task)

    asyncio.run(main())


def test_a_batch_is_acknowledged_after_its_effect_and_in_order() -> None:
    stream, seen = FakeStream(range(10)), list[list[int]]()

    async def process(events: Sequence[int]) -> None:
        assert not set(events) & set(stream.acknowledged)
        seen.append(list(events))
        await asyncio.sleep(0)

    async def then(task: "asyncio.Task[None]") -> None:
        await until(lambda: len(stream.acknowledged) == 10)
        stream.closed.set()
        await task

    run(stream, process, then)

    assert not stream.enable_acks
    assert [event for batch in seen for event in batch] == stream.acknowledged == list(range(10))


def test_what_comes_while_a_batch_is_worked_on_is_the_next_batch() -> None:
    stream, seen = FakeStream(range(5)), list[list[int]]()

    async def process(events: Sequence[int]) -> None:
        seen.append(list(events))
        if len(seen) == 1:
            await until(lambda: stream.given == 5)
            await asyncio.sleep(0)

    async def then(task: "asyncio.Task[None]") -> None:
        await until(lambda: len(stream.acknowledged) == 5)
        stream.closed.set()
        await task

    run(stream, process, then)

    assert seen == [[0], [1, 2, 3, 4]]


def test_no_more_than_a_batch_is_taken_ahead() -> None:
    stream, go_on = FakeStream(range(3 * BATCH_MESSAGES_MAX)), asyncio.Event()

    async def process(_: Sequence[int]) -> None:
        await go_on.wait()

    async def then(task: "asyncio.Task[None]") -> None:
        for _ in range(4 * BATCH_MESSAGES_MAX):
            await asyncio.sleep(0)
        assert stream.given <= BATCH_MESSAGES_MAX + 2  # the one at work, those that wait, the one that is offered
        go_on.set()
        await until(lambda: len(stream.acknowledged) == 3 * BATCH_MESSAGES_MAX)
        stream.closed.set()
        await task

    run(stream, process, then)


def test_a_cancelled_agent_first_ends_the_batch_at_work() -> None:
    stream, go_on = FakeStream(range(3)), asyncio.Event()
    started = asyncio.Event()

    async def process(_: Sequence[int]) -> None:
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
        assert stream.acknowledged == list(range(stream.given))

    run(stream, process, then)


def test_a_batch_that_does_not_end_in_time_ends_the_process_unacknowledged(
    ended: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "BATCH_WAIT_S", 0.05)
    stream, started = FakeStream(range(3)), asyncio.Event()

    async def process(_: Sequence[int]) -> None:
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


def test_an_exception_never_leaves_the_agent(ended: list[str]) -> None:
    stream = FakeStream(range(3))

    async def process(_: Sequence[int]) -> None:
        raise OSError("unforeseen")

    async def then(task: "asyncio.Task[None]") -> None:
        await until(lambda: bool(ended))
        stream.closed.set()
        await asyncio.wait({task})

    run(stream, process, then)

    assert ended == ["a batch failed for a reason that no retry can mend"]
    assert stream.acknowledged == []


def test_faust_does_not_wait_for_a_batch_for_longer_than_a_session(monkeypatch: pytest.MonkeyPatch) -> None:
    reasons: list[str] = []

    async def never_empty(_: InOrderConsumer) -> None:
        """As Faust's own, which swallows a cancellation and waits on."""
        while not reasons:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(0)

    monkeypatch.setattr(InOrderConsumer.__bases__[0], "wait_empty", never_empty)
    monkeypatch.setattr(in_order, "end_process", reasons.append)
    monkeypatch.setattr(in_order, "BATCH_WAIT_S", 0.01)

    asyncio.run(InOrderConsumer.wait_empty(InOrderConsumer.__new__(InOrderConsumer)))

    assert reasons == ["a batch did not end in time for a stop or a rebalance"]


@pytest.mark.parametrize(
    ("acknowledged", "commit"), [([], None), ([7], 8), ([7, 9, 12], 13), ([12, 9, 7], 13)], ids=str
)
def test_the_newest_acknowledged_offset_is_committed_over_gaps(acknowledged: list[int], commit: int | None) -> None:
    consumer = InOrderConsumer.__new__(InOrderConsumer)
    consumer._acked = {"place": list(acknowledged)}
    consumer._acked_index = {"place": set(acknowledged)}

    assert consumer._new_offset("place") == commit
    assert consumer._new_offset("place") is None
