"""Our consumer beside Faust's."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from faust.types import TP
from mode import Service
from mode.services import WaitResults

from streams.in_order import InOrderConsumer


class Stuck(InOrderConsumer):
    """Its thread cannot be asked: Faust's own look at a partition would fail."""

    def __init__(self) -> None:
        """Without what Faust's needs."""


def test_nobody_calls_a_busy_partition_stuck_by_statistics_that_are_not_kept() -> None:
    Stuck().verify_event_path(301.0, TP("activity", 0))


class Giving(InOrderConsumer):
    """Only what gives a message to its stream."""

    def __init__(self) -> None:
        Service.__init__(self)
        self.suspended = asyncio.Event()

    async def give(self, message: "Coroutine[Any, Any, Any]") -> WaitResults:
        return await self.wait_first(message, self.suspended.wait())


def test_a_message_that_waits_for_nothing_is_given_to_its_stream_without_a_task() -> None:
    async def scene() -> tuple[WaitResults, int]:
        async def given() -> int:
            tasks.append(len(asyncio.all_tasks()))
            return 7

        tasks: list[int] = []
        return await Giving().give(given()), tasks[0]

    found, tasks = asyncio.run(scene())
    assert found.results == [7]
    assert tasks == 1


def test_a_message_that_waits_is_given_when_it_has_waited() -> None:
    async def scene() -> list[str]:
        async def given() -> None:
            happened.append("waits")
            await room.wait()
            await asyncio.sleep(0)
            happened.append("given")

        happened: list[str] = []
        room = asyncio.Event()
        asyncio.get_running_loop().call_soon(room.set)
        await Giving().give(given())
        return happened

    assert asyncio.run(scene()) == ["waits", "given"]


def test_a_message_that_waits_is_taken_back_when_the_flow_is_suspended() -> None:
    async def scene() -> bool:
        async def given() -> None:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                taken_back.set()
                raise

        taken_back = asyncio.Event()
        giving = Giving()
        asyncio.get_running_loop().call_soon(giving.suspended.set)
        async with asyncio.timeout(5):
            await giving.give(given())
            await taken_back.wait()
        return taken_back.is_set()

    assert asyncio.run(scene())


@pytest.mark.parametrize("waits", [False, True])
def test_what_a_stream_raises_reaches_whoever_gives(waits: bool) -> None:
    async def scene() -> None:
        async def given() -> None:
            if waits:
                await asyncio.sleep(0)
            raise ValueError("no place")

        await Giving().give(given())

    with pytest.raises(ValueError, match="no place"):
        asyncio.run(scene())


def test_every_stream_has_a_turn_after_each_message() -> None:
    async def scene() -> list[str]:
        async def given(name: str) -> None:
            happened.append(name)

        async def stream() -> None:
            for _ in range(3):
                happened.append("taken")
                await asyncio.sleep(0)

        happened: list[str] = []
        giving, taking = Giving(), asyncio.create_task(stream())
        for name in ("first", "second", "third"):
            await giving.give(given(name))
        await taking
        return happened

    assert asyncio.run(scene()) == ["first", "taken", "second", "taken", "third", "taken"]
