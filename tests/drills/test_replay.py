"""Drill: under load the log is sent again from its beginning, three times, cut off in between, and all tweets from the
database, by a runner that is killed twice. Nothing that is right changes, and nothing that is gone comes back.
"""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from random import Random

import numpy as np
import pytest

from consumers.read_timeline import TimelineReader
from infra.composition import Stores
from infra.paging import Cursor
from infra.replay_jobs import Jobs, State
from infra.stack.supervisor import Stack
from producers.publish import NewTweet, Publisher, need_all
from tests.drills.drill import Callers, Diary, check, prepared_stack, telling
from tests.waiting import wait_until

pytestmark = pytest.mark.heavy

QUIET_S = 8.0
REPLAYS = 3
DONE_WITHIN_S = 60.0
TWEETS = 6_000  # with 23 followers each on average 140,000 entries
PROBE_EVERY_S = 0.1
VISIBLE_WITHIN_S = 10.0


class Probe:
    """Somebody who posts, and looks when a follower sees it. Milliseconds."""

    def __init__(self, opened: Stores, author: int, follower: int) -> None:
        self._publisher = Publisher(opened)
        self._reader = TimelineReader(opened)
        self._author = author
        self._follower = follower
        self._took_ms: list[float] = []
        self._stopped = threading.Event()

    @contextmanager
    def probing(self) -> Iterator[None]:
        """While the context lasts."""
        thread = threading.Thread(target=self._run)
        thread.start()
        try:
            yield
        finally:
            self._stopped.set()
            thread.join()

    def taken(self) -> list[float]:
        """What was measured since the last time."""
        taken, self._took_ms = self._took_ms, []
        return taken

    def _run(self) -> None:
        while not self._stopped.wait(PROBE_EVERY_S):
            posted = self._publisher.post(NewTweet(self._author, "seen?")).id
            began_s = time.monotonic()
            while posted not in {one.id for one in self._reader.home(self._follower, Cursor()).tweets}:
                if time.monotonic() - began_s > VISIBLE_WITHIN_S:
                    break  # one of the callers has ended the follow; the audit tells a loss
                time.sleep(0.002)
            else:
                self._took_ms.append((time.monotonic() - began_s) * 1000)


def replaying(stack: Stack, *words: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "infra", "--data-dir", str(stack.data_dir), "replay", *words, "--json"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ.copy())


def p99(took_ms: Sequence[float]) -> float:
    return float(np.percentile(took_ms, 99)) if took_ms else float("nan")


def kill_on_the_way(stack: Stack, jobs: Jobs, words: Sequence[str], share: float, diary: Diary) -> int:
    """Starts a replay and kills its runner once it has looked at this share of it. The job's number."""
    before = {job.id for job in jobs.all()}
    runner = replaying(stack, *words)
    wait_until(lambda: len(jobs.all()) > len(before), "the replay", 30.0)
    [number] = {job.id for job in jobs.all()} - before
    wait_until(lambda: jobs.get(number).counts.looked >= share * jobs.get(number).total, "its place", DONE_WITHIN_S)
    runner.send_signal(signal.SIGKILL)
    runner.communicate()
    diary.note(f"the runner of replay {number} gets SIGKILL, {jobs.get(number).counts.looked} looked at")
    return number


def wait_done(jobs: Jobs, number: int, diary: Diary) -> None:
    wait_until(lambda: jobs.get(number).state is State.DONE, f"replay {number}", DONE_WITHIN_S)
    diary.note(f"replay {number} is done: {jobs.get(number).counts}")


def test_the_log_three_times_and_the_database_once_cut_off_under_load_change_nothing_that_is_right() -> None:
    diary, rng = Diary(1), Random(1)
    with telling(diary), prepared_stack(1, diary) as (stack, opened, graph):
        jobs = Jobs(opened.zookeeper)
        publisher = Publisher(opened)
        authors = [int(one) for one in np.random.default_rng(1).choice(graph.authors, TWEETS)]
        for start in range(0, TWEETS, 500):
            need_all(publisher.post_many([NewTweet(one, "before") for one in authors[start : start + 500]]))
        probe = Probe(opened, int(graph.authors[0]), int(graph.followers[0]))
        with Callers(Publisher(opened), graph).calling(1), probe.probing():
            time.sleep(QUIET_S)
            quiet = probe.taken()
            for _ in range(REPLAYS):
                number = kill_on_the_way(stack, jobs, ("--source", "log", "--execute"), rng.uniform(0.1, 0.9), diary)
                wait_done(jobs, number, diary)
            words = ("--source", "database", "--execute")
            number = kill_on_the_way(stack, jobs, words, 0.2, diary)
            wait_until(lambda: jobs.get(number).counts.looked >= 0.5 * jobs.get(number).total, "more", DONE_WITHIN_S)
            stack.kill("coordinator", signal.SIGKILL)
            diary.note("and the coordinator, which had taken it over")
            wait_done(jobs, number, diary)
            loud = probe.taken()
        diary.note(
            f"p99 of {len(quiet)} tweets until they are seen: {p99(quiet):.0f} ms, of {len(loud)} while "
            f"replays ran {p99(loud):.0f} ms"
        )
        print(diary.text())  # noqa: T201 - pytest shows it when a test fails, and with -s
        check(opened, stack.settings(), diary)
