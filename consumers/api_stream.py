"""The route of the live timeline: server-sent events. Next: live_streams.py, event_stream.py."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Request

from consumers.event_stream import MEDIA_TYPE, EventStream
from consumers.live_position import parse_position
from consumers.live_streams import Streams
from infra.http_access import Reading, token_in
from infra.http_frame import HEAD
from infra.http_input import OpenStores
from infra.http_problems import documented

router = APIRouter(responses=documented(422, 503))

EXAMPLE = """retry: 2000
id: 1-9c5f7f6a-8d3a1c6d2b9e4f70-4711.0.0--

id: 1-9c5f7f6a-8d3a1c6d2b9e4f70-4713.1.0--
event: update
data: {"id":"3799912185593856000","author_id":"1007","text":"Hello","created_at":"2026-01-31T12:00:00.250000Z", …}

id: 1-9c5f7f6a-8d3a1c6d2b9e4f70-4719.1.6--
event: delete
data: {"id": "3799912185593856000"}

: heartbeat
id: 1-9c5f7f6a-8d3a1c6d2b9e4f70-4724.0.11--
"""
_STREAM: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Events without an end",
        "content": {MEDIA_TYPE: {"schema": {"type": "string"}, "example": EXAMPLE}},
        "headers": {
            "Cache-Control": {"description": "Always no-store.", "schema": {"type": "string"}},
            "X-Accel-Buffering": {"description": "Always no.", "schema": {"type": "string"}},
        },
    }
}


async def streams_of(request: Request, stores: OpenStores) -> Streams:
    """The app's streams; made with the first one, on the event loop."""
    state = request.app.state
    if not hasattr(state, "streams"):
        state.streams = Streams(stores, state.settings.need("kafka_bootstrap"))
        state.on_stop.append(state.streams.end)
        state.parts.callback(state.streams.shut)
    streams = state.streams
    assert isinstance(streams, Streams)
    return streams


@router.get(
    "/timelines/home/stream",
    tags=["timelines"],
    status_code=200,
    response_class=EventStream,
    responses=_STREAM | documented(403),
)
async def home_stream(
    access: Reading,
    streams: Annotated[Streams, Depends(streams_of)],
    request: Request,
    last_event_id: Annotated[
        str | None,
        Header(description="The id of the last event that the client has; the stream goes on behind it."),
    ] = None,
) -> EventStream:
    """The home timeline as it changes. Needs scope read.

    `update` is a tweet, new in the timeline of the token's user: his own, or of somebody whom he follows; its data is
    what GET /v1/tweets/{id} answers. `delete` has the id of a tweet that is gone. `reload` asks the client to read
    GET /v1/timelines/home again: whom the user follows has changed, or the stream could not go on where the client was;
    its data is `{"reason": …, "detail": …}`. `dropped` is the last event of a stream that is ended, with the same data.

    Events come within a log, not by time: their ids are positions and say nothing else. Whoever opens the stream again
    with the last id in `Last-Event-ID` is told what came in between, each event once. Whoever opens it without one and
    then reads the home timeline has everything; a tweet of that page may come once more. A comment comes every 15 s.
    """
    position = parse_position(last_event_id) if last_event_id else None
    if request.scope.get(HEAD):
        return EventStream()
    token = token_in(request.headers.get("authorization"))
    assert token is not None

    async def check() -> None:
        await asyncio.wrap_future(request.app.state.token_checks.submit(token))

    return EventStream(await streams.begun(access.user_id, position), check, streams.close)
