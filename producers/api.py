"""The writing routes: users, tweets, likes, following, blocking. Each is safe to repeat. Next: publish.py."""

import asyncio
from typing import Any

import structlog
from fastapi import APIRouter, Depends, Response
from fastapi.concurrency import run_in_threadpool

from infra.errors import FanfoldError
from infra.http_access import Writing, check_acts_for
from infra.http_answers import TweetAnswer, UserAnswer, tweet_answer, user_answer
from infra.http_document import PUBLIC
from infra.http_json import StrictRoute
from infra.http_problems import RETRY_AFTER_S, documented
from infra.tokens import Scope
from producers import api_batches
from producers.api_parts import ThePublisher, room_for_writes
from producers.api_requests import Key, OtherId, TweetId, TweetRequest, UserId, UserRequest
from producers.publish import NewTweet, Publisher
from producers.publish_async import AsyncPublisher

log = structlog.get_logger()
router = APIRouter(route_class=StrictRoute, responses=documented(422, 503), dependencies=[Depends(room_for_writes)])
router.include_router(api_batches.router)

DELETE_WITHIN_S = 5.0  # some ten thousand tweets and follows; what is left goes later

_EMPTY: dict[str, Any] = {"status_code": 204, "response_class": Response}
_LOCATION = {"Location": {"description": "Where it can be read.", "schema": {"type": "string"}}}
_CREATED: dict[int | str, dict[str, Any]] = {201: {"headers": _LOCATION}}
_BEGUN: dict[int | str, dict[str, Any]] = {
    202: {
        "description": "Nobody finds the user any more; his tweets and follows go within minutes",
        "headers": {"Retry-After": {"description": "In seconds.", "schema": {"type": "integer"}}},
    }
}


@router.post("/users", status_code=201, tags=["users"], responses=_CREATED | documented(400, 409), openapi_extra=PUBLIC)
def create_user(new: UserRequest, publisher: ThePublisher, key: Key, response: Response) -> UserAnswer:
    """Create a user."""
    user = publisher.create_user(new.handle, new.id, key)
    response.headers["Location"] = f"/v1/users/{user.id}"
    return user_answer(user)


@router.delete("/users/{id}", **_EMPTY, tags=["users"], responses=_BEGUN | documented(403, 404))
def delete_user(user_id: UserId, access: Writing, publisher: ThePublisher) -> Response:
    """Delete a user with his tweets and follows. At once nobody finds him and his tokens are refused. Needs scope
    write."""
    check_acts_for(access, user_id)
    publisher.hide_user(user_id)
    if _erased(publisher, user_id):
        return Response(status_code=204)
    return Response(status_code=202, headers={"Retry-After": str(RETRY_AFTER_S)})


def _erased(publisher: Publisher, user_id: int) -> bool:
    """Whether all of a hidden user is gone. He cannot repeat the request, his token is refused by now: so what goes
    wrong is no answer for him, and the housekeeping of the relay repeats it."""
    try:
        return publisher.delete_user(user_id, limit_s=DELETE_WITHIN_S).complete
    except FanfoldError as error:
        log.warning("user not wholly deleted yet", user=user_id, error=str(error))
        return False


@router.post("/tweets", status_code=201, tags=["tweets"], responses=_CREATED | documented(400, 403, 404, 409))
async def post(
    new: TweetRequest, access: Writing, publisher: ThePublisher, key: Key, response: Response
) -> TweetAnswer:
    """Post a tweet, an answer or a retweet as the token's user. Needs scope write."""
    wanted = NewTweet(access.user_id, new.text or "", new.reply_to, new.retweet_of, key)
    tweet = await asyncio.wrap_future(publisher.submit(wanted))  # no thread waits: many requests share a transaction
    response.headers["Location"] = f"/v1/tweets/{tweet.id}"
    return tweet_answer(tweet)


@router.delete("/tweets/{id}", **_EMPTY, tags=["tweets"], responses=documented(403, 404))
def delete(tweet_id: TweetId, access: Writing, publisher: ThePublisher) -> None:
    """Delete a tweet of the token's user, with scope admin anybody's; after the answer no read shows it. Needs scope
    write."""
    publisher.delete(tweet_id, None if access.may(Scope.ADMIN) else access.user_id)


@router.post("/tweets/{id}/like", **_EMPTY, tags=["tweets"], responses=documented(403, 404))
async def like(tweet_id: TweetId, access: Writing, publisher: ThePublisher) -> None:
    """The token's user likes a tweet from now on. Needs scope write."""
    await AsyncPublisher(publisher, run_in_threadpool).like(access.user_id, tweet_id)  # no thread waits for Kafka


@router.delete("/tweets/{id}/like", **_EMPTY, tags=["tweets"], responses=documented(403, 404))
async def unlike(tweet_id: TweetId, access: Writing, publisher: ThePublisher) -> None:
    """The token's user no longer likes a tweet. Needs scope write."""
    await AsyncPublisher(publisher, run_in_threadpool).unlike(access.user_id, tweet_id)


@router.put("/users/{id}/following/{other}", **_EMPTY, tags=["users"], responses=documented(403, 404))
def follow(user_id: UserId, other_id: OtherId, access: Writing, publisher: ThePublisher) -> None:
    """A user follows another one from now on. Refused (403) while either blocks the other. Needs scope write."""
    check_acts_for(access, user_id)
    publisher.follow(user_id, other_id)


@router.delete("/users/{id}/following/{other}", **_EMPTY, tags=["users"], responses=documented(403, 404))
def unfollow(user_id: UserId, other_id: OtherId, access: Writing, publisher: ThePublisher) -> None:
    """A user no longer follows another one. Needs scope write."""
    check_acts_for(access, user_id)
    publisher.unfollow(user_id, other_id)


@router.put("/users/{id}/blocking/{other}", **_EMPTY, tags=["users"], responses=documented(403, 404))
def block(user_id: UserId, other_id: OtherId, access: Writing, publisher: ThePublisher) -> None:
    """A user blocks another one: neither follows the other from now on. Needs scope write."""
    check_acts_for(access, user_id)
    publisher.block(user_id, other_id)


@router.delete("/users/{id}/blocking/{other}", **_EMPTY, tags=["users"], responses=documented(403, 404))
def unblock(user_id: UserId, other_id: OtherId, access: Writing, publisher: ThePublisher) -> None:
    """A user no longer blocks another one; who followed before does not follow again by it. Needs scope write."""
    check_acts_for(access, user_id)
    publisher.unblock(user_id, other_id)
