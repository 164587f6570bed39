"""The route of the activity log: server-sent events with a filter. Next: activity_streams.py, stream_routes.py."""

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request

from consumers.activity_position import parse_position
from consumers.activity_streams import ActivityStreams
from consumers.event_stream import EventStream
from consumers.stream_routes import LastEventId, stream_answer, streams_of_app, token_check
from consumers.tweet_stream_filter import TEXT_CHARS_MAX, Filter
from infra import social
from infra.composition import Stores
from infra.events import ActivityType
from infra.http_access import Reading
from infra.http_frame import HEAD
from infra.http_input import Id, OpenStores
from infra.http_problems import documented

AUTHORS_MAX = 100  # of one stream: each is looked up, and they have to fit into a request's first line

router = APIRouter(responses=documented(422, 503))

EXAMPLE = """retry: 2000
id: 1-9c5f7f6a-0.0.12.4711.0.3.0.0

id: 1-9c5f7f6a-0.0.12.4713.0.3.0.0
event: posted
data: {"type":"posted","author_id":"1007","published_at":"2026-01-31T12:00:00.250Z","tweet_id":"3799912185593856000","text":"Hello","reply_to":null,"retweet_of":null}

: heartbeat
id: 1-9c5f7f6a-0.0.12.4719.0.3.0.0
"""  # noqa: E501
_STREAM = stream_answer(EXAMPLE)


async def streams_of(request: Request, stores: OpenStores) -> ActivityStreams:
    """The app's streams of activity; made with the first one, on the event loop."""
    return streams_of_app(request, "activity_streams", ActivityStreams, stores)


def filter_of(
    stores: OpenStores,
    types: Annotated[
        list[ActivityType] | None, Query(alias="type", description="Only these types; may be given again.")
    ] = None,
    author: Annotated[
        list[Id] | None, Query(max_length=AUTHORS_MAX, description="Only these authors' events; may be given again.")
    ] = None,
    grep: Annotated[
        str | None,
        Query(min_length=1, max_length=TEXT_CHARS_MAX, description="Only posted tweets with this text, in any case."),
    ] = None,
) -> Filter:
    """What is asked for. Raises `NotFound` for an author who does not exist."""
    return Filter(frozenset(types or ()), frozenset(_known(stores, one) for one in author or ()), grep)


def _known(stores: Stores, author_id: int) -> int:
    return social.user(stores.engine, author_id).id


@router.get(
    "/stream",
    tags=["stream"],
    status_code=200,
    response_class=EventStream,
    responses=_STREAM | documented(403, 404),
)
async def activity_stream(
    access: Reading,
    only: Annotated[Filter, Depends(filter_of)],
    streams: Annotated[ActivityStreams, Depends(streams_of)],
    request: Request,
    last_event_id: LastEventId = None,
) -> EventStream:
    """What all authors do, as it happens. Needs scope read.

    The events are `posted`, `deleted`, `followed`, `unfollowed` and `status_changed`, with the data that
    `fanfold tail --json` prints. `gap` says that the stream could not go on where the client was, and begins now;
    `dropped` is the last event of a stream that is ended. Both have `{"reason": …, "detail": …}`.

    Events of one author come in order. Ids are positions and say nothing else. Whoever opens the stream again with the
    last id in `Last-Event-ID`, and the same filter, is told what came in between. An event may come more than once in
    the log, and then does here. A comment comes every 15 s.
    """
    position = parse_position(last_event_id) if last_event_id else None
    if request.scope.get(HEAD):
        return EventStream()
    queue = await streams.begun_for(access.user_id, only, position)
    return EventStream(queue, token_check(request), streams.close)
