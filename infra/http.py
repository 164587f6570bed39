"""The HTTP API's frame: finds each folder's routes by entry points, answers every error with a problem document.

Routes are plain functions on threads, since the stores are synchronous. Next: producers/api.py, consumers/api.py.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import entry_points, version
from typing import Any

from anyio.to_thread import current_default_thread_limiter
from fastapi import FastAPI

from infra import http_health
from infra.composition import Stores
from infra.database import POOL_CONNECTIONS_MAX
from infra.http_frame import Frame
from infra.http_problems import Problem, answer_problems

ROUTE_GROUP = "fanfold.routes"
PREFIX = "/v1"
THREADS = POOL_CONNECTIONS_MAX  # a route holds at most one connection at a time, so none waits for the pool

DESCRIPTION = """
Users post and follow; home timelines show what the followed ones posted.

Ids are strings of digits. Until there are tokens, the header `X-Fanfold-User` names the acting user.
Lists are paged: `max_id` asks for what is older, `since_id` and `min_id` for what is newer (`min_id` from the oldest
on), `limit` for how many; the `Link` header has the neighbouring pages. Errors are problem documents (RFC 9457).
"""


class HttpApi(FastAPI):
    """FastAPI whose OpenAPI document knows our problem document."""

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document; made once."""
        document = super().openapi()
        document["components"]["schemas"].setdefault("Problem", Problem.model_json_schema())
        return document


def create_app(stores: Stores) -> FastAPI:
    """The whole API over these stores, which the caller closes."""
    app = HttpApi(
        title="Fanfold",
        version=version("fanfold"),
        description=DESCRIPTION,
        lifespan=_lifespan,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.stores = stores
    app.add_middleware(Frame)
    answer_problems(app)
    app.include_router(http_health.router)
    for point in sorted(entry_points(group=ROUTE_GROUP), key=lambda point: point.name):
        app.include_router(point.load(), prefix=PREFIX)
    return app


@asynccontextmanager
async def _lifespan(_: FastAPI) -> AsyncIterator[None]:
    current_default_thread_limiter().total_tokens = THREADS
    yield
