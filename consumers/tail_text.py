"""An event as a line for people. Pure; nothing that somebody wrote reaches the terminal as it is."""

from consumers.tweet_stream_events import Deleted, Event, Followed, Posted, Unfollowed
from infra.shown_text import printable, time_text
from infra.tweet_bodies import Body

TYPE_CHARS = 14  # of the longest type
AUTHOR_CHARS = 20  # of the largest id, and one more
TEXT_CHARS_MAX = 1_000  # over three times the longest tweet


def event_line(event: Event) -> str:
    """When, what, who, and whom or what it is about."""
    return (
        f"{time_text(event.published_ms)}  {event.type.value:<{TYPE_CHARS}}  "
        f"user {event.author_id!s:<{AUTHOR_CHARS}}{_about(event)}"
    ).rstrip()


def _about(event: Event) -> str:
    match event:
        case Posted():
            return f"tweet {event.tweet_id}  {_said(event.tweet)}"
        case Deleted():
            return f"tweet {event.tweet_id}"
        case Followed() | Unfollowed():
            return f"by user {event.follower_id}"
    return ""


def _said(tweet: Body | None) -> str:
    if tweet is None:
        return "(deleted since)"
    if tweet.retweet_of is not None:
        return f"(retweet of {tweet.retweet_of})"
    reply = "" if tweet.reply_to is None else f"(reply to {tweet.reply_to}) "
    return reply + printable(tweet.text, TEXT_CHARS_MAX)
