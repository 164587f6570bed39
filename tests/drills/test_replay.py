"""Drills: under load the log is sent again from its beginning, three times, cut off in between, and all tweets from the
database, by a runner that is killed twice. Nothing that is right changes, and nothing that is gone comes back. And a
million entries from the database, some of which the timelines lack, are brought by runners that are killed.
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

from benchmarks.graph import Graph
from consumers.applied import wait_until_applied
from consumers.audit import audit
from consumers.delivered import delivered
from consumers.read_timeline import TimelineReader
from infra import redis_keys
from infra.composition import Stores
from infra.paging import Cursor
from infra.replay_jobs import Jobs, State
from infra.shard_map import CLUSTERS
from infra.stack.supervisor import Stack
from infra.timelines import Kind
from producers.publish import NewTweet, Publisher, need_all
from tests.drills.drill import Callers, Diary, check, prepared_stack, telling
from tests.drills.heavy_load import Size, heavy_stack
from tests.waiting import wait_until

pytestmark = pytest.mark.heavy

SETTLES_S = 5.0
QUIET_S = 20.0
P99_TIMES_MAX = 4.0  # on a machine whose quiet p99 varies by a half; the aim is 3
SLOW_MS = 400.0  # such a tweet is in the diary
REPLAYS = 3
DONE_WITHIN_S = 180.0
TWEETS = 6_000  # with 23 followers each on average 140,000 entries
MILLION = Size(users=5_000, authors=100, followers=600)
MILLION_TWEETS = 1_700
FROM_LOG = ("--source", "log", "--rate", "1000", "--execute")
FROM_DATABASE = ("--source", "database", "--execute")
SLOWLY = ("--rate", "150")  # events a second: so a runner can be killed on the way
PROBE_EVERY_S = 0.1
VISIBLE_WITHIN_S = 10.0


@contextmanager
def probing(opened: Stores, graph: Graph, took_ms: list[float], diary: Diary) -> Iterator[None]:
    """Somebody posts, and looks when a follower sees it: the milliseconds of each."""
    publisher, reader = Publisher(opened), TimelineReader(opened)
    author, follower = int(graph.authors[0]), int(graph.followers[0])
    stopped = threading.Event()

    def run() -> None:
        while not stopped.wait(PROBE_EVERY_S):
            posted = publisher.post(NewTweet(author, "seen?")).id
            began_s = time.monotonic()
            while posted not in {one.id for one in reader.home(follower, Cursor()).tweets}:
                if time.monotonic() - began_s > VISIBLE_WITHIN_S:
                    break  # one of the callers has ended the follow; the audit tells a loss
                time.sleep(0.002)
            else:
                took_ms.append((time.monotonic() - began_s) * 1000)
                if took_ms[-1] > SLOW_MS:
                    diary.note(f"a tweet was seen after {took_ms[-1]:.0f} ms")

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def replaying(stack: Stack, *words: str) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-m", "infra", "--data-dir", str(stack.data_dir), "replay", *words, "--json"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ.copy())


def p99(took_ms: Sequence[float]) -> float:
    return float(np.percentile(took_ms, 99)) if took_ms else float("nan")


def kill_on_the_way(stack: Stack, jobs: Jobs, words: Sequence[str], sent: float, diary: Diary) -> int:
    """Starts a replay and kills its runner once so many events were sent. The job's number."""
    before = {job.id for job in jobs.all()}
    runner = replaying(stack, *words)
    try:
        wait_until(lambda: len(jobs.all()) > len(before), "the replay", 30.0)
        [number] = {job.id for job in jobs.all()} - before
        wait_sent(jobs, number, sent)
    finally:
        runner.kill()
        runner.communicate()
    diary.note(f"the runner of replay {number} gets SIGKILL, {jobs.get(number).counts.sent} sent")
    return number


def kill_keeper(stack: Stack, jobs: Jobs, number: int, sent: float, diary: Diary) -> None:
    """Kills the coordinator, which has taken a replay over, once so many events were sent."""
    wait_sent(jobs, number, sent)
    stack.kill("coordinator", signal.SIGKILL)
    diary.note(f"and the coordinator, which had taken it over, {jobs.get(number).counts.sent} sent")


def wait_sent(jobs: Jobs, number: int, at_least: float) -> None:
    wait_until(lambda: jobs.get(number).counts.sent >= at_least, f"the place in replay {number}", DONE_WITHIN_S)
    assert jobs.get(number).state is State.RUNNING


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
        wait_until_applied(opened.engine, stack.settings().kafka_bootstrap, DONE_WITHIN_S)
        quiet, loud = list[float](), list[float]()
        with calling(opened, graph, 0, quiet, diary):
            time.sleep(SETTLES_S)
            quiet.clear()
            time.sleep(QUIET_S)
        for turn in range(1, REPLAYS + 1):
            with calling(opened, graph, turn, loud, diary):
                number = kill_on_the_way(stack, jobs, FROM_LOG, rng.uniform(0.1, 0.9) * TWEETS, diary)
                wait_done(jobs, number, diary)
            check(opened, stack.settings(), diary)
        with calling(opened, graph, REPLAYS + 1, loud, diary):
            number = kill_on_the_way(stack, jobs, FROM_DATABASE, 0.2 * TWEETS, diary)
            kill_keeper(stack, jobs, number, 0.5 * TWEETS, diary)
            wait_done(jobs, number, diary)
        check(opened, stack.settings(), diary)
        diary.note(
            f"p99 of {len(quiet)} tweets until they are seen: {p99(quiet):.0f} ms, of {len(loud)} while "
            f"replays ran {p99(loud):.0f} ms: {p99(loud) / p99(quiet):.1f} times"
        )
        print(diary.text())  # noqa: T201 - pytest shows it when a test fails, and with -s
        assert p99(loud) < P99_TIMES_MAX * p99(quiet)


@contextmanager
def calling(opened: Stores, graph: Graph, turn: int, took_ms: list[float], diary: Diary) -> Iterator[None]:
    """While the context lasts, callers change timelines, and it is measured when tweets are seen."""
    with Callers(Publisher(opened), graph).calling(turn), probing(opened, graph, took_ms, diary):
        yield


def test_a_million_entries_from_the_database_by_runners_that_are_killed() -> None:
    diary = Diary(2)
    with telling(diary), heavy_stack(MILLION, 2, diary) as (stack, opened):
        jobs, publisher = Jobs(opened.zookeeper), Publisher(opened)
        authors = [1 + number % MILLION.authors for number in range(MILLION_TWEETS)]
        posted: list[int] = []
        for start in range(0, MILLION_TWEETS, 500):
            made = need_all(publisher.post_many([NewTweet(one, "before") for one in authors[start : start + 500]]))
            posted += [tweet.id for tweet in made]
        bootstrap = stack.settings().kafka_bootstrap
        wait_until_applied(opened.engine, bootstrap, DONE_WITHIN_S)
        damaged = [damage(opened, user, set(posted)) for user in range(1, MILLION.users + 1, 10)]
        assert set(damaged) == {len(CLUSTERS)}
        before = delivered(opened.clusters).deliveries

        number = kill_on_the_way(stack, jobs, (*FROM_DATABASE, *SLOWLY), 0.2 * MILLION_TWEETS, diary)
        kill_keeper(stack, jobs, number, 0.5 * MILLION_TWEETS, diary)
        wait_done(jobs, number, diary)

        wait_until_applied(opened.engine, bootstrap, DONE_WITHIN_S)
        diary.note(f"{delivered(opened.clusters).deliveries - before:,} entries, {len(damaged)} lists lacked one")
        assert delivered(opened.clusters).deliveries - before >= MILLION_TWEETS * MILLION.followers
        print(diary.text())  # noqa: T201 - pytest shows it when a test fails, and with -s
        result = audit(opened.engine, opened.timelines, complete=True)
        assert not result.differences
        assert (result.clean, result.active_users) == (True, MILLION.users)


def damage(opened: Stores, user: int, posted: set[int]) -> int:
    """Takes one of these entries out of a home timeline, in every copy; how many copies had it."""
    entry = next(int(one) for one in opened.timelines.dump("a", Kind.HOME, [user])[user] if int(one) in posted)
    key = redis_keys.home_timeline(user)
    nodes = [opened.clusters.node_for(cluster, user) for cluster in CLUSTERS]
    return sum(int(node.command("LREM", key, 1, entry)) for node in nodes)
