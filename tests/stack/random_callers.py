"""Callers that post, delete, follow and unfollow at random, for test_publishing.py: as threads and as processes.

Each notes what it did and when, so that the order of calls can be compared with the order of the log.
"""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from random import Random

from infra.composition import stores
from infra.events import ActivityType
from infra.settings import Settings
from producers.following import Pair
from producers.publish import NewTweet, Publisher, Tweet, need_all
from tests.stack.holding_relay import FORKED

Event = tuple[ActivityType, int, int]  # what happened, the author, the tweet or the follower

HOT_AUTHORS, HOT_SHARE = 5, 0.3  # so that callers meet at the same author
SHARED_SHARE = 0.2  # of follows by users whom all callers act for
BATCH_SIZES = (1, 1, 1, 5, 40)
PACE_S = 0.005
CALLERS_OF_PUBLISHER = 2
ENDED_WITHIN_S = 30.0


@dataclass(frozen=True, slots=True)
class Call:
    """A call that made this event, as its caller saw it: the commit was between the two times."""

    event: Event
    began_ns: int
    ended_ns: int


@dataclass(frozen=True, slots=True)
class Part:
    """What one caller acts with. Of a pair with a follower of its own it knows the order of all changes."""

    seed: int
    authors: Sequence[int]
    own: Sequence[int]
    shared: Sequence[int]


class Caller:
    """One caller: one call after the other."""

    def __init__(self, publisher: Publisher, part: Part) -> None:
        self._publisher = publisher
        self._part = part
        self._rng = Random(part.seed)
        self._live: list[Tweet] = []
        self._calls: list[Call] = []

    def act_until(self, stopped: Callable[[], bool]) -> list[Call]:
        """What it did until then."""
        pause = threading.Event()
        acts, weights = (self._post, self._delete, self._follow, self._unfollow), (4, 2, 3, 2)
        while not stopped():
            [act] = self._rng.choices(acts, weights)
            act()
            pause.wait(PACE_S)
        return self._calls

    def _post(self) -> None:
        new = [NewTweet(self._author(), "hello") for _ in range(self._rng.choice(BATCH_SIZES))]
        began_ns = time.monotonic_ns()
        tweets = need_all(self._publisher.post_many(new)) if len(new) > 1 else [self._publisher.post(new[0])]
        self._live += tweets
        self._note(began_ns, [(ActivityType.POSTED, tweet.author_id, tweet.id) for tweet in tweets])

    def _delete(self) -> None:
        if self._live:
            tweet = self._live.pop(self._rng.randrange(len(self._live)))
            began_ns = time.monotonic_ns()
            assert self._publisher.delete(tweet.id)
            self._note(began_ns, [(ActivityType.DELETED, tweet.author_id, tweet.id)])

    def _follow(self) -> None:
        self._change(ActivityType.FOLLOWED, self._publisher.follow_many)

    def _unfollow(self) -> None:
        self._change(ActivityType.UNFOLLOWED, self._publisher.unfollow_many)

    def _change(self, kind: ActivityType, call: Callable[[Sequence[Pair]], Sequence[object]]) -> None:
        pairs = [(self._follower(), self._author()) for _ in range(self._rng.choice(BATCH_SIZES))]
        began_ns = time.monotonic_ns()
        results = call(pairs)
        changed = [pair for pair, result in zip(pairs, results, strict=True) if result is True]
        self._note(began_ns, [(kind, author, one) for one, author in changed if one in self._part.own])

    def _author(self) -> int:
        hot = self._rng.random() < HOT_SHARE
        return self._rng.choice(self._part.authors[:HOT_AUTHORS] if hot else self._part.authors)

    def _follower(self) -> int:
        return self._rng.choice(self._part.shared if self._rng.random() < SHARED_SHARE else self._part.own)

    def _note(self, began_ns: int, events: Sequence[Event]) -> None:
        ended_ns = time.monotonic_ns()
        self._calls += [Call(event, began_ns, ended_ns) for event in events]


def act_together(publisher: Publisher, parts: Sequence[Part], stopped: Callable[[], bool]) -> list[Call]:
    """Callers that share a publisher, each on a thread of its own."""
    with ThreadPoolExecutor(len(parts)) as threads:
        acting = [threads.submit(Caller(publisher, part).act_until, stopped) for part in parts]
    return [call for one in acting for call in one.result()]


def act_in_process(settings: Settings, parts: Sequence[Part], pipe: Connection) -> None:
    """The same in a process of their own, until something comes over the pipe."""
    with stores(settings) as opened, Publisher(opened) as publisher:
        pipe.send(act_together(publisher, parts, pipe.poll))


@contextmanager
def callers_elsewhere(settings: Settings, parts: Sequence[Part]) -> Iterator[Callable[[], list[Call]]]:
    """Such a process, and a function that stops it and returns what it did."""
    ours, theirs = FORKED.Pipe()
    process = FORKED.Process(target=act_in_process, args=(settings, parts, theirs), daemon=True)
    process.start()
    theirs.close()

    def finish() -> list[Call]:
        ours.send("stop")
        assert ours.poll(ENDED_WITHIN_S), "the callers did not stop"
        calls: list[Call] = ours.recv()
        return calls

    try:
        yield finish
    finally:
        process.kill()
        process.join()
        ours.close()
