"""Drill: for two minutes under load workers join, leave, are killed and freeze, one every few seconds.

Afterwards the lag is back at 0 within 30 s, every timeline is right in every cluster, and nothing is a dead letter.
"""

import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from random import Random

import numpy as np
import pytest
import sqlalchemy as sa

from benchmarks.graph import Graph, make_graph, write_follows
from consumers.applied import wait_until_applied
from consumers.audit import audit
from consumers.read_timeline import TimelineReader
from infra.composition import Stores, stores
from infra.errors import Conflict, StackError
from infra.settings import Settings
from infra.stack.progress import Progress
from infra.stack.state import PartState
from infra.stack.supervisor import Stack
from infra.topics import TOPICS
from producers.importer import import_follows
from producers.publish import NewTweet, Publisher
from streams.app import SESSION_S
from streams.read_dead_letters import look, reader
from tests.services import fresh_folder

TROUBLE_S = 120.0
EVENT_EVERY_S = (3.0, 5.0)
FROZEN_S = (SESSION_S + 2.0, SESSION_S + 5.0)  # long enough that the group goes on without the worker
LAG_GONE_WITHIN_S = 30.0
WORKERS = ("worker", "worker-2", "worker-3", "worker-4")
WORKERS_FIRST = 3
CALLERS = 3
POSTS_PER_S = 30.0  # of all callers; with 23 followers each on average, far below what one worker delivers
DELETE_SHARE, UNFOLLOW_SHARE, FOLLOW_AGAIN_SHARE = 0.1, 0.15, 0.7  # of posts, of posts, of unfollows
USERS, FOLLOWS = 300, 7_000


class Trouble(StrEnum):
    """What is done to a worker."""

    JOIN = "is started"
    LEAVE = "gets SIGTERM"
    KILL = "gets SIGKILL"
    FREEZE = "gets SIGSTOP"


class Condition(StrEnum):
    """What a worker does, as far as the next trouble depends on it."""

    SERVING = "serving"
    AWAY = "away"  # not started, or left
    BUSY = "busy"  # frozen, leaving, starting or waiting for its restart


def possible(workers: Mapping[str, Condition]) -> dict[Trouble, list[str]]:
    """Whom each trouble may hit now: one worker is always left that serves."""
    away = [name for name, condition in workers.items() if condition is Condition.AWAY]
    serving = [name for name, condition in workers.items() if condition is Condition.SERVING]
    found = {Trouble.JOIN: away} if away else {}
    if len(serving) > 1:
        found |= dict.fromkeys((Trouble.LEAVE, Trouble.KILL, Trouble.FREEZE), serving)
    return found


def choose(found: Mapping[Trouble, Sequence[str]], done: Counter[Trouble], rng: Random) -> tuple[Trouble, str]:
    """The trouble that there has been least of, by lot among equals; and its victim, by lot."""
    fewest = min(done[trouble] for trouble in found)
    trouble = rng.choice([one for one in found if done[one] == fewest])
    return trouble, rng.choice(found[trouble])


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


class Troublemaker:
    """Does one thing after the other to the workers of a stack, and knows which of them it has frozen."""

    def __init__(self, stack: Stack, rng: Random, diary: Diary, threads: ThreadPoolExecutor) -> None:
        self.done: Counter[Trouble] = Counter()
        self._stack = stack
        self._rng = rng
        self._diary = diary
        self._threads = threads
        self._thaw_at_s: dict[str, float] = {}
        self._left: set[str] = set(WORKERS[WORKERS_FIRST:])
        self._joins: dict[str, Future[str]] = {}

    def run(self, seconds: float) -> None:
        """Makes trouble for so long; afterwards none is frozen, and what was told to start has started."""
        pause = threading.Event()
        next_s = time.monotonic()
        until_s = next_s + seconds
        while (now_s := time.monotonic()) < until_s:
            self._thaw(now_s)
            if now_s >= next_s:
                next_s = now_s + self._rng.uniform(*EVENT_EVERY_S)
                self._make_trouble(now_s)
            pause.wait(0.1)
        self._thaw(float("inf"))

    def wait_joined(self) -> None:
        """Raises what kept a worker from its start."""
        for join in self._joins.values():
            join.result()

    def _make_trouble(self, now_s: float) -> None:
        found = possible({name: self._condition(name) for name in WORKERS})
        if not found:
            self._diary.note("nothing can be done: only one worker serves, and none is away")
            return
        trouble, name = choose(found, self.done, self._rng)
        self._diary.note(f"{name} {trouble}")
        try:
            self._do(trouble, name, now_s)
        except StackError as error:  # it has just ended by itself, and the supervisor is about to see it
            self._diary.note(str(error))
        else:
            self.done[trouble] += 1

    def _do(self, trouble: Trouble, name: str, now_s: float) -> None:
        match trouble:
            case Trouble.JOIN:
                self._left.discard(name)
                instance = WORKERS.index(name) + 1
                self._joins[name] = self._threads.submit(self._stack.start_role, "worker", instance)
            case Trouble.LEAVE:
                self._stack.kill(name, signal.SIGTERM, restart=False)
                self._left.add(name)
            case Trouble.KILL:
                self._stack.kill(name, signal.SIGKILL)
            case Trouble.FREEZE:
                self._stack.kill(name, signal.SIGSTOP)
                self._thaw_at_s[name] = now_s + self._rng.uniform(*FROZEN_S)

    def _condition(self, name: str) -> Condition:
        if name in self._joins and not self._joins[name].done():
            return Condition.BUSY
        if name in self._left:
            never_started = name in WORKERS[WORKERS_FIRST:] and name not in self._joins
            return Condition.AWAY if never_started or self._gone(name) else Condition.BUSY
        serves = self._stack.state(name) is PartState.RUNNING and name not in self._thaw_at_s
        return Condition.SERVING if serves else Condition.BUSY

    def _gone(self, name: str) -> bool:
        return self._stack.state(name) is PartState.STOPPED

    def _thaw(self, now_s: float) -> None:
        for name in [name for name, at_s in self._thaw_at_s.items() if at_s <= now_s]:
            self._diary.note(f"{name} gets SIGCONT")
            self._stack.kill(name, signal.SIGCONT)
            del self._thaw_at_s[name]


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
def prepared_stack(seed: int, diary: Diary) -> Iterator[tuple[Stack, Stores, Graph]]:
    """A stack with its first workers and users who all are active."""
    folder = fresh_folder("drill-workers")
    stack = Stack(folder, roles=("registrar", "coordinator", "relay", "worker"), workers=WORKERS_FIRST)
    stack.start(diary.note_progress)
    try:
        with stores(stack.settings()) as opened:
            graph = make_graph(USERS, FOLLOWS, np.random.default_rng(seed))
            write_follows(graph, Path(folder) / "follows.tsv")
            import_follows(opened.engine, Path(folder) / "follows.tsv", threshold=10_000)
            TimelineReader(opened).warm(range(1, USERS + 1))
            yield stack, opened, graph
    finally:
        stack.stop()
    shutil.rmtree(folder)  # kept when the drill failed in it: its logs say why


def check(opened: Stores, settings: Settings, diary: Diary) -> None:
    """Everything is applied soon, every timeline is right in every cluster, and nothing was buried."""
    began_s = time.monotonic()
    wait_until_applied(opened.engine, settings.kafka_bootstrap, LAG_GONE_WITHIN_S)
    diary.note(f"all is applied, {time.monotonic() - began_s:.1f} s after the callers stopped")
    result = audit(opened.engine, opened.timelines, complete=True)
    assert result.differences == ()
    assert (result.clean, result.active_users) == (True, USERS)
    with reader(settings.need("kafka_bootstrap")) as consumer:
        assert {topic.dead_letters: look(consumer, topic.dead_letters, 1).count for topic in TOPICS} == {
            topic.dead_letters: 0 for topic in TOPICS
        }


@pytest.mark.parametrize("seed", [1])
def test_workers_that_join_leave_die_and_freeze_for_two_minutes_lose_and_double_nothing(seed: int) -> None:
    diary = Diary(seed)
    with (
        telling(diary),
        ThreadPoolExecutor(len(WORKERS)) as threads,
        prepared_stack(seed, diary) as (stack, opened, graph),
    ):
        trouble = Troublemaker(stack, Random(seed), diary, threads)
        with Callers(Publisher(opened), graph).calling(seed):
            trouble.run(TROUBLE_S)
        diary.note("the callers stopped")
        check(opened, stack.settings(), diary)
        trouble.wait_joined()
        with opened.engine.connect() as connection:
            tweets = connection.execute(sa.text("SELECT count(*) FROM tweets")).scalar_one()
        diary.note(f"{tweets} tweets, {dict(trouble.done)}")
        print(diary.text())  # noqa: T201 - pytest shows it when a test fails, and with -s
        assert tweets > TROUBLE_S * POSTS_PER_S / 2
        assert min(trouble.done[one] for one in Trouble) >= 3
        assert {stack.state(name) for name in WORKERS} <= {PartState.RUNNING, PartState.RESTARTING, PartState.STOPPED}
