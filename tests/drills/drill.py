"""What the drills share: a stack with active users, callers who change their timelines, a diary, a check at the end."""

import shutil
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from benchmarks.graph import Graph, make_graph, write_follows
from consumers.applied import wait_until_applied
from consumers.audit import audit
from consumers.read_timeline import TimelineReader
from infra.composition import Stores, stores
from infra.errors import Conflict
from infra.settings import Settings
from infra.stack.progress import Progress
from infra.stack.supervisor import Stack
from infra.topics import TOPICS
from producers.importer import import_follows
from producers.publish import NewTweet, Publisher
from streams.read_dead_letters import look, reader
from tests.services import fresh_folder

ROLES = ("registrar", "coordinator", "relay", "worker")
LAG_GONE_WITHIN_S = 30.0
CALLERS = 3
POSTS_PER_S = 30.0  # of all callers; with 23 followers each on average, far below what one worker delivers
DELETE_SHARE, UNFOLLOW_SHARE, FOLLOW_AGAIN_SHARE = 0.1, 0.15, 0.7  # of posts, of posts, of unfollows
USERS, FOLLOWS = 300, 7_000


class Diary:
    """What happened when, for the message of a failure. Safe to share between threads."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._started_s = time.monotonic()
        self._lines: list[str] = []

    def note(self, line: str) -> None:
        self._lines.append(f"{time.monotonic() - self._started_s:6.1f} s  {line}")

    def note_progress(self, progress: Progress) -> None:
        """What the supervisor says of a part."""
        if progress.kind == "done":
            self.note(f"{progress.name}: {progress.text}")

    def text(self) -> str:
        return "\n".join((f"seed {self._seed}:", *self._lines))


class Callers:
    """Callers who post, delete, unfollow and follow again until they are told to stop."""

    def __init__(self, publisher: Publisher, graph: Graph) -> None:
        self._publisher = publisher
        self._graph = graph
        self._stopped = threading.Event()

    @contextmanager
    def calling(self, seed: int) -> Iterator[None]:
        """While the context lasts. Raises what the first of them raised."""
        with ThreadPoolExecutor(CALLERS) as threads:
            calls = [threads.submit(self._call, np.random.default_rng((seed, number))) for number in range(CALLERS)]
            try:
                yield
            finally:
                self._stopped.set()
            for call in calls:
                call.result()

    def _call(self, rng: np.random.Generator) -> None:
        own: list[int] = []
        while not self._stopped.wait(rng.exponential(CALLERS / POSTS_PER_S)):
            author = int(rng.choice(self._graph.authors))
            own.append(self._publisher.post(NewTweet(author, f"tweet {len(own)}")).id)
            if rng.random() < DELETE_SHARE:
                self._publisher.delete(own.pop(int(rng.integers(len(own)))))
            if rng.random() < UNFOLLOW_SHARE:
                self._change_follow(rng)

    def _change_follow(self, rng: np.random.Generator) -> None:
        at = int(rng.integers(len(self._graph.followers)))
        follower, author = int(self._graph.followers[at]), int(self._graph.authors[at])
        try:
            self._publisher.unfollow(follower, author)
            if rng.random() >= FOLLOW_AGAIN_SHARE:
                return
        except Conflict:
            pass  # he unfollowed before: now he follows again
        try:
            self._publisher.follow(follower, author)
        except Conflict:
            return  # another caller was faster


@contextmanager
def telling(diary: Diary) -> Iterator[None]:
    """A failure says what happened."""
    try:
        yield
    except BaseException as error:
        error.add_note(diary.text())
        raise


@contextmanager
def prepared_stack(
    seed: int,
    diary: Diary,
    workers: int = 1,
    *,
    graph: Graph | None = None,
    wanted_ports: Mapping[str, int] | None = None,
) -> Iterator[tuple[Stack, Stores, Graph]]:
    """A stack with its first workers and users who all are active; who follows whom the seed decides, if nobody else
    has."""
    folder = fresh_folder("drill")
    stack = Stack(folder, roles=ROLES, workers=workers, wanted_ports=wanted_ports)
    stack.start(diary.note_progress)
    try:
        with stores(stack.settings()) as opened:
            graph = graph or make_graph(USERS, FOLLOWS, np.random.default_rng(seed))
            write_follows(graph, Path(folder) / "follows.tsv")
            import_follows(opened.engine, Path(folder) / "follows.tsv", threshold=10_000)
            TimelineReader(opened).warm(range(1, graph.users + 1))
            yield stack, opened, graph
    finally:
        stack.stop()
    shutil.rmtree(folder)  # kept when the drill failed in it: its logs say why


def check(opened: Stores, settings: Settings, diary: Diary, users: int = USERS) -> None:
    """Everything is applied soon, every timeline is right in every cluster, and nothing was buried."""
    began_s = time.monotonic()
    wait_until_applied(opened.engine, settings.kafka_bootstrap, LAG_GONE_WITHIN_S)
    diary.note(f"all is applied, {time.monotonic() - began_s:.1f} s after the callers stopped")
    result = audit(opened.engine, opened.timelines, complete=True)
    assert result.differences == ()
    assert (result.clean, result.active_users) == (True, users)
    with reader(settings.need("kafka_bootstrap")) as consumer:
        assert {topic.dead_letters: look(consumer, topic.dead_letters, 1).count for topic in TOPICS} == {
            topic.dead_letters: 0 for topic in TOPICS
        }
