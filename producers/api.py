"""The writing routes: users, tweets, following. Next: publish.py."""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from infra.http_access import Writing, check_acts_for
from infra.http_answers import TweetAnswer, UserAnswer, tweet_answer, user_answer
from infra.http_document import PUBLIC
from infra.http_input import Id, OpenStores
from infra.http_problems import documented
from infra.tokens import Scope
from producers.publish import NewTweet, Publisher

router = APIRouter(responses=documented(422, 503))

UserId = Annotated[Id, Path(alias="id", description="A user's id.")]
OtherId = Annotated[Id, Path(alias="other", description="The id of the user who is followed.")]
TweetId = Annotated[Id, Path(alias="id", description="A tweet's id.")]


class UserRequest(BaseModel):
    """A user to create."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"handle": "ada"}]})

    handle: str = Field(description="1 to 30 letters, digits or underscores.")
    id: Id | None = Field(None, description="Made when it is left out.")


class TweetRequest(BaseModel):
    """A tweet to post. A retweet has no text and no `reply_to` of its own."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"text": "Hello"}]})

    text: str | None = Field(None, description="1 to 280 characters after NFC.")
    reply_to: Id | None = Field(None, description="The tweet that this one answers.")
    retweet_of: Id | None = Field(None, description="The tweet that this one repeats.")


async def publisher_of(request: Request, stores: OpenStores) -> Publisher:
    """The app's one publisher: its ids come from one sequence. On the event loop, so it is made once."""
    state = request.app.state
    if not hasattr(state, "publisher"):
        state.publisher = Publisher(stores)
    publisher = state.publisher
    assert isinstance(publisher, Publisher)
    return publisher


ThePublisher = Annotated[Publisher, Depends(publisher_of)]


@router.post("/users", status_code=201, tags=["users"], responses=documented(400, 409, 413), openapi_extra=PUBLIC)
def create_user(new: UserRequest, publisher: ThePublisher, response: Response) -> UserAnswer:
    """Create a user."""
    user = publisher.create_user(new.handle, new.id)
    response.headers["Location"] = f"/v1/users/{user.id}"
    return user_answer(user)


@router.post("/tweets", status_code=201, tags=["tweets"], responses=documented(400, 403, 404, 413))
def post(new: TweetRequest, access: Writing, publisher: ThePublisher, response: Response) -> TweetAnswer:
    """Post a tweet, an answer or a retweet as the token's user. Needs scope write."""
    tweet = publisher.post(NewTweet(access.user_id, new.text or "", new.reply_to, new.retweet_of))
    response.headers["Location"] = f"/v1/tweets/{tweet.id}"
    return tweet_answer(tweet)


@router.delete(
    "/tweets/{id}", status_code=204, response_class=Response, tags=["tweets"], responses=documented(403, 404)
)
def delete(tweet_id: TweetId, access: Writing, publisher: ThePublisher) -> None:
    """Delete a tweet of the token's user, with scope admin anybody's; after the answer no read shows it. Deleting again
    is safe. Needs scope write."""
    publisher.delete(tweet_id, None if access.may(Scope.ADMIN) else access.user_id)


@router.put(
    "/users/{id}/following/{other}",
    status_code=204,
    response_class=Response,
    tags=["users"],
    responses=documented(403, 404, 409),
)
def follow(user_id: UserId, other_id: OtherId, access: Writing, publisher: ThePublisher) -> None:
    """A user follows another one from now on. Needs scope write."""
    check_acts_for(access, user_id)
    publisher.follow(user_id, other_id)


@router.delete(
    "/users/{id}/following/{other}",
    status_code=204,
    response_class=Response,
    tags=["users"],
    responses=documented(403, 404, 409),
)
def unfollow(user_id: UserId, other_id: OtherId, access: Writing, publisher: ThePublisher) -> None:
    """A user no longer follows another one. Needs scope write."""
    check_acts_for(access, user_id)
    publisher.unfollow(user_id, other_id)
