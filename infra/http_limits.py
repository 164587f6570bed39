"""Rate limits around every request under /v1: by client address, and by token if there is one (rate_limits.py).

The address is the peer's, or what a trusted proxy says (api_server.py); of an IPv6 address the first 64 bits, since
each client has all addresses below them. A token is counted as it was sent, before it is checked.
"""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from ipaddress import AddressValueError, IPv6Address

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from infra.errors import FanfoldError
from infra.http_problems import problem
from infra.live_settings import LiveSettings
from infra.rate_limits import Bucket, Level, bucket_of

PREFIX = "/v1/"
BATCHES_AT_ONCE = 2  # the second call starts while the first one is under way
IPV6_HOST_BITS = 64


class Limits:
    """ASGI middleware. `closed`: when Redis does not answer, so do we (503); otherwise requests go unlimited then."""

    def __init__(
        self,
        app: ASGIApp,
        take: Callable[[Sequence[Bucket]], "Future[Level]"],
        live: Callable[[], LiveSettings],
        closed: bool,
    ) -> None:
        self._app = app
        self._take = take
        self._live = live
        self._closed = closed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers 429 and 503 itself; everything else is the app's, and gets the headers."""
        buckets = buckets_of(scope, self._live()) if scope["type"] == "http" else []
        if not buckets:
            await self._app(scope, receive, send)
            return
        try:
            level = await asyncio.wrap_future(self._take(buckets))
        except FanfoldError:
            if self._closed:
                detail = "Redis does not answer, and without it no rate limit can be checked; try again"
                await problem(503, detail)(scope, receive, send)
            else:
                await self._app(scope, receive, send)
            return
        if level.allowed:
            await self._app(scope, receive, _with_headers(send, level.headers))
        else:
            detail = f"more than {level.bucket.rate} requests a second {level.bucket.whose}; try again in a moment"
            await problem(429, detail, level.headers)(scope, receive, send)


def buckets_of(scope: Scope, live: LiveSettings) -> list[Bucket]:
    """The buckets that a request takes from; none if it is not limited."""
    if not scope["path"].startswith(PREFIX):
        return []
    buckets = []
    if live.rate_per_address:
        address = client_network(scope["client"][0] if scope.get("client") else "")
        buckets.append(bucket_of("from this address", address, live.rate_per_address))
    if live.rate_per_token:
        _, _, token = Headers(scope=scope).get("authorization", "").strip().partition(" ")
        if token:
            buckets.append(bucket_of("with this token", token.strip(), live.rate_per_token))
    return buckets


def client_network(address: str) -> str:
    """Whose address this is: itself, or of an IPv6 address what all of one client's have in common."""
    if ":" not in address:
        return address
    try:
        parsed = IPv6Address(address)
    except AddressValueError:
        return address  # a proxy's word for somebody whose address it does not tell
    number = int(parsed) >> IPV6_HOST_BITS << IPV6_HOST_BITS
    return str(parsed.ipv4_mapped or IPv6Address(number))


def _with_headers(send: Send, headers: dict[str, str]) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(headers)
        await send(message)

    return send_with_headers
