"""The route of the live timeline: server-sent events. Next: live_streams.py, stream_routes.py."""

from typing import Annotated

from fastapi import APIRouter, Depends, Request

from consumers.event_stream import EventStream
from consumers.live_position import parse_position
from consumers.live_streams import Streams
from consumers.stream_routes import LastEventId, stream_answer, streams_of_app, token_check
from infra.http_access import Reading
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
_STREAM = stream_answer(EXAMPLE)


async def streams_of(request: Request, stores: OpenStores) -> Streams:
    """The app's streams; made with the first one, on the event loop."""
    return streams_of_app(request, "streams", Streams, stores)


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
    last_event_id: LastEventId = None,
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
    queue = await streams.begun_for(access.user_id, position)
    return EventStream(queue, token_check(request), streams.close)
