"""Turns: few at once, the oldest next, and none is lost when somebody who waits is cancelled."""

import asyncio

import pytest

from streams.turns import Turns


def test_of_those_that_wait_the_oldest_is_next() -> None:
    order: list[float] = []

    async def main() -> None:
        turns, go_on = Turns(1), asyncio.Event()

        async def work(age: float) -> None:
            async with turns.take(age):
                order.append(age)
                await go_on.wait()

        tasks = []
        for age in (5.0, 3.0, 1.0, 2.0):
            tasks.append(asyncio.create_task(work(age)))
            await asyncio.sleep(0)
        go_on.set()
        await asyncio.gather(*tasks)

    asyncio.run(main())

    assert order == [5.0, 1.0, 2.0, 3.0]


@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_no_more_than_the_given_number_work_at_once(at_once: int) -> None:
    most = 0

    async def main() -> None:
        turns, working = Turns(at_once), 0

        async def work(age: float) -> None:
            nonlocal working, most
            async with turns.take(age):
                working += 1
                most = max(most, working)
                await asyncio.sleep(0)
                working -= 1

        await asyncio.gather(*(work(float(age)) for age in range(10)))

    asyncio.run(main())

    assert most == at_once


@pytest.mark.parametrize("rounds_before_cancel", [0, 1])
def test_a_turn_is_passed_on_when_who_waits_for_it_is_cancelled(rounds_before_cancel: int) -> None:
    """Also when it was his already, but he had not run since."""

    async def main() -> None:
        turns = Turns(1)
        started = asyncio.Event()

        async def wait() -> None:
            started.set()
            async with turns.take(1.0):
                await asyncio.sleep(3600)

        async with turns.take(0.0):
            waiting = asyncio.create_task(wait())
            await started.wait()
            await asyncio.sleep(0)
            if rounds_before_cancel == 0:
                waiting.cancel()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        async with asyncio.timeout(1), turns.take(2.0):
            pass

    asyncio.run(main())
