"""The two batch routes: many tweets or follows in one request, each with a result of its own. They need scope admin.

A request that was cut off can be sent again: follows are made once anyway, and with an idempotency key tweets are too.
"""

import hashlib
from collections.abc import Sequence

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, JsonValue

from infra.errors import UseError
from infra.http_access import Administration, asking_first
from infra.http_problems import Problem, documented, problem_of
from infra.tokens import Scope
from producers.api_parts import ThePublisher
from producers.api_requests import BatchTweet, FollowsRequest, Key, RawBody, TweetsRequest, UserId
from producers.publish import NewTweet

router = APIRouter(route_class=asking_first(Scope.ADMIN))

_NOT_FOUND: JsonValue = {
    "type": "urn:fanfold:problem:not-found",
    "title": "Not found",
    "status": 404,
    "detail": "user 1009 does not exist",
}


class ItemResult(BaseModel):
    """What one item would have been answered alone: its status, and the id or the problem."""

    status: int
    id: str | None = None
    problem: Problem | None = None


class BatchAnswer(BaseModel):
    """A result for each item, in the order of the request."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"results": [{"status": 201, "id": "3799912185593856000"}, {"status": 404, "problem": _NOT_FOUND}]}
            ]
        }
    )

    results: list[ItemResult]


@router.post(
    "/tweets:batch",
    tags=["tweets"],
    responses=documented(400, 403, 409),
    response_model_exclude_none=True,
)
def post_many(
    new: TweetsRequest, access: Administration, publisher: ThePublisher, key: Key, body: RawBody
) -> BatchAnswer:
    """Post tweets as any users. Needs scope admin."""
    if key is not None:
        publisher.claim_key(access.user_id, key, body)
    tweets = [_new_tweet(one, access.user_id, key, place) for place, one in enumerate(new.tweets)]
    results = publisher.post_many(tweets)
    return BatchAnswer(results=[_result(one, 201, None if isinstance(one, UseError) else one.id) for one in results])


@router.post(
    "/users/{id}/following:batch",
    tags=["users"],
    responses=documented(400, 403, 409),
    response_model_exclude_none=True,
)
def follow_many(
    user_id: UserId, new: FollowsRequest, access: Administration, publisher: ThePublisher, key: Key, body: RawBody
) -> BatchAnswer:
    """A user follows many others from now on; whom he follows already is no error. Needs scope admin."""
    if key is not None:
        publisher.claim_key(access.user_id, key, b"%d %b" % (user_id, body))
    results: Sequence[bool | UseError] = publisher.follow_many([(user_id, other_id) for other_id in new.ids])
    return BatchAnswer(results=[_result(one, 204, other_id) for one, other_id in zip(results, new.ids, strict=True)])


def _new_tweet(new: BatchTweet, acting_id: int, key: str | None, place: int) -> NewTweet:
    """Each item has a key of its own, made from the batch's: so what is posted already is not posted again."""
    item_key = None if key is None else f"{hashlib.sha256(key.encode()).hexdigest()}:{place}"
    return NewTweet(new.author_id or acting_id, new.text or "", new.reply_to, new.retweet_of, item_key)


def _result(outcome: object, status: int, any_id: int | None) -> ItemResult:
    if isinstance(outcome, UseError):
        refused = problem_of(outcome)
        return ItemResult(status=refused.status, problem=refused)
    return ItemResult(status=status, id=str(any_id))
