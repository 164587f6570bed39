"""The reading routes: users, whom they follow, tweets and timelines. Next: read_timeline.py."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict
from starlette.datastructures import URL

from consumers.read_timeline import Page, State, TimelineReader
from consumers.read_tweet import read_tweet
from consumers.timeline_answers import TimelineAnswer, timeline_answer
from infra import social
from infra.composition import Stores
from infra.http_access import Reading
from infra.http_answers import USER_EXAMPLE, TweetAnswer, UserAnswer, id_text, tweet_answer, user_answer
from infra.http_document import PUBLIC
from infra.http_input import CursorId, Id, OpenStores
from infra.http_problems import RETRY_AFTER_S, documented
from infra.paging import LIMIT_DEFAULT, LIMIT_MAX, Cursor

router = APIRouter(responses=documented(422, 503))

CURSOR_PARAMETERS = ("max_id", "since_id", "min_id")

UserId = Annotated[Id, Path(alias="id", description="A user's id.")]
TweetId = Annotated[Id, Path(alias="id", description="A tweet's id.")]


class UsersAnswer(BaseModel):
    """A page of users, the highest id first. `next_max_id` is null when no more follow."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"users": [USER_EXAMPLE], "next_max_id": "1007"}]})

    users: list[UserAnswer]
    next_max_id: str | None


async def cursor_of(
    limit: Annotated[int, Query(ge=1, le=LIMIT_MAX)] = LIMIT_DEFAULT,
    max_id: Annotated[CursorId | None, Query(description="Only below this id.")] = None,
    since_id: Annotated[CursorId | None, Query(description="Only above this id, from the newest on.")] = None,
    min_id: Annotated[CursorId | None, Query(description="Only above this id, from the oldest on.")] = None,
) -> Cursor:
    """Which page is asked for."""
    return Cursor(limit, max_id, since_id, min_id)


ACursor = Annotated[Cursor, Depends(cursor_of)]

_LINK = {
    "Link": {
        "description": "The pages beside this one: rel next is older, rel prev is newer.",
        "schema": {"type": "string"},
    }
}
_PAGES = documented(404) | {200: {"headers": _LINK}}
_TIMELINES = _PAGES | {
    206: {
        "model": TimelineAnswer,
        "description": "Read from the database while a part of the timeline is being rebuilt; `state` says so",
        "headers": _LINK | {"Retry-After": {"description": "In seconds.", "schema": {"type": "integer"}}},
    }
}


@router.get("/users/{id}", tags=["users"], responses=documented(404), openapi_extra=PUBLIC)
def user(user_id: UserId, stores: OpenStores) -> UserAnswer:
    """One user."""
    return user_answer(social.user(stores.engine, user_id))


@router.get("/users/{id}/followers", tags=["users"], responses=_PAGES, openapi_extra=PUBLIC)
def followers(
    user_id: UserId, cursor: ACursor, stores: OpenStores, request: Request, response: Response
) -> UsersAnswer:
    """Who follows a user."""
    return _users_answer(social.followers(stores.engine, user_id, cursor), request, response)


@router.get("/users/{id}/following", tags=["users"], responses=_PAGES, openapi_extra=PUBLIC)
def following(
    user_id: UserId, cursor: ACursor, stores: OpenStores, request: Request, response: Response
) -> UsersAnswer:
    """Whom a user follows."""
    return _users_answer(social.following(stores.engine, user_id, cursor), request, response)


@router.get("/users/{id}/timeline", tags=["timelines"], responses=_TIMELINES, openapi_extra=PUBLIC)
def user_timeline(
    user_id: UserId, cursor: ACursor, stores: OpenStores, request: Request, response: Response
) -> TimelineAnswer:
    """A user's own tweets."""
    return _timeline_answer(TimelineReader(stores).user(user_id, cursor), stores, request, response)


@router.get("/timelines/home", tags=["timelines"], responses=_TIMELINES | documented(403))
def home_timeline(
    access: Reading, cursor: ACursor, stores: OpenStores, request: Request, response: Response
) -> TimelineAnswer:
    """What the token's user and those whom he follows posted. Needs scope read."""
    return _timeline_answer(TimelineReader(stores).home(access.user_id, cursor), stores, request, response)


@router.get("/tweets/{id}", tags=["tweets"], responses=documented(404), openapi_extra=PUBLIC)
def tweet(tweet_id: TweetId, stores: OpenStores) -> TweetAnswer:
    """One tweet."""
    return tweet_answer(read_tweet(stores.bodies, tweet_id), stores.counts.read([tweet_id])[tweet_id])


def link_header(url: URL, next_min_id: int | None, next_max_id: int | None) -> str:
    """Mastodon's links: `next` to what is older, `prev` to what is newer; empty when there is neither."""
    bare = url.remove_query_params(CURSOR_PARAMETERS)
    links = []
    if next_max_id is not None:
        links.append(f'<{bare.include_query_params(max_id=next_max_id)}>; rel="next"')
    if next_min_id is not None:
        links.append(f'<{bare.include_query_params(min_id=next_min_id)}>; rel="prev"')
    return ", ".join(links)


def _users_answer(page: social.UserPage, request: Request, response: Response) -> UsersAnswer:
    _link(request, response, page.users[0].id if page.users else None, page.next_max_id)
    return UsersAnswer(users=[user_answer(one) for one in page.users], next_max_id=id_text(page.next_max_id))


def _timeline_answer(page: Page, stores: Stores, request: Request, response: Response) -> TimelineAnswer:
    _link(request, response, page.next_min_id, page.next_max_id)
    if page.state is State.REBUILDING:
        response.status_code = 206
        response.headers["Retry-After"] = str(RETRY_AFTER_S)
    return timeline_answer(page, stores.counts.read([one.id for one in page.tweets]))


def _link(request: Request, response: Response, next_min_id: int | None, next_max_id: int | None) -> None:
    header = link_header(request.url, next_min_id, next_max_id)
    if header:
        response.headers["Link"] = header
