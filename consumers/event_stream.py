"""A response that does not end: a stream's events as they come, heartbeats between them, and the end of it. ASGI.

One task writes, one waits for the client to go. A client that takes nothing for a while is cut off: what was written to
his connection would be held for as long as TCP tries.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from consumers.live_frames import EventQueue, Reason, because, heartbeat
from infra.errors import DependencyError, FanfoldError
from infra.http_protocol import ABORT

MEDIA_TYPE = "text/event-stream"
HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # a proxy passes each event on as it comes
HEARTBEAT_S = 15.0  # below the half minute or minute after which proxies close what is silent
WRITE_WITHIN_S = 10.0  # for a client to take what was written before


class EventStream(Response):
    """Sends what comes through `queue`. `check` is asked with every heartbeat and raises when the token is refused;
    `close` is called once, at the end. To HEAD it is the headers alone."""

    media_type = MEDIA_TYPE

    def __init__(
        self,
        queue: EventQueue | None = None,
        check: Callable[[], Awaitable[object]] | None = None,
        close: Callable[[EventQueue], None] | None = None,
    ) -> None:
        self._queue, self._check, self._close = queue, check, close
        super().__init__(headers=HEADERS)
        del self.headers["content-length"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._queue is None:
            await send(self._start())
            await send(_body(b"", more=False))
            return
        assert self._close is not None
        try:
            while (await receive()).get("more_body"):  # what a client sends with a GET, to its end
                continue
            await send(self._start())
            await self._serve(self._queue, scope, receive, send)
        finally:
            self._close(self._queue)

    async def _serve(self, queue: EventQueue, scope: Scope, receive: Receive, send: Send) -> None:
        gone = asyncio.create_task(_gone(receive, queue))
        try:
            if not await self._write_all(queue, send):
                scope[ABORT]()
                await gone
        finally:
            gone.cancel()

    def _start(self) -> Message:
        return {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}

    async def _write_all(self, queue: EventQueue, send: Send) -> bool:
        """False when the client does not take it."""
        loop = asyncio.get_running_loop()
        due_s = loop.time() + HEARTBEAT_S
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout_at(due_s):
                    await queue.wait()
            frames = queue.take()
            if not queue.ended and loop.time() >= due_s:
                due_s = loop.time() + HEARTBEAT_S
                await self._check_token(queue)
                frames += queue.take()  # before the mark, which lies behind it
                frames += b"" if queue.ended else heartbeat(queue.take_mark())
            if not await _written(send, _body(frames, more=not queue.ended)):
                return False
            if queue.ended:
                return True

    async def _check_token(self, queue: EventQueue) -> None:
        """Nobody is cut off because the database is away."""
        assert self._check is not None
        try:
            await self._check()
        except DependencyError:
            return
        except FanfoldError:
            queue.end(Reason.TOKEN_REFUSED, because("dropped", Reason.TOKEN_REFUSED))


async def _gone(receive: Receive, queue: EventQueue) -> None:
    while (await receive())["type"] != "http.disconnect":
        continue
    queue.end(Reason.GONE, b"")


async def _written(send: Send, message: Message) -> bool:
    """Waits while the client has not taken what was written before; false when he does not."""
    try:
        async with asyncio.timeout(WRITE_WITHIN_S):
            await send(message)
    except TimeoutError:
        return False
    return True


def _body(frames: bytes, *, more: bool) -> Message:
    return {"type": "http.response.body", "body": frames, "more_body": more}
