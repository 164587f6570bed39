"""What the writing routes are sent: bodies, paths and the idempotency key."""

from typing import Annotated

from fastapi import Depends, Header, Path, Request
from pydantic import BaseModel, ConfigDict, Field, JsonValue, WithJsonSchema

from infra.http_input import Id
from infra.http_limits import count_items
from producers.idempotency import check_key
from producers.rules import HANDLE

TWEETS_MAX = 500  # of one batch: one transaction, and 2 MB of JSON at most
FOLLOWS_MAX = 5_000  # of one batch: ten transactions of some 0.1 s

UserId = Annotated[Id, Path(alias="id", description="A user's id.")]
OtherId = Annotated[Id, Path(alias="other", description="Another user's id.")]
TweetId = Annotated[Id, Path(alias="id", description="A tweet's id.")]

_HANDLE: dict[str, JsonValue] = {"pattern": f"^{HANDLE.pattern}$"}
_TWEETS: list[JsonValue] = [
    {"text": "Hello"},
    {"text": "And to you", "reply_to": "3799912185593856000"},
    {"retweet_of": "3799912185593856000"},
]
_BATCH: list[JsonValue] = [{"tweets": [{"text": "Hello", "author_id": "1007"}, {"text": "Hello again"}]}]


class UserRequest(BaseModel):
    """A user to create."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"handle": "ada"}, {"handle": "ada", "id": "1007"}]}
    )

    handle: str = Field(description="1 to 30 letters, digits or underscores.", json_schema_extra=_HANDLE)
    id: Id | None = Field(None, description="Made when it is left out.")


class TweetRequest(BaseModel):
    """A tweet to post. A retweet has no text and no `reply_to` of its own."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": _TWEETS})

    text: str | None = Field(None, description="1 to 280 characters after NFC.")
    reply_to: Id | None = Field(None, description="The tweet that this one answers.")
    retweet_of: Id | None = Field(None, description="The tweet that this one repeats.")


class BatchTweet(TweetRequest):
    """A tweet of a batch."""

    author_id: Id | None = Field(None, description="Who posts it; the token's user when it is left out.")


class TweetsRequest(BaseModel):
    """Tweets to post, in this order."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": _BATCH})

    tweets: list[BatchTweet] = Field(max_length=TWEETS_MAX)


class FollowsRequest(BaseModel):
    """Users to follow."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"ids": ["1008", "1009"]}]})

    ids: list[Id] = Field(max_length=FOLLOWS_MAX)


KEY_SCHEMA = {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$", "examples": ["7f0c9b1e"]}


async def idempotency_key(
    given: Annotated[
        Annotated[str, WithJsonSchema(KEY_SCHEMA)] | None,
        Header(
            alias="Idempotency-Key",
            description="Of the caller's making. For a day the same request with the same key is answered the same "
            "and does nothing more; another request with it is refused (409).",
        ),
    ] = None,
) -> str | None:
    """The key. Raises `InvalidInput` for one that breaks the rule."""
    return None if given is None else check_key(given)


Key = Annotated[str | None, Depends(idempotency_key)]


async def _counted_tweets(request: Request, new: TweetsRequest) -> TweetsRequest:
    await count_items(request, len(new.tweets))
    return new


async def _counted_follows(request: Request, new: FollowsRequest) -> FollowsRequest:
    await count_items(request, len(new.ids))
    return new


# Batches that were taken from their rate limits.
CountedTweets = Annotated[TweetsRequest, Depends(_counted_tweets)]
CountedFollows = Annotated[FollowsRequest, Depends(_counted_follows)]
