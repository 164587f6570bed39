"""The frame around every request: bounded bodies, a bounded number at once, the caller's trace, and no internals in an
unexpected error."""

import structlog
from fastapi import HTTPException
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from infra import trace
from infra.http_problems import problem

BODY_BYTES_MAX = 64 * 1024  # a tweet of 280 four-byte characters, each escaped in JSON, has under 4 kB
# 500 such tweets have under 2 MB, 5,000 ids 120 kB.
BATCH_BODY_BYTES_MAX = {"/tweets:batch": 2 * 1024 * 1024, "/following:batch": 256 * 1024}
REQUESTS_MAX = 1_000  # under way in one process; each waits for one of its threads, some milliseconds a turn

log = structlog.get_logger()


class Frame:
    """ASGI middleware, the outermost of ours."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers 413 and 503 itself; everything else is the app's."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if self._under_way >= REQUESTS_MAX:
            await problem(503, f"{REQUESTS_MAX} requests are under way; try again")(scope, receive, send)
            return
        self._under_way += 1
        try:
            with trace.within(_traceparent(Headers(scope=scope))):
                await self._serve(scope, receive, send)
        finally:
            self._under_way -= 1

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = False

        async def note_start(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            bytes_max = body_bytes_max(scope["path"])
            if int(Headers(scope=scope).get("content-length", "0")) > bytes_max:
                raise _too_large(bytes_max)
            await self._app(scope, _bounded(receive, bytes_max), note_start)
        except HTTPException as error:
            await problem(error.status_code, error.detail)(scope, receive, send)
        except Exception:
            log.exception("request failed", method=scope["method"], path=scope["path"])
            if started:
                raise  # half an answer is out: only closing the connection tells the client
            await problem(500, "an unexpected error; the server's log has it")(scope, receive, send)


def _traceparent(headers: Headers) -> str | None:
    """The caller's trace. A malformed header, or several, is as good as none."""
    given = headers.getlist(trace.HEADER)
    return trace.parse(given[0]) if len(given) == 1 else None


def body_bytes_max(path: str) -> int:
    """How large a body may be there."""
    for end, bytes_max in BATCH_BODY_BYTES_MAX.items():
        if path.endswith(end):
            return bytes_max
    return BODY_BYTES_MAX


def _bounded(receive: Receive, bytes_max: int) -> Receive:
    """`receive` that raises when a body without a declared length becomes too large."""
    taken_bytes = 0

    async def take() -> Message:
        nonlocal taken_bytes
        message = await receive()
        taken_bytes += len(message.get("body", b""))
        if taken_bytes > bytes_max:
            raise _too_large(bytes_max)
        return message

    return take


def _too_large(bytes_max: int) -> HTTPException:
    return HTTPException(413, f"the body is larger than {bytes_max} bytes, which is the most that is taken here")
