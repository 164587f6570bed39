"""Rate limits around every request under /v1: by client address, and by token if there is one (rate_limits.py).

The address is the peer's, or what a trusted proxy says (api_server.py); of an IPv6 address the first 64 bits, since
each client has all addresses below them. A token is counted as it was sent, before it is checked. A batch is counted
again once its items are known, before it acts.
"""

import asyncio
import math
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from ipaddress import AddressValueError, IPv6Address

from fastapi import HTTPException, Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from infra.errors import FanfoldError
from infra.http_problems import problem
from infra.live_settings import LiveSettings
from infra.rate_limits import Bucket, Level, bucket_of

PREFIX = "/v1/"
BATCHES_AT_ONCE = 2  # the second call starts while the first one is under way
IPV6_HOST_BITS = 64
# Of a batch: an item costs a tenth of a request (`fanfold bench publish`: 6,481 tweets by post_many, 639 over HTTP).
ITEMS_A_REQUEST = 10
BATCH_S = 1  # what a batch takes at most, so that a large one passes also beside other requests: half of a full bucket
SHARE = "fanfold.share"  # in an ASGI scope


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
        scope[SHARE] = share = Share(self._take, buckets, self._closed)
        try:
            await share.count(1)
        except HTTPException as error:
            await problem(error.status_code, error.detail, dict(error.headers or {}))(scope, receive, send)
        else:
            await self._app(scope, receive, _with_headers(send, share))


class Share:
    """What one request takes of its buckets, and what is left in the tightest of them."""

    def __init__(
        self, take: Callable[[Sequence[Bucket]], "Future[Level]"], buckets: Sequence[Bucket], closed: bool
    ) -> None:
        self._take = take
        self._buckets = buckets
        self._closed = closed
        self.headers: dict[str, str] = {}

    async def count(self, requests: int) -> None:
        """Counts for so many requests, of a bucket at most for `BATCH_S` of its rate. Raises an `HTTPException`: 429,
        or 503 without Redis when that is closed."""
        wanted = [replace(one, requests=min(requests, BATCH_S * one.rate)) for one in self._buckets]
        try:
            level = await asyncio.wrap_future(self._take(wanted))
        except FanfoldError:
            if self._closed:
                detail = "Redis does not answer, and without it no rate limit can be checked; try again"
                raise HTTPException(503, detail) from None
            return
        self.headers = level.headers
        if not level.allowed:
            detail = f"more than {level.bucket.rate} requests a second {level.bucket.whose}; try again in a moment"
            raise HTTPException(429, detail, level.headers)


async def count_items(request: Request, items: int) -> None:
    """Counts a batch of so many items; it was counted as one request already. Raises as `Share.count`."""
    share = request.scope.get(SHARE)
    more = math.ceil(items / ITEMS_A_REQUEST) - 1
    if isinstance(share, Share) and more > 0:
        await share.count(more)


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


def _with_headers(send: Send, share: Share) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(share.headers)
        await send(message)

    return send_with_headers
