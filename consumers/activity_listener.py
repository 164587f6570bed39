"""What a message of the activity log tells to which streams, as bytes. The tweets are read once for all of them."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

from consumers.activity_position import position_text
from consumers.live_frames import EventQueue, event, with_id
from consumers.read_tweet import read_live
from consumers.tweet_stream_events import Event, Posted, event_json, event_of
from consumers.tweet_stream_filter import Filter
from consumers.tweet_stream_reading import with_tweet
from infra.errors import Undecodable
from infra.events import decode_activity
from infra.log_reader import Cut, Log, LogMessage
from infra.tweet_bodies import TweetBodies

Call = Callable[[], None]  # made on the event loop


class ActivityListener:
    """One stream. What lies before `begins` is not told to it."""

    def __init__(self, only: Filter, queue: EventQueue, incarnation: str, begins: Cut) -> None:
        self.only = only
        self.queue = queue
        self.begins = begins
        self._incarnation = incarnation

    def position(self, cut: Mapping[Log, int]) -> str:
        """Where it is once all before this cut is told."""
        return position_text(self._incarnation, {log: max(cut[log], at) for log, at in self.begins.items()})

    def hears(self, log: Log, offset: int, told: Event) -> bool:
        """Whether it is told of this event, but for its text."""
        return offset >= self.begins[log] and self.only.wants(told)


def told_by(
    messages: Sequence[LogMessage],
    listeners: Iterable[ActivityListener],
    cut: Cut,
    tweets_of: Callable[[Sequence[int]], Mapping[int, object]],
) -> list[Call]:
    """The events of these messages for those who hear them, in order; moves `cut` behind the messages."""
    happened = [(message, _event(message)) for message in messages]
    audience = [one for one in listeners if one.queue.ended is None]
    heard = [
        (message, told, [one for one in audience if told is not None and one.hears(message.log, message.offset, told)])
        for message, told in happened
    ]
    wanted = [told.tweet_id for _, told, who in heard if who and isinstance(told, Posted)]
    live = tweets_of(wanted) if wanted else {}
    calls: list[Call] = []
    for message, told, who in heard:
        cut[message.log] = message.next_offset
        if told is None or not who:
            continue
        whole = with_tweet(told, live)  # type: ignore[arg-type]
        frame = event(whole.type.value, json.dumps(event_json(whole), ensure_ascii=False, separators=(",", ":")))
        calls += [
            partial(one.queue.put, with_id(one.position(cut), frame)) for one in who if one.only.wants_text(whole)
        ]
    return calls


def live_tweets(bodies: TweetBodies, tweet_ids: Sequence[int]) -> Mapping[int, object]:
    """The live ones among these."""
    return {body.id: body for body in read_live(bodies, tweet_ids)}


def _event(message: LogMessage) -> Event | None:
    """None for the end of a log, for what was sent again, which is no news, and for what is not readable: an agent
    buries that."""
    if message.value is None or message.replayed:
        return None
    try:
        return event_of(decode_activity(message.value), message.log[1], message.offset)
    except Undecodable:
        return None
