"""A timeline's page as JSON, over HTTP and from the command line."""

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from consumers.read_timeline import Page, State
from infra.counts import TweetCounts
from infra.http_answers import TWEET_EXAMPLE, TweetAnswer, id_text, tweet_answer

_EXAMPLE: JsonValue = {"tweets": [{**TWEET_EXAMPLE, "retweeted_by": []}], "next_max_id": None, "state": "complete"}


class TimelineTweet(TweetAnswer):
    """A tweet in a timeline. A home timeline shows one retweet of a tweet within 40 entries, the oldest."""

    retweeted_by: list[str] = Field(
        description="Of a retweet: the ids of its author and of those whose newer retweets it stands for, newest first."
    )


class TimelineAnswer(BaseModel):
    """A page of a timeline, newest first. `next_max_id` is null when there is nothing older."""

    model_config = ConfigDict(json_schema_extra={"examples": [_EXAMPLE]})

    tweets: list[TimelineTweet]
    next_max_id: str | None
    state: State


def timeline_answer(page: Page, counts: Mapping[int, TweetCounts]) -> TimelineAnswer:
    """A page as JSON, with the counts of its tweets."""
    tweets = [
        TimelineTweet(
            **dict(tweet_answer(one, counts[one.id])), retweeted_by=list(map(str, page.retweeted_by.get(one.id, ())))
        )
        for one in page.tweets
    ]
    return TimelineAnswer(tweets=tweets, next_max_id=id_text(page.next_max_id), state=page.state)
