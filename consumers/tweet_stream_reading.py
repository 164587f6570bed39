"""From raw messages to the events that are wanted: a look at the bytes, decoding, and the tweets of posted events."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import structlog

from consumers.read_tweet import read_live
from consumers.tweet_stream_events import Event, Posted, event_of
from consumers.tweet_stream_filter import Filter
from infra.errors import InvalidInput, Undecodable
from infra.events import decode_activity, is_replayed
from infra.tweet_bodies import Body, TweetBodies

BODIES_BATCH_MAX = 500  # tweets of one read

Patiently = Callable[[Callable[[], Any]], Any]  # calls until the servers that it takes answer


class Item(NamedTuple):
    """An event, and its message as it was read."""

    event: Event
    message: Any


class EventReader:
    """`unreadable` is told of messages that are no events. Raises `InvalidInput` when tweets are needed and lacking."""

    def __init__(
        self,
        only: Filter,
        bodies: TweetBodies | None,
        unreadable: Callable[[Any, Undecodable], None],
        patiently: Patiently,
    ) -> None:
        if only.needs_text and bodies is None:
            raise InvalidInput("a filter by text needs the tweets: give `bodies`, as in TweetStream(…, stores.bodies)")
        self._only = only
        self._look = only.look()
        self._bodies = bodies
        self._unreadable = unreadable
        self._patiently = patiently

    def wanted(self, messages: Sequence[Any]) -> tuple[list[Item], list[Any]]:
        """The events that pass the filter, in order, and the reports that came instead of messages. What a replay or a
        redrive has sent is no news: the log has it already, as it came first."""
        found, reports = [], []
        for message in self._look(messages):
            if message.error() is not None:
                reports.append(message)
                continue
            try:
                event = event_of(decode_activity(message.value()), message.partition(), message.offset())
            except Undecodable as error:
                self._unreadable(message, error)
                continue
            if self._only.wants(event) and not is_replayed(message.headers()):
                found.append(Item(event, message))
        return (found if self._bodies is None else self._with_tweets(self._bodies, found)), reports

    def _with_tweets(self, bodies: TweetBodies, items: Sequence[Item]) -> list[Item]:
        ids = [item.event.tweet_id for item in items if isinstance(item.event, Posted)]
        live: dict[int, Body] = {}
        for start in range(0, len(ids), BODIES_BATCH_MAX):
            part = ids[start : start + BODIES_BATCH_MAX]
            live |= {body.id: body for body in self._patiently(partial(read_live, bodies, part))}
        filled = [Item(with_tweet(item.event, live), item.message) for item in items]
        return [item for item in filled if self._only.wants_text(item.event)]


def with_tweet(event: Event, live: dict[int, Body]) -> Event:
    """A posted event with its tweet, if that is among these; others as they are."""
    return replace(event, tweet=live.get(event.tweet_id)) if isinstance(event, Posted) else event


def warn_unreadable(message: Any, error: Undecodable) -> None:
    """For readers without a group, who have nobody to bury it for; an agent does."""
    structlog.get_logger().warning(
        "message not readable", partition=message.partition(), offset=message.offset(), error=str(error)
    )
