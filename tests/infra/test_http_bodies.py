"""Clients that send their bodies slowly, or never: they are waited for a bounded time, and keep nobody out."""

from collections.abc import AsyncIterator, Awaitable, Callable

import anyio
import httpx
import pytest
from fastapi import HTTPException

from infra import http_bodies, http_frame
from infra.http_bodies import BODY_BYTES_MAX, Place, Room
from infra.tokens import Scope
from tests.http_client import Client, client_without_servers, problem_of

WITHIN_S = 5.0

Ask = Callable[..., Awaitable[httpx.Response]]


@pytest.fixture
def client() -> Client:
    return client_without_servers()


def asking(client: Client, test: Callable[[Ask], Awaitable[None]]) -> None:
    """Runs a test that asks several things at the same time, with `ask(method, path, **given)`."""

    async def run() -> None:
        transport = httpx.ASGITransport(client.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://fanfold.test") as http:
            with anyio.fail_after(WITHIN_S):
                await test(http.request)

    anyio.run(run)


async def post(ask: Ask, body: "Stalled") -> None:
    """Never comes back."""
    await ask("POST", "/v1/users", content=body)


class Stalled:
    """A body that begins and never ends."""

    def __init__(self, start: bytes = b'{"handle": ') -> None:
        self.start = start
        self.begun = anyio.Event()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self.start
        self.begun.set()
        await anyio.sleep_forever()


@pytest.mark.parametrize("path", ["/v1/users", "/v1/tweets", "/v1/tweets:batch"])
def test_a_body_that_does_not_end_is_waited_for_a_bounded_time(
    client: Client, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(http_bodies, "BODY_WITHIN_S", 0.05)

    async def stall(ask: Ask) -> None:
        response = await ask("POST", path, content=Stalled(), headers=client.acting(1, Scope.ADMIN))
        assert (
            problem_of(response, 408)
            == "the body was not there within 0.05 s, which is the longest that is waited for one"
        )
        assert response.headers["connection"] == "close"

    asking(client, stall)


def test_the_time_is_that_of_the_whole_body(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each piece comes in time."""
    monkeypatch.setattr(http_bodies, "BODY_WITHIN_S", 0.2)

    async def drops() -> AsyncIterator[bytes]:
        while True:
            yield b" "
            await anyio.lowlevel.checkpoint()

    async def drip(ask: Ask) -> None:
        problem_of(await ask("POST", "/v1/users", content=drops()), 408)

    asking(client, drip)


def test_requests_whose_bodies_do_not_come_keep_nobody_out(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_frame, "REQUESTS_MAX", 3)

    async def crowd(ask: Ask) -> None:
        async with anyio.create_task_group() as group:
            for body in [Stalled() for _ in range(10)]:
                group.start_soon(post, ask, body)
                await body.begun.wait()
            problem_of(await ask("POST", "/v1/users", json={"handle": "a b"}), 422)
            group.cancel_scope.cancel()

    asking(client, crowd)


def test_bodies_that_wait_take_a_bounded_memory(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_bodies, "BODIES_BYTES_MAX", 3 * BODY_BYTES_MAX)

    async def crowd(ask: Ask) -> None:
        async with anyio.create_task_group() as group:
            for body in [Stalled(b" " * BODY_BYTES_MAX) for _ in range(3)]:
                group.start_soon(post, ask, body)
                await body.begun.wait()
            response = await ask("POST", "/v1/users", json={"handle": "a b"})
            assert "the bodies of all requests" in problem_of(response, 503)
            assert response.headers["retry-after"] == "1"
            group.cancel_scope.cancel()
        problem_of(await ask("POST", "/v1/users", json={"handle": "a b"}), 422)

    asking(client, crowd)


def test_a_request_that_was_waited_for_needs_room_again() -> None:
    room = Room(1)
    first, second = Place(room), Place(room)
    first.take()
    first.give_back()
    second.take()
    with pytest.raises(HTTPException, match="1 requests are under way"):
        first.take()
    first.leave()
    assert room.requests == 1
    second.leave()
    assert room.requests == 0


@pytest.mark.parametrize("path", ["/v1/tweets:batch", "/v1/users/1/following:batch"])
def test_the_body_of_a_batch_is_read_only_for_a_token_that_may_send_one(client: Client, path: str) -> None:
    async def never() -> AsyncIterator[bytes]:
        yield pytest.fail("it was read")

    problem_of(client.post(path, content=never()), 401)
    problem_of(client.post(path, content=never(), headers={"Authorization": "Bearer x"}), 401)
    problem_of(client.post(path, content=never(), headers=client.acting(1)), 403)
    problem_of(client.post(path, content=b"{", headers={"Content-Type": "application/json"}), 401)
