"""What routes of both folders answer with: users and tweets as JSON. Ids are strings: they are over 2^53."""

from datetime import UTC, datetime
from typing import Protocol

from pydantic import BaseModel, ConfigDict, JsonValue

USER_EXAMPLE: JsonValue = {"id": "1007", "handle": "ada"}
TWEET_EXAMPLE: dict[str, JsonValue] = {
    "id": "3799912185593856000",
    "author_id": "1007",
    "text": "Hello",
    "created_at": "2026-01-31T12:00:00.250000Z",
    "reply_to": None,
    "retweet_of": None,
    "counts": {"likes": 0, "retweets": 0, "replies": 0},
}


class StoredUser(Protocol):
    """A user of any module."""

    @property
    def id(self) -> int: ...
    @property
    def handle(self) -> str: ...


class StoredTweet(Protocol):
    """A tweet of any module: as it was published, or as it is cached."""

    @property
    def id(self) -> int: ...
    @property
    def author_id(self) -> int: ...
    @property
    def text(self) -> str: ...
    @property
    def created_at(self) -> datetime: ...
    @property
    def reply_to(self) -> int | None: ...
    @property
    def retweet_of(self) -> int | None: ...


class StoredCounts(Protocol):
    """Counts of any module."""

    @property
    def likes(self) -> int: ...
    @property
    def retweets(self) -> int: ...
    @property
    def replies(self) -> int: ...


class UserAnswer(BaseModel):
    """A user."""

    model_config = ConfigDict(json_schema_extra={"examples": [USER_EXAMPLE]})

    id: str
    handle: str


class Counts(BaseModel):
    """How often a tweet was liked, retweeted and answered."""

    likes: int = 0
    retweets: int = 0
    replies: int = 0


NOTHING_COUNTED = Counts()


class TweetAnswer(BaseModel):
    """A live tweet. A retweet repeats the original's text."""

    model_config = ConfigDict(json_schema_extra={"examples": [TWEET_EXAMPLE]})

    id: str
    author_id: str
    text: str
    created_at: datetime
    reply_to: str | None
    retweet_of: str | None
    counts: Counts


def user_answer(user: StoredUser) -> UserAnswer:
    """A user as JSON."""
    return UserAnswer(id=str(user.id), handle=user.handle)


def tweet_answer(tweet: StoredTweet, counts: StoredCounts = NOTHING_COUNTED) -> TweetAnswer:
    """A tweet as JSON, its time in UTC; without `counts` as it is just posted."""
    return TweetAnswer(
        id=str(tweet.id),
        author_id=str(tweet.author_id),
        text=tweet.text,
        created_at=tweet.created_at.astimezone(UTC),
        reply_to=id_text(tweet.reply_to),
        retweet_of=id_text(tweet.retweet_of),
        counts=Counts(likes=counts.likes, retweets=counts.retweets, replies=counts.replies),
    )


def id_text(any_id: int | None) -> str | None:
    """An id as JSON shows it."""
    return None if any_id is None else str(any_id)
