"""Churn: given tweets posted over some time, with deletes, unfollows, follows and changes of the threshold among them,
while readers check each page that they get.

A page is wrong when a tweet is on it twice, one is out of order, or one whose delete was acknowledged before the read
began. What timelines lack or hold too much in the end, the audit says. Seeded, but for the races of its threads.
"""

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

import sqlalchemy as sa

from consumers.read_timeline import TimelineReader
from infra.composition import Stores
from infra.database import reading
from infra.errors import InvalidInput, UseError
from infra.live_settings import set_live_settings
from infra.paging import LIMIT_MAX, Cursor
from producers.import_lines import parse_tweet
from producers.publish import NewTweet, Publisher

READERS = 2  # threads; each reads as fast as it can, with a short rest
READ_REST_S = 0.01
POSTS_AT_ONCE = 20
# Of each batch of posts.
DELETES, UNFOLLOWS, FOLLOW_AGAIN_SHARE = 1, 2, 0.6
THRESHOLDS = (10_000, 1_000, 300, 3_000)  # of the real input 1, 22, some 150 and 4 authors are above them
THRESHOLD_EVERY_S = 5.0
PAIRS_MAX = 20_000  # that are drawn from; as many follows more or less make no difference
FAULTS_SAID_MAX = 10

Posts = Sequence[tuple[int, str]]


@dataclass(slots=True)
class Churned:
    """What was done, what was read, and the first wrong pages in words."""

    posts: int = 0
    deletes: int = 0
    unfollows: int = 0
    follows: int = 0
    thresholds: int = 0
    reads: int = 0
    faults: list[str] = field(default_factory=list)


def given_posts(path: Path) -> list[tuple[int, str]]:
    """Author and text of each good line of a file of tweets."""
    posts = []
    for line in path.read_bytes().splitlines():
        try:
            tweet = parse_tweet(line, now_ms=time.time_ns() // 1_000_000)
        except InvalidInput:
            continue
        posts.append((tweet.author_id, tweet.text))
    return posts


def churn(stores: Stores, posts: Posts, seconds: float, seed: int, posted: Callable[[], None]) -> Churned:
    """Spreads the posts over the time, and returns when all is done and the threshold is as it was."""
    return _Churn(stores, seed).run(posts, seconds, posted)


class _Churn:
    """One run. What its threads share is guarded by a lock."""

    def __init__(self, stores: Stores, seed: int) -> None:
        self._stores = stores
        self._rng = Random(seed)  # noqa: S311 - what happened can be made to happen again
        self._done = Churned()
        self._lock = threading.Lock()
        self._deleted: set[int] = set()
        self._stop = threading.Event()
        with reading(stores.engine) as connection:
            self._users = list(connection.execute(_READERS).scalars())
            self._pairs = [tuple(row) for row in connection.execute(_PAIRS, {"limit": PAIRS_MAX})]

    def run(self, posts: Posts, seconds: float, posted: Callable[[], None]) -> Churned:
        threshold = self._stores.timelines.live.threshold
        with ThreadPoolExecutor(READERS + 1) as threads, Publisher(self._stores) as publisher:
            futures = [threads.submit(self._read, self._seeded()) for _ in range(READERS)]
            futures.append(threads.submit(self._change_threshold))
            try:
                self._write(publisher, posts, seconds, posted)
            finally:
                self._stop.set()
            for future in futures:
                future.result()
        set_live_settings(self._stores.zookeeper, threshold=threshold)
        return self._done

    def _seeded(self) -> Random:
        return Random(self._rng.random())  # noqa: S311

    def _write(self, publisher: Publisher, posts: Posts, seconds: float, posted: Callable[[], None]) -> None:
        began_s, live = time.monotonic(), list[int]()
        for batch, start in enumerate(range(0, len(posts), POSTS_AT_ONCE)):
            part = posts[start : start + POSTS_AT_ONCE]
            for result in publisher.post_many([NewTweet(author, text) for author, text in part]):
                if isinstance(result, UseError):
                    continue  # its author is no user of these follows
                live.append(result.id)
                self._done.posts += 1
                posted()
            self._delete(publisher, live)
            self._refollow(publisher)
            due_s = began_s + seconds * (batch + 1) * POSTS_AT_ONCE / len(posts)
            self._stop.wait(max(0.0, due_s - time.monotonic()))

    def _delete(self, publisher: Publisher, live: list[int]) -> None:
        for _ in range(min(DELETES, len(live))):
            gone = live.pop(self._rng.randrange(len(live)))
            publisher.delete(gone)
            with self._lock:
                self._deleted.add(gone)
            self._done.deletes += 1

    def _refollow(self, publisher: Publisher) -> None:
        for follower, author in self._rng.choices(self._pairs, k=UNFOLLOWS if self._pairs else 0):
            self._done.unfollows += publisher.unfollow(follower, author)
            if self._rng.random() < FOLLOW_AGAIN_SHARE:
                self._done.follows += publisher.follow(follower, author)

    def _change_threshold(self) -> None:
        for threshold in itertools.cycle(THRESHOLDS):
            set_live_settings(self._stores.zookeeper, threshold=threshold)
            self._done.thresholds += 1
            if self._stop.wait(THRESHOLD_EVERY_S):
                return

    def _read(self, rng: Random) -> None:
        reader = TimelineReader(self._stores)
        while not self._stop.wait(READ_REST_S):
            user_id = rng.choice(self._users)
            with self._lock:
                deleted = frozenset(self._deleted)
            ids = [tweet.id for tweet in reader.home(user_id, Cursor(LIMIT_MAX)).tweets]
            with self._lock:
                self._done.reads += 1
                self._done.faults += [f"user {user_id}: {words}" for words in wrong_with(ids, deleted)]
                del self._done.faults[FAULTS_SAID_MAX:]


def wrong_with(ids: Sequence[int], deleted: frozenset[int]) -> Iterator[str]:
    """What no page may show, in words."""
    for newer, older in itertools.pairwise(ids):
        if newer == older:
            yield f"tweet {older} is there twice"
        elif newer < older:
            yield f"tweet {older} stands below the older {newer}"
    yield from (f"tweet {one} was deleted before" for one in ids if one in deleted)


# Users who follow somebody: the others' pages are empty.
_READERS = sa.text(
    "SELECT id FROM users "
    "WHERE active_until > now() AND EXISTS (SELECT FROM follows WHERE follower_id = users.id) ORDER BY id"
)
_PAIRS = sa.text("SELECT follower_id, author_id FROM follows ORDER BY hashint8(follower_id), author_id LIMIT :limit")
