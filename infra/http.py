"""The HTTP API's frame: finds each folder's routes by entry points, answers every error with a problem document.

A request passes http_protocol.py, http_frame.py, http_limits.py and http_access.py. Routes that block are plain
functions on threads, since the stores are synchronous. Next: producers/api.py, consumers/api.py.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from importlib.metadata import entry_points, version
from typing import Protocol

from anyio.to_thread import current_default_thread_limiter
from fastapi import Depends, FastAPI

from infra import http_access, http_health, http_limits, rate_limits
from infra.composition import Stores
from infra.database import POOL_CONNECTIONS_MAX
from infra.gathering import Gathering
from infra.http_document import HttpApi
from infra.http_frame import Frame
from infra.http_limits import Limits
from infra.http_problems import answer_problems, documented
from infra.rate_limits import Bucket, Level, RateLimits
from infra.settings import Settings
from infra.tokens import Access, Tokens

ROUTE_GROUP = "fanfold.routes"
PREFIX = "/v1"
GATHERED_CONNECTIONS_MAX = 8  # token checks 2, posts 2, posts that wait for an author 4
THREADS = POOL_CONNECTIONS_MAX - GATHERED_CONNECTIONS_MAX  # each holds one connection at most: none waits for the pool


class ChecksTokens(Protocol):
    """What knows which tokens are valid: `Tokens`, and in tests without a database something else."""

    def check(self, texts: Sequence[str]) -> list[Access | Exception]: ...


def create_app(stores: Stores, settings: Settings, tokens: ChecksTokens | None = None) -> FastAPI:
    """The whole API over these stores, which the caller closes."""
    limits: Gathering[Sequence[Bucket], Level] = Gathering(
        RateLimits(stores.brief).take, rate_limits.BATCH_MAX, http_limits.BATCHES_AT_ONCE, "limits"
    )
    checks: Gathering[str, Access] = Gathering(
        (tokens or Tokens(stores.engine)).check, http_access.CHECKS_BATCH_MAX, http_access.CHECKS_AT_ONCE, "tokens"
    )

    parts = ExitStack()
    parts.callback(limits.close)
    parts.callback(checks.close)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        current_default_thread_limiter().total_tokens = THREADS
        with parts:
            yield

    app = HttpApi(version=version("fanfold"), lifespan=lifespan)
    app.state.stores = stores
    app.state.settings = settings
    app.state.on_stop = []  # called when the server is asked to stop, before requests under way are waited for
    app.state.parts = parts  # routes add what they make and what has to be closed at the end
    app.state.token_checks = checks
    closed = settings.rate_limit_without_redis == "closed"
    app.add_middleware(Limits, take=limits.submit, live=lambda: stores.timelines.live, closed=closed)
    app.add_middleware(Frame)
    answer_problems(app)
    app.include_router(http_health.router)
    for point in sorted(entry_points(group=ROUTE_GROUP), key=lambda point: point.name):
        given_token = [Depends(http_access.access_if_any)]  # also where none is needed, a wrong one is refused
        app.include_router(point.load(), prefix=PREFIX, dependencies=given_token, responses=documented(401, 429))
    return app
