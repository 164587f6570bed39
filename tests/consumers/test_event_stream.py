"""A stream's response: what is written in which order, and how it ends."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from starlette.types import Message

from consumers import event_stream
from consumers.event_stream import EventStream
from consumers.live_frames import EventQueue, Reason
from infra.errors import DatabaseUnavailable, Unauthenticated
from infra.http_protocol import ABORT

WITHIN_S = 5.0


class Connection:
    """A client's side of one request; `stuck` takes nothing after the head."""

    def __init__(self, stuck: bool = False) -> None:
        self.written: list[bytes] = []
        self.more = True
        self.aborted = False
        self._stuck = stuck
        self._gone = asyncio.Event()
        self._asked = 0

    async def receive(self) -> Message:
        self._asked += 1
        if self._asked > 1:
            await self._gone.wait()
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(self, message: Message) -> None:
        if message["type"] != "http.response.body":
            return
        if self._stuck:
            await self._gone.wait()
        self.written.append(message["body"])
        self.more = message["more_body"]

    def go(self) -> None:
        self._gone.set()

    def abort(self) -> None:
        self.aborted = True
        self.go()


def serve(
    queue: EventQueue, check: Callable[[], Awaitable[object]], connection: Callable[[], Connection]
) -> Connection:
    """A response to its end, and the connection then."""
    closed: list[EventQueue] = []

    async def run() -> Connection:
        made = connection()
        scope: dict[str, Any] = {"type": "http", ABORT: made.abort}
        async with asyncio.timeout(WITHIN_S):
            await EventStream(queue, check, closed.append)(scope, made.receive, made.send)
        return made

    made = asyncio.run(run())
    assert closed == [queue]
    return made


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_stream, "HEARTBEAT_S", 0.02)
    monkeypatch.setattr(event_stream, "WRITE_WITHIN_S", 0.05)


def test_a_position_is_never_told_ahead_of_an_event_that_lies_before_it() -> None:
    """The event and the mark behind it come while the token is checked."""
    queue = EventQueue()

    async def check() -> None:
        queue.put(b"id: 5\ndata: x\n\n")
        queue.mark("6")
        asyncio.get_running_loop().call_later(0.001, queue.end, Reason.STOPPING, b"retry: 1\n\n")

    made = serve(queue, check, Connection)
    assert b"".join(made.written) == b"id: 5\ndata: x\n\n: heartbeat\nid: 6\n\nretry: 1\n\n"
    assert not made.more


def test_a_refused_token_ends_a_stream_and_a_database_that_is_away_does_not() -> None:
    queue, answers = EventQueue(), [DatabaseUnavailable("away"), Unauthenticated("revoked")]

    async def check() -> None:
        raise answers.pop(0)

    made = serve(queue, check, Connection)
    assert made.written[0] == b": heartbeat\n\n"
    assert b'event: dropped\ndata: {"reason": "token_refused"' in made.written[1]
    assert not made.more


def test_a_client_that_goes_ends_the_response() -> None:
    queue = EventQueue()

    def going() -> Connection:
        made = Connection()
        asyncio.get_running_loop().call_later(0.01, made.go)
        return made

    serve(queue, lambda: asyncio.sleep(0), going)
    assert queue.ended is Reason.GONE


def test_a_client_that_takes_nothing_is_cut_off() -> None:
    queue = EventQueue()
    queue.put(b"data: x\n\n")
    made = serve(queue, lambda: asyncio.sleep(0), lambda: Connection(stuck=True))
    assert made.aborted
    assert made.written == []
