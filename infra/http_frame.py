"""The frame around every request: bounded bodies, a bounded number at once, the caller's trace, and no internals in an
unexpected error. Bounds: http_bodies.py."""

import sys

import structlog
from fastapi import HTTPException
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from infra import trace
from infra.http_bodies import BoundedBody, Place, Room, body_bytes_max, too_large
from infra.http_problems import problem, shown

REQUESTS_MAX = 1_000  # worked on in one process; each waits for one of its threads, some milliseconds a turn
STREAMS_MAX = 5_000  # open in one process, beside these: what an idle one takes is in ARCHITECTURE.md
STREAM_PATH = "/v1/timelines/home/stream"
ACTIVITY_STREAM_PATH = "/v1/stream"  # shares the places of the others, and has a bound of its own besides
OPERATORS_REQUESTS_MAX = 50  # of those who run the server: they get through when nobody else does
# Two of one would be read by one program as the first and by another one as the last.
ONCE = ("authorization", "content-length", "content-type", "host", "idempotency-key")
HEAD = "fanfold.head"  # in an ASGI scope: whether it is served as GET and was HEAD
ALIVE_PATH = "/healthz"  # answered at once, without a thread, and never refused: whoever asks would start us again

log = structlog.get_logger()


class Frame:
    """ASGI middleware, the outermost of ours."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._room = Room(REQUESTS_MAX)
        operators, streams = Room(OPERATORS_REQUESTS_MAX), Room(STREAMS_MAX)
        self._rooms = {
            ALIVE_PATH: Room(sys.maxsize),
            STREAM_PATH: streams,
            ACTIVITY_STREAM_PATH: streams,
            "/readyz": operators,
            "/metrics": operators,
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers 400, 408, 413 and 503 itself; everything else is the app's."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        place = Place(self._rooms.get(scope["path"], self._room))
        try:
            with trace.within(_traceparent(Headers(scope=scope))):
                await self._serve(scope, receive, send, place)
        finally:
            place.leave()

    async def _serve(self, scope: Scope, receive: Receive, send: Send, place: Place) -> None:
        started = False

        async def note_start(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            place.take()
            _check_head(scope)
            bytes_max = body_bytes_max(scope["path"])
            if int(Headers(scope=scope).get("content-length", "0")) > bytes_max:
                raise too_large(bytes_max)
            head = scope["method"] == "HEAD"  # the server sends no body then
            asked = {**scope, "method": "GET", HEAD: True} if head else scope
            await self._app(asked, BoundedBody(receive, bytes_max, place), note_start)
        except HTTPException as error:
            if started:
                raise
            await problem(error.status_code, error.detail, dict(error.headers or {}))(scope, receive, send)
        except Exception:
            log.exception("request failed", method=scope["method"], path=scope["path"])
            if started:
                raise  # half an answer is out: only closing the connection tells the client
            await problem(500, "an unexpected error; the server's log has it")(scope, receive, send)


def _check_head(scope: Scope) -> None:
    """Raises an `HTTPException`. A slash that is written %2F would lead to another route: no name here has one."""
    headers = Headers(scope=scope)
    for name in ONCE:
        if len(headers.getlist(name)) > 1:
            raise HTTPException(400, f"the header {name} is there more than once; send it once")
    if scope["http_version"] == "1.1" and "host" not in headers:
        raise HTTPException(400, "the header host is missing, which HTTP/1.1 needs")
    if b"%2f" in scope["raw_path"].lower():
        raise HTTPException(404, f"there is nothing at {shown(scope['raw_path'].decode('latin-1'))}")


def _traceparent(headers: Headers) -> str | None:
    """The caller's trace. A malformed header, or several, is as good as none."""
    given = headers.getlist(trace.HEADER)
    return trace.parse(given[0]) if len(given) == 1 else None
