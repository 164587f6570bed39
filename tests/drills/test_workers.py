"""Drill: for two minutes under load workers join, leave, are killed and freeze, one every few seconds.

Afterwards the lag is back at 0 within 30 s, every timeline is right in every cluster, and nothing is a dead letter.
"""

import signal
import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from enum import StrEnum
from random import Random

import pytest
import sqlalchemy as sa

from infra.errors import StackError
from infra.stack.state import PartState
from infra.stack.supervisor import Stack
from producers.publish import Publisher
from streams.app import SESSION_S
from tests.drills.drill import POSTS_PER_S, Callers, Diary, check, prepared_stack, telling

TROUBLE_S = 120.0
EVENT_EVERY_S = (3.0, 5.0)
FROZEN_S = (SESSION_S + 2.0, SESSION_S + 5.0)  # long enough that the group goes on without the worker
WORKERS = ("worker", "worker-2", "worker-3", "worker-4")
WORKERS_FIRST = 3


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
        if name in self._joins:
            if not self._joins[name].done():
                return Condition.BUSY
            self._joins[name].result()  # raises what kept it from its start
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


@pytest.mark.parametrize("seed", [1])
def test_workers_that_join_leave_die_and_freeze_for_two_minutes_lose_and_double_nothing(seed: int) -> None:
    diary = Diary(seed)
    with (
        telling(diary),
        ThreadPoolExecutor(len(WORKERS)) as threads,
        prepared_stack(seed, diary, WORKERS_FIRST) as (stack, opened, graph),
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
