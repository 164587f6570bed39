"""Turns: few batches work at the same time, and of those that wait the one with the oldest message is next.

More at once would only queue at the same nodes and servers, and partitions that drift apart under a backlog make
entries come out of order.
"""

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class Turns:
    """Turns of one agent in one process. For one event loop."""

    def __init__(self, at_once: int) -> None:
        self._free = at_once
        self._waiting: list[tuple[float, int, asyncio.Future[None]]] = []
        self._numbers = itertools.count()

    @asynccontextmanager
    async def take(self, age: float) -> AsyncIterator[None]:
        """A turn; the waiting one with the lowest `age` (the time of its oldest message) is next."""
        if self._free:
            self._free -= 1
        else:
            await self._wait(age)
        try:
            yield
        finally:
            self._pass_on()

    async def _wait(self, age: float) -> None:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (age, next(self._numbers), turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._pass_on()  # it was ours already
            raise

    def _pass_on(self) -> None:
        while self._waiting:
            _, _, turn = heapq.heappop(self._waiting)
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
