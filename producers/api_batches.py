"""The two batch routes: many tweets or follows in one request, each with a result of its own. They need scope admin.

With an idempotency key a batch is answered once (batch_keys.py). One that was cut off can be sent again: follows are
made once anyway, and each tweet has a key of its own, made from the batch's.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

import sqlalchemy as sa
from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel, ConfigDict, JsonValue

from infra.errors import KeyReused, UseError
from infra.http_access import Administration, asking_first
from infra.http_input import OpenStores
from infra.http_problems import Problem, documented, problem_of
from infra.tokens import Scope
from producers import batch_keys
from producers.api_parts import ThePublisher
from producers.api_requests import BatchTweet, CountedFollows, CountedTweets, Key, UserId
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


@dataclass(frozen=True, slots=True)
class Batch:
    """Who sends a batch, with which key, and what makes it another one."""

    engine: sa.Engine
    acting_id: int
    key: str | None
    request: bytes

    def answer(self, act: Callable[[], list[ItemResult]]) -> BatchAnswer:
        """With a key it is kept, and what was kept is answered again: up to 1 MB for 5,000 refusals, which PostgreSQL
        compresses. Raises `KeyReused`."""
        if self.key is None:
            return BatchAnswer(results=act())
        name = (self.acting_id, self.key)
        before = batch_keys.claim(self.engine, name, self.request)
        if before is not None:
            return BatchAnswer.model_validate_json(before)
        answer = BatchAnswer(results=act())
        batch_keys.keep(self.engine, name, self.request, answer.model_dump_json(exclude_none=True))
        return answer


async def _batch_of(request: Request, access: Administration, stores: OpenStores, key: Key) -> Batch:
    what = f"{request.scope['path']} ".encode() + await request.body()
    return Batch(stores.engine, access.user_id, key, what)


ThisBatch = Annotated[Batch, Depends(_batch_of)]


@router.post("/tweets:batch", tags=["tweets"], responses=documented(400, 403, 409), response_model_exclude_none=True)
def post_many(new: CountedTweets, batch: ThisBatch, publisher: ThePublisher) -> BatchAnswer:
    """Post tweets as any users. Needs scope admin."""

    def act() -> list[ItemResult]:
        outcomes = publisher.post_many([_new_tweet(one, batch, place) for place, one in enumerate(new.tweets)])
        return [_result(one, 201, None if isinstance(one, UseError) else one.id, batch.key) for one in outcomes]

    return batch.answer(act)


@router.post(
    "/users/{id}/following:batch",
    tags=["users"],
    responses=documented(400, 403, 409),
    response_model_exclude_none=True,
)
def follow_many(user_id: UserId, new: CountedFollows, batch: ThisBatch, publisher: ThePublisher) -> BatchAnswer:
    """A user follows many others from now on; whom he follows already is no error. Needs scope admin."""

    def act() -> list[ItemResult]:
        outcomes: Sequence[bool | UseError] = publisher.follow_many([(user_id, other_id) for other_id in new.ids])
        return [_result(one, 204, other_id, batch.key) for one, other_id in zip(outcomes, new.ids, strict=True)]

    return batch.answer(act)


def item_key(acting_id: int, key: str, place: int) -> str:
    """The key of one item, made from the batch's: so what is posted already is not posted again. It is kept under the
    item's author, so it says who acts: two of them may choose the same key."""
    return f"{hashlib.sha256(f'{acting_id}:{key}'.encode()).hexdigest()}:{place}"


def _new_tweet(new: BatchTweet, batch: Batch, place: int) -> NewTweet:
    key = None if batch.key is None else item_key(batch.acting_id, batch.key, place)
    return NewTweet(new.author_id or batch.acting_id, new.text or "", new.reply_to, new.retweet_of, key)


def _result(outcome: object, status: int, any_id: int | None, key: str | None) -> ItemResult:
    if isinstance(outcome, KeyReused):  # its message has the item's key, which the caller does not know
        outcome = KeyReused(f"the idempotency key {key!r} was sent before, with another tweet; take a new one")
    if isinstance(outcome, UseError):
        refused = problem_of(outcome)
        return ItemResult(status=refused.status, problem=refused)
    return ItemResult(status=status, id=str(any_id))
