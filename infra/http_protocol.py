"""HTTP/1.1 of one connection: uvicorn's, with a bound on a request's first line and headers, in bytes and in time,
and problem documents for what is not HTTP.

uvicorn and httptools keep what comes before a body, and behind a chunked one, without a bound. Next: http_frame.py.
"""

import logging
import sys
from asyncio import BaseTransport, TimerHandle
from http import HTTPStatus
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from infra.http_problems import problem

HEAD_BYTES_MAX = 64 * 1024  # first line and headers, four times what proxies commonly take; a token has 66 bytes
TOO_LARGE = (
    f"the request's first line and headers have more than {HEAD_BYTES_MAX} bytes, which is the most that is taken"
)
ABORT = "fanfold.abort"  # in an ASGI scope: ends the connection without sending what the client does not take
HEAD_WITHIN_S = 10.0  # some time for a proxy that connects ahead; who sends nothing has a connection no longer

# What a client does wrong is no line in our log: anybody could fill it.
_log = logging.getLogger("fanfold.http")
_log.setLevel(logging.ERROR)


class HeadTooLarge(Exception):
    """Raised inside the parser to stop it."""


class BoundedProtocol(HttpToolsProtocol):
    """Answers 431 and closes above `HEAD_BYTES_MAX`, of what is kept or of what was read and is not complete. Closes
    when a head is not there `HEAD_WITHIN_S` after the connection was made, or after the head's first bytes."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.logger = _log
        self._read_bytes = 0  # since the last head or piece of a body was complete
        self._kept_bytes = 0  # of one request
        self._in_head = True
        self._too_late: TimerHandle | None = None

    def connection_made(self, transport: BaseTransport) -> None:
        super().connection_made(cast(Any, transport))
        self._begin_to_wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_to_wait()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._read_bytes += len(data)
        if self._in_head and self._too_late is None:
            self._begin_to_wait()
        super().data_received(data)
        if self._read_bytes > HEAD_BYTES_MAX:
            self._refuse(431, TOO_LARGE)

    def on_message_begin(self) -> None:
        self._kept_bytes = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._keep(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._keep(len(name) + len(value))
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._read_bytes, self._in_head = 0, False
        self._end_to_wait()
        super().on_headers_complete()
        self.scope[ABORT] = self.transport.abort  # type: ignore[literal-required]

    def on_body(self, body: bytes) -> None:
        self._read_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._read_bytes, self._in_head = 0, True
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """What uvicorn calls for everything that its parser refuses."""
        if self._kept_bytes > HEAD_BYTES_MAX:
            self._refuse(431, TOO_LARGE)
        else:
            self._refuse(400, f"this is not HTTP/1.1: {sys.exception() or msg}")

    def _keep(self, count_bytes: int) -> None:
        self._kept_bytes += count_bytes
        if self._kept_bytes > HEAD_BYTES_MAX:
            raise HeadTooLarge

    def _begin_to_wait(self) -> None:
        self._too_late = self.loop.call_later(HEAD_WITHIN_S, self.transport.close)

    def _end_to_wait(self) -> None:
        if self._too_late is not None:
            self._too_late.cancel()
            self._too_late = None

    def _refuse(self, status: int, detail: str) -> None:
        if self.transport.is_closing():
            return
        if self._may_answer():
            self.transport.write(_refusal(status, detail))
        self.transport.close()

    def _may_answer(self) -> bool:
        """False when this would stand inside the answer to an earlier request, or be taken for it."""
        if self.cycle is None or self.cycle.response_complete:
            return True
        if self._in_head or self.pipeline or self.cycle.response_started:
            return False
        self.cycle.disconnected = True  # it is this request's body: what the app still answers goes nowhere
        return True


def _refusal(status: int, detail: str) -> bytes:
    answer = problem(status, detail, {"Connection": "close"})
    head = b"".join(b"%b: %b\r\n" % (name, value) for name, value in answer.raw_headers)
    return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\n".encode() + head + b"\r\n" + bytes(answer.body)
