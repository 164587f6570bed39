"""What the routes of streams share: how they are documented, the app's streams, and the check of the token.

Used by api_stream.py and api_activity.py. Next: event_stream.py.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar

from fastapi import Header, Request

from consumers.event_stream import MEDIA_TYPE
from consumers.open_streams import OpenStreams
from infra.composition import Stores
from infra.http_access import token_in

LastEventId = Annotated[
    str | None,
    Header(description="The id of the last event that the client has; the stream goes on behind it."),
]

S = TypeVar("S", bound=OpenStreams)


def stream_answer(example: str) -> dict[int | str, dict[str, Any]]:
    """The answer of a stream in the document."""
    return {
        200: {
            "description": "Events without an end",
            "content": {MEDIA_TYPE: {"schema": {"type": "string"}, "example": example}},
            "headers": {
                "Cache-Control": {"description": "Always no-store.", "schema": {"type": "string"}},
                "X-Accel-Buffering": {"description": "Always no.", "schema": {"type": "string"}},
            },
        }
    }


def streams_of_app(request: Request, name: str, make: Callable[[Stores, str], S], stores: Stores) -> S:
    """The app's streams of one kind; made with the first one, on the event loop."""
    state = request.app.state
    if not hasattr(state, name):
        made = make(stores, state.settings.need("kafka_bootstrap"))
        setattr(state, name, made)
        state.on_stop.append(made.end)
        state.parts.callback(made.shut)
    found: S = getattr(state, name)
    return found


def token_check(request: Request) -> Callable[[], Awaitable[None]]:
    """Asks whether the request's token is good still. Raises what the check raises."""
    token = token_in(request.headers.get("authorization"))
    assert token is not None

    async def check() -> None:
        await asyncio.wrap_future(request.app.state.token_checks.submit(token))

    return check
