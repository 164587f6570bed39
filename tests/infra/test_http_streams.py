"""The frame and the protocol around streams: their own places, HEAD, and a connection that can be cut."""

from typing import Any

import anyio
import httpx
import pytest
from starlette.types import Receive, Scope, Send

from infra import http_frame
from infra.http_frame import HEAD, STREAM_PATH, Frame

WITHIN_S = 5.0


def test_streams_and_requests_do_not_take_each_others_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_frame, "STREAMS_MAX", 1)
    monkeypatch.setattr(http_frame, "REQUESTS_MAX", 1)

    async def run() -> None:
        held = {STREAM_PATH: anyio.Event(), "/v1/other": anyio.Event()}

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            held[scope["path"]].set()
            await anyio.sleep_forever()

        transport = httpx.ASGITransport(Frame(app))
        async with httpx.AsyncClient(transport=transport, base_url="http://fanfold.test") as client:
            with anyio.fail_after(WITHIN_S):
                async with anyio.create_task_group() as group:
                    for path, event in held.items():
                        group.start_soon(client.get, path)
                        await event.wait()
                    for path in held:
                        refused = await client.get(path)
                        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
                    group.cancel_scope.cancel()

    anyio.run(run)


@pytest.mark.parametrize(("method", "head"), [("GET", None), ("HEAD", True)])
def test_a_route_can_tell_a_head_request_from_one_that_it_must_serve_without_an_end(
    method: str, head: bool | None
) -> None:
    seen: list[tuple[Any, ...]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append((scope["method"], scope.get(HEAD)))
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    async def run() -> None:
        transport = httpx.ASGITransport(Frame(app))
        async with httpx.AsyncClient(transport=transport, base_url="http://fanfold.test") as client:
            await client.request(method, STREAM_PATH)

    anyio.run(run)
    assert seen == [("GET", head)]
