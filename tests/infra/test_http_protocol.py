"""A real socket before a small app: requests whose heads are large or never end, and those that are well."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest
from fastapi import FastAPI
from uvicorn.server import ServerState

from infra import http_protocol
from infra.api_server import ApiServer
from infra.http_problems import MEDIA_TYPE
from infra.http_protocol import HEAD_BYTES_MAX
from infra.settings import Settings

WITHIN_S = 10.0
OK, TOO_LARGE = b"HTTP/1.1 200 OK", b"HTTP/1.1 431 Request Header Fields Too Large"
ANSWER_OF_ONE_BYTE = OK + b"\r\ncontent-length: 1\r\n\r\n1"
CLOSE = b"Connection: close\r\n\r\n"

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def app(_: Any, receive: Any, send: Any) -> None:
    """Reads the body, and answers with its length."""
    length, more = 0, True
    while more:
        message = await receive()
        length, more = length + len(message.get("body", b"")), message.get("more_body", False)
    body = b"%d" % length
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


def converse(talk: Talk) -> None:
    """Runs `talk` on a connection to a server of its own, which is set up as the API's."""

    async def run() -> None:
        config = ApiServer(cast(FastAPI, app), Settings()).config
        config.load()
        make, state = cast(Any, config.http_protocol_class), ServerState()
        server = await asyncio.get_running_loop().create_server(lambda: make(config, state, {}), "127.0.0.1", 0)
        async with server, asyncio.timeout(WITHIN_S):
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            try:
                await talk(reader, writer)
            finally:
                writer.close()
                await writer.wait_closed()

    asyncio.run(run())


def answer_to(sent: bytes) -> bytes:
    """What comes back until the server closes the connection."""
    answer = b""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal answer
        writer.write(sent)
        answer = await reader.read()

    converse(talk)
    return answer


def header(size: int) -> bytes:
    return b"x: " + b"y" * size + b"\r\n"


@pytest.mark.parametrize(
    "start",
    [
        b"GET / HTTP/1.1\r\n" + header(HEAD_BYTES_MAX),
        b"GET / HTTP/1.1\r\nx: " + b"y" * HEAD_BYTES_MAX,
        b"GET / HTTP/1.1\r\n" + b"x" * HEAD_BYTES_MAX,
        b"GET / HTTP/1.1\r\n" + header(10) * (HEAD_BYTES_MAX // 10),
        b"GET /" + b"x" * HEAD_BYTES_MAX,
    ],
)
def test_a_head_that_does_not_end_is_refused_at_the_bound(start: bytes) -> None:
    answer = answer_to(start)
    assert answer.startswith(TOO_LARGE)
    assert f"content-type: {MEDIA_TYPE}".encode() in answer
    assert b"more than 65536 bytes" in answer


def test_a_head_that_comes_whole_is_refused_by_its_size() -> None:
    assert answer_to(b"GET / HTTP/1.1\r\n" + header(HEAD_BYTES_MAX) + CLOSE).startswith(TOO_LARGE)


@pytest.mark.parametrize(
    "sent",
    [
        b"\x00\xff\r\n\r\n",
        b"HELLO / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: five\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n",
    ],
)
def test_what_is_not_http_is_a_problem_and_no_line_in_the_log(sent: bytes, caplog: pytest.LogCaptureFixture) -> None:
    head, _, body = answer_to(sent).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert f"content-type: {MEDIA_TYPE}".encode() in head
    problem = json.loads(body)
    assert (problem["status"], problem["type"]) == (400, "urn:fanfold:problem:malformed-request")
    assert problem["detail"].startswith("this is not HTTP/1.1: ")
    assert not caplog.records


def test_who_asks_for_another_protocol_is_served_this_one_without_a_line_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        assert (await reader.readline()).strip() == OK

    converse(talk)
    assert not caplog.records


def test_what_stands_behind_a_chunked_body_is_bounded_too() -> None:
    chunked = b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n"
    assert answer_to(chunked + header(10) * (HEAD_BYTES_MAX // 10)).startswith(TOO_LARGE)


def test_what_is_not_http_behind_a_request_under_way_is_no_answer_to_that() -> None:
    assert answer_to(b"POST / HTTP/1.1\r\nContent-Length: 1\r\n\r\nxHELLO\r\n\r\n") in (b"", ANSWER_OF_ONE_BYTE)


def test_a_head_below_the_bound_and_a_long_body_are_taken() -> None:
    length = 40 * HEAD_BYTES_MAX
    head = b"POST / HTTP/1.1\r\n" + header(HEAD_BYTES_MAX - 100) + b"Content-Length: %d\r\n" % length
    answer = answer_to(head + CLOSE + b"x" * length)
    assert answer.startswith(OK)
    assert answer.endswith(b"\r\n\r\n%d" % length)


def test_each_request_of_a_connection_has_the_bound_for_itself() -> None:
    one = b"POST / HTTP/1.1\r\n" + header(HEAD_BYTES_MAX // 2) + b"Content-Length: 5\r\n"
    assert answer_to((one + b"\r\nhello") * 4 + one + CLOSE + b"hello").count(OK) == 5


@pytest.mark.parametrize("start", [b"", b"GET / HTT", b"GET / HTTP/1.1\r\nx: "])
def test_a_head_that_does_not_come_ends_the_connection(monkeypatch: pytest.MonkeyPatch, start: bytes) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_WITHIN_S", 0.1)
    assert answer_to(start) == b""


def test_so_does_that_of_a_later_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_WITHIN_S", 0.1)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        await reader.readuntil(b"\r\n\r\n0")
        writer.write(b"GET / HTT")
        assert await reader.read() == b""

    converse(talk)


def test_the_time_of_a_head_is_not_that_of_its_body(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_WITHIN_S", 0.1)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"POST / HTTP/1.1\r\nContent-Length: 1\r\n\r\n")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.read(), 0.3)
        writer.write(b"x")
        assert (await reader.readline()).strip() == OK

    converse(talk)
