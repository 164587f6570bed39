"""What requests may take of a process: so many at once, and their bodies so many bytes and so much time.

A request that waits for its client's body is not counted meanwhile: it holds no thread, and a client that sends slowly,
or nothing, must not keep others out. Used by http_frame.py, on one event loop.
"""

import asyncio

from fastapi import HTTPException
from starlette.types import Message, Receive

BODY_BYTES_MAX = 64 * 1024  # a tweet of 280 four-byte characters, each escaped in JSON, has under 4 kB
# 500 such tweets have under 2 MB, 5,000 ids 120 kB.
BATCH_BODY_BYTES_MAX = {"/tweets:batch": 2 * 1024 * 1024, "/following:batch": 256 * 1024}
BODY_WITHIN_S = 20.0  # the largest one at 100 kB a second
BODIES_BYTES_MAX = 128 * 1024 * 1024  # of all requests together: 1,000 of the usual limit, and 32 of the largest


class Room:
    """What one process takes at once: a number of requests, and so many bytes of their bodies."""

    def __init__(self, requests_max: int) -> None:
        self.requests_max = requests_max
        self.requests = 0
        self.body_bytes = 0


class Place:
    """One request's share of a room; `leave` it in any case. What finds no room raises an `HTTPException` 503."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._counted = False
        self._body_bytes = 0

    def take(self) -> None:
        """The request is worked on from now on."""
        assert not self._counted
        if self._room.requests >= self._room.requests_max:
            raise HTTPException(503, f"{self._room.requests_max} requests are under way; try again")
        self._room.requests += 1
        self._counted = True

    def give_back(self) -> None:
        """The request waits for its client."""
        self._room.requests -= self._counted
        self._counted = False

    def hold(self, body_bytes: int) -> None:
        """So many bytes more of its body are there."""
        self._room.body_bytes += body_bytes
        self._body_bytes += body_bytes
        if self._room.body_bytes > BODIES_BYTES_MAX:
            raise HTTPException(503, f"the bodies of all requests have over {BODIES_BYTES_MAX} bytes; try again")

    def leave(self) -> None:
        """Everything is given back."""
        self.give_back()
        self._room.body_bytes -= self._body_bytes
        self._body_bytes = 0


class BoundedBody:
    """ASGI's `receive`. Raises an `HTTPException`: 413 when the body becomes too large, 408 when it is not there
    `BODY_WITHIN_S` after the app first asked for it, 503 when there is no room for it."""

    def __init__(self, receive: Receive, bytes_max: int, place: Place) -> None:
        self._receive = receive
        self._left_bytes = self._bytes_max = bytes_max
        self._place = place
        self._deadline_s: float | None = None
        self._whole = False

    async def __call__(self) -> Message:
        if self._whole:
            return await self._receive()  # tells when the client goes away, and may wait for that as long as it likes
        self._place.give_back()
        message = await self._received()
        self._place.take()
        received_bytes = len(message.get("body", b""))
        self._left_bytes -= received_bytes
        if self._left_bytes < 0:
            raise too_large(self._bytes_max)
        self._place.hold(received_bytes)
        self._whole = not message.get("more_body", False)
        return message

    async def _received(self) -> Message:
        if self._deadline_s is None:
            self._deadline_s = asyncio.get_running_loop().time() + BODY_WITHIN_S
        try:
            async with asyncio.timeout_at(self._deadline_s):
                return await self._receive()
        except TimeoutError:
            detail = f"the body was not there within {BODY_WITHIN_S:g} s, which is the longest that is waited for one"
            raise HTTPException(408, detail, {"Connection": "close"}) from None


def body_bytes_max(path: str) -> int:
    """How large a body may be there."""
    for end, bytes_max in BATCH_BODY_BYTES_MAX.items():
        if path.endswith(end):
            return bytes_max
    return BODY_BYTES_MAX


def too_large(bytes_max: int) -> HTTPException:
    """What a larger body is answered."""
    return HTTPException(413, f"the body is larger than {bytes_max} bytes, which is the most that is taken here")
