"""What a `TweetStream` hands out: one frozen class for each type of activity. Ids are whole numbers, times are
milliseconds since 1970 in UTC."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, ClassVar

from infra.events import Activity, ActivityType
from infra.tweet_bodies import Body


@dataclass(frozen=True, slots=True)
class Event:
    """Something happened in an author's log. `partition` and `offset` say where it stands in the topic: within a
    partition, and so for each author, events come in this order."""

    type: ClassVar[ActivityType]

    author_id: int
    published_ms: int
    partition: int
    offset: int

    @property
    def published_at(self) -> datetime:
        """When it was published, in UTC."""
        return datetime.fromtimestamp(self.published_ms / 1000, UTC)


@dataclass(frozen=True, slots=True)
class Posted(Event):
    """The author posted a tweet. `tweet` is what it says, when the stream was given `bodies`; None when it was not, or
    when the tweet is no longer live."""

    type: ClassVar[ActivityType] = ActivityType.POSTED

    tweet_id: int
    tweet: Body | None = None


@dataclass(frozen=True, slots=True)
class Deleted(Event):
    """The author's tweet is gone."""

    type: ClassVar[ActivityType] = ActivityType.DELETED

    tweet_id: int


@dataclass(frozen=True, slots=True)
class Followed(Event):
    """`follower_id` follows the author."""

    type: ClassVar[ActivityType] = ActivityType.FOLLOWED

    follower_id: int


@dataclass(frozen=True, slots=True)
class Unfollowed(Event):
    """`follower_id` no longer follows the author."""

    type: ClassVar[ActivityType] = ActivityType.UNFOLLOWED

    follower_id: int


@dataclass(frozen=True, slots=True)
class StatusChanged(Event):
    """The author became a celebrity, or ceased to be one; the database says which."""

    type: ClassVar[ActivityType] = ActivityType.STATUS_CHANGED


def event_of(activity: Activity, partition: int, offset: int) -> Event:
    """The event of a message; what was posted gets its tweet later, if that is wanted."""
    place = activity.author_id, activity.published_ms, partition, offset
    match activity.type:
        case ActivityType.POSTED:
            return Posted(*place, activity.other_id)
        case ActivityType.DELETED:
            return Deleted(*place, activity.other_id)
        case ActivityType.FOLLOWED:
            return Followed(*place, activity.other_id)
        case ActivityType.UNFOLLOWED:
            return Unfollowed(*place, activity.other_id)
        case ActivityType.STATUS_CHANGED:
            return StatusChanged(*place)


def event_json(event: Event) -> dict[str, Any]:
    """An event as `fanfold tail --json` and GET /v1/stream have it. Ids are strings, as everywhere in JSON. `text` is
    null for a tweet that is no longer live."""
    shown: dict[str, Any] = {
        "type": event.type.value,
        "author_id": str(event.author_id),
        "published_at": event.published_at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
    }
    match event:
        case Posted():
            shown["tweet_id"] = str(event.tweet_id)
            shown |= _tweet_json(event.tweet)
        case Deleted():
            shown["tweet_id"] = str(event.tweet_id)
        case Followed() | Unfollowed():
            shown["follower_id"] = str(event.follower_id)
    return shown


def _tweet_json(tweet: Body | None) -> dict[str, Any]:
    if tweet is None:
        return {"text": None, "reply_to": None, "retweet_of": None}
    return {
        "text": tweet.text,
        "reply_to": None if tweet.reply_to is None else str(tweet.reply_to),
        "retweet_of": None if tweet.retweet_of is None else str(tweet.retweet_of),
    }
