"""Much load for drills: authors with hundreds of followers who post and delete, readers of home pages, what they saw.

Nothing here fails by itself: what was wrong is kept, and the drill says what it expects.
"""

import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from random import Random

import numpy as np

from benchmarks.graph import Graph, write_follows
from consumers.read_timeline import TimelineReader
from infra import redis_keys
from infra.composition import Stores, stores
from infra.errors import DependencyError, FanfoldError
from infra.paging import Cursor
from infra.redis_clusters import RedisClusters
from infra.stack.supervisor import Stack
from infra.topics import DELIVERIES
from producers.importer import import_follows
from producers.publish import NewTweet, Publisher, need_all
from tests.drills.drill import ROLES, Diary
from tests.services import fresh_folder

POST_EVERY_S = 0.1
READING_THREADS = 4
SAMPLE_EVERY_S = 0.1
THRESHOLD = 10_000  # nobody here is a celebrity
NEVER_S = float("inf")
TRY_AGAIN_S = 0.2  # a delete that cannot be acknowledged now is called again


@dataclass(frozen=True, slots=True)
class Size:
    """How much. Users are 1 to `users`; the first `authors` of them post, and each has `followers`."""

    users: int = 2_000
    authors: int = 60
    followers: int = 400
    deliveries_per_s: float = 20_000.0
    reads_per_s: float = 500.0
    deletes_per_s: float = 2.0


def heavy_graph(size: Size, rng: np.random.Generator) -> Graph:
    """Each author has the same number of followers, chosen by chance, and himself never among them."""
    followers = []
    for author in range(1, size.authors + 1):
        others = rng.choice(size.users - 1, size=size.followers, replace=False) + 1
        followers.append(np.where(others >= author, others + 1, others))
    authors = np.repeat(np.arange(1, size.authors + 1), size.followers)
    return Graph(size.users, np.concatenate(followers), authors)


@contextmanager
def heavy_stack(
    size: Size, seed: int, diary: Diary, wanted_ports: Mapping[str, int] | None = None
) -> Iterator[tuple[Stack, Stores]]:
    """A stack whose users all are active and follow as `heavy_graph` says."""
    folder = fresh_folder("drill")
    stack = Stack(folder, roles=ROLES, wanted_ports=wanted_ports)
    stack.start(diary.note_progress)
    try:
        with stores(stack.settings()) as opened:
            write_follows(heavy_graph(size, np.random.default_rng(seed)), Path(folder) / "follows.tsv")
            import_follows(opened.engine, Path(folder) / "follows.tsv", threshold=THRESHOLD)
            TimelineReader(opened).warm(range(1, size.users + 1))
            diary.note(f"{size.users} users are active")
            yield stack, opened
    finally:
        stack.stop()
    shutil.rmtree(folder)  # kept when the drill failed in it: its logs say why


@dataclass
class Seen:
    """What callers and readers saw. A read is (when it began, by `time.monotonic`; how many seconds it took)."""

    posted: list[int] = field(default_factory=list)
    deleted: dict[int, float] = field(default_factory=dict)  # tweet → when its delete was acknowledged
    reads: list[tuple[float, float]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)  # pages
    refused: list[tuple[float, str]] = field(default_factory=list)  # reads without an answer, and when they began
    waits: int = 0  # deletes that could not be acknowledged at once

    def reads_between(self, from_s: float, until_s: float = NEVER_S) -> list[float]:
        """Seconds of the reads that began then."""
        return [seconds for began_s, seconds in list(self.reads) if from_s <= began_s < until_s]


class Load:
    """Callers and readers at a rate, until they are told to stop."""

    def __init__(self, opened: Stores, size: Size, seed: int) -> None:
        self.seen = Seen()
        self._size = size
        self._seed = seed
        self._reader = TimelineReader(opened)
        self._publisher = Publisher(opened)
        self._stopped = threading.Event()

    @contextmanager
    def running(self) -> Iterator[Seen]:
        """While the context lasts. Raises what the first of them raised."""
        work: list[Callable[[Random], None]] = [self._post, self._delete, *[self._read] * READING_THREADS]
        with self._publisher, ThreadPoolExecutor(len(work)) as threads:
            calls = [threads.submit(call, Random(f"{self._seed} {number}")) for number, call in enumerate(work)]
            try:
                yield self.seen
            finally:
                self._stopped.set()
            for call in calls:
                call.result()

    def _post(self, rng: Random) -> None:
        """Batches at the rate, by the clock: what was late is made up for."""
        tweets_per_s = self._size.deliveries_per_s / self._size.followers
        began_s, posted = time.monotonic(), 0
        while not self._stopped.wait(POST_EVERY_S):
            due = round((time.monotonic() - began_s) * tweets_per_s) - posted
            authors = [rng.randint(1, self._size.authors) for _ in range(min(due, 500))]
            made = need_all(self._publisher.post_many([NewTweet(author, f"tweet {posted}") for author in authors]))
            posted += len(made)
            self.seen.posted += [tweet.id for tweet in made]

    def _delete(self, rng: Random) -> None:
        while not self._stopped.wait(rng.expovariate(self._size.deletes_per_s)):
            tweet_id = rng.choice(self.seen.posted[-500:]) if self.seen.posted else None
            if tweet_id is None or tweet_id in self.seen.deleted:
                continue
            while not self._deletes(tweet_id):
                if self._stopped.wait(TRY_AGAIN_S):
                    return

    def _deletes(self, tweet_id: int) -> bool:
        try:
            self._publisher.delete(tweet_id)
        except DependencyError:
            self.seen.waits += 1
            return False
        self.seen.deleted[tweet_id] = time.monotonic()
        return True

    def _read(self, rng: Random) -> None:
        """At random times; a reader who is late reads on at once, and does not make up for it."""
        due_s = time.monotonic()
        while True:
            due_s = max(due_s + rng.expovariate(self._size.reads_per_s / READING_THREADS), time.monotonic() - 0.1)
            if self._stopped.wait(max(due_s - time.monotonic(), 0.0)):
                return
            self._read_once(rng.randint(1, self._size.users))

    def _read_once(self, user_id: int) -> None:
        began_s = time.monotonic()
        try:
            ids = [tweet.id for tweet in self._reader.home(user_id, Cursor()).tweets]
        except FanfoldError as error:
            self.seen.refused.append((began_s, f"user {user_id}: {error}"))
            return
        self.seen.reads.append((began_s, time.monotonic() - began_s))
        if ids != sorted(set(ids), reverse=True):
            self.seen.wrong.append(f"user {user_id}: a double or a wrong order in {ids}")
        gone = [one for one in ids if self.seen.deleted.get(one, began_s) < began_s]
        if gone:
            self.seen.wrong.append(f"user {user_id}: tweet {gone[0]} is shown after its delete was acknowledged")


class Meter:
    """Deliveries that some nodes have taken, by their control records, looked at ten times a second."""

    def __init__(self, clusters: RedisClusters, names: Sequence[str]) -> None:
        self.samples: list[tuple[float, int]] = []  # when, and how many entries since the node began
        self._clusters = clusters
        self._names = names
        self._stopped = threading.Event()

    @contextmanager
    def running(self) -> Iterator["Meter"]:
        """While the context lasts. Raises what kept it from looking."""
        with ThreadPoolExecutor(1) as threads, ExitStack() as ending:
            ending.callback(self._stopped.set)
            looking = threads.submit(self._sample)
            yield self
            self._stopped.set()
            looking.result()

    def taken(self) -> int:
        """Entries until now."""
        return self.samples[-1][1] if self.samples else 0

    def rate(self, from_s: float, until_s: float) -> float:
        """Entries a second between two moments."""
        within = [sample for sample in list(self.samples) if from_s <= sample[0] <= until_s]
        if len(within) < 2:
            return 0.0
        return (within[-1][1] - within[0][1]) / (within[-1][0] - within[0][0])

    def longest_pause_s(self, from_s: float, until_s: float) -> float:
        """The longest time in which nothing came."""
        within = [sample for sample in list(self.samples) if from_s <= sample[0] <= until_s]
        longest_s, since_s = 0.0, from_s
        for (_, before), (at_s, now) in pairwise(within):
            if now != before:
                longest_s, since_s = max(longest_s, at_s - since_s), at_s
        return max(longest_s, until_s - since_s)

    def _sample(self) -> None:
        questions = [("HGET", redis_keys.control(partition), "delivered") for partition in range(DELIVERIES.partitions)]
        while not self._stopped.wait(SAMPLE_EVERY_S):
            answers = self._clusters.commands_at_once(dict.fromkeys(self._names, questions))
            numbers = [number for of_node in answers.values() for number in of_node]
            if not any(isinstance(number, Exception) for number in numbers):
                self.samples.append((time.monotonic(), sum(int(number or 0) for number in numbers)))


def percentile_ms(seconds: Sequence[float], share: float) -> float:
    """Milliseconds that this share (0 to 100) of the reads took at most; 0 when there was none."""
    return float(np.percentile(seconds, share)) * 1000 if seconds else 0.0
