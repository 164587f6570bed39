"""Events with their tweets, handed to the event loop. Runs on the feed's threads; the stores are synchronous.

A tweet is read once for all who are told of it, from the bodies' cache and then the database. One that is not live any
more is no event: its delete comes behind it. While neither answers, the feed waits: nothing is left out.
"""

import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar

from consumers.live_frames import Reason, because, event, with_id
from consumers.live_listener import Kind, Listener, Told
from consumers.read_tweet import read_live
from infra import metrics
from infra.counts import Counts
from infra.errors import Closed, DependencyError
from infra.http_answers import tweet_answer
from infra.tweet_bodies import TweetBodies

BODIES_BATCH_MAX = 500  # tweets of one read
AGAIN_AFTER_S = 0.3  # when a server did not answer

T = TypeVar("T")
Call = Callable[[], None]  # made on the event loop
Payloads = Callable[[Sequence[int]], Mapping[int, bytes]]


def payloads_of(bodies: TweetBodies, counts: Counts, tweet_ids: Sequence[int]) -> dict[int, bytes]:
    """The `update` of each of these tweets that is live, as GET /v1/tweets/{id} answers it."""
    found: dict[int, bytes] = {}
    for start in range(0, len(tweet_ids), BODIES_BATCH_MAX):
        live = read_live(bodies, tweet_ids[start : start + BODIES_BATCH_MAX])
        counted = counts.read([body.id for body in live])
        for body in live:
            found[body.id] = event("update", tweet_answer(body, counted[body.id]).model_dump_json())
    return found


class Teller:
    """Hands events to their queues, on the event loop and in order. `post` returns when the loop has made the calls."""

    def __init__(self, payloads: Payloads, post: Callable[[Sequence[Call]], None], stopped: threading.Event) -> None:
        self._payloads = payloads
        self._post = post
        self._stopped = stopped

    def tell(self, told: Sequence[tuple[Listener, Told]]) -> None:
        """Raises `Closed` when the feed is stopped meanwhile."""
        if not told:
            return
        updated = list(dict.fromkeys(one.tweet_id for _, one in told if one.kind is Kind.UPDATE))
        tweets = patiently(lambda: self._payloads(updated), self._stopped) if updated else {}
        calls, counts = [], Counter[Kind]()
        for listener, one in told:
            payload = _payload(one, tweets)
            if payload is not None:
                calls.append(partial(listener.queue.put, with_id(one.position, payload)))
                counts[one.kind] += 1
        self.post(calls)
        for kind, count in counts.items():
            metrics.STREAM_EVENTS.labels(kind).inc(count)

    def post(self, calls: Sequence[Call]) -> None:
        """Makes these calls on the event loop."""
        if calls:
            self._post(calls)


def patiently(call: Callable[[], T], stopped: threading.Event) -> T:
    """The result, once the servers that it needs answer. Raises `Closed` when the feed is stopped before."""
    while not stopped.is_set():
        try:
            return call()
        except DependencyError:
            stopped.wait(AGAIN_AFTER_S)
    raise Closed("the streams of this process were closed")


def _payload(one: Told, tweets: Mapping[int, bytes]) -> bytes | None:
    if one.kind is Kind.UPDATE:
        return tweets.get(one.tweet_id)
    if one.kind is Kind.DELETE:
        return event("delete", f'{{"id": "{one.tweet_id}"}}')
    return because("reload", Reason.FOLLOWS_CHANGED)
