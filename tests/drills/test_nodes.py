"""Drills: under load Redis nodes die and hang, ZooKeeper is away, and the coordinator freezes.

Reads and deliveries never fail meanwhile; afterwards every copy serves again, and every active user's timeline is there
and right in every cluster.
"""

import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from random import Random

from consumers.read_timeline import TimelineReader
from infra.composition import Stores
from infra.copies import CopyState
from infra.errors import FanfoldError
from infra.paging import Cursor
from infra.shard_map import CLUSTERS, ShardMap
from infra.stack.state import PartState
from infra.stack.supervisor import Stack
from producers.publish import Publisher
from tests.drills.drill import ROLES, USERS, Callers, Diary, check, prepared_stack, telling
from tests.waiting import wait_until

TROUBLE_S = 75.0
DOWN_WITHIN_S = 3.0
BACK_WITHIN_S = 15.0
SERVES_WITHIN_S = 30.0  # what was emptied last is repaired: 300 users
HUNG_S = 6.0
REFUSED_WITHIN_S = 60.0  # clients forget what they had seen after two sessions' lengths
BETWEEN_S = 4.0
ZOOKEEPER_AWAY_S = 60.0
READS_PER_S = 40.0
QUIET_S = 4.0
READ_SHARE_MIN = 0.3  # of the reads a second before the trouble
READ_WITHIN_S = 8.0  # a hung node costs one time-out


class Readers:
    """Somebody who reads home pages of random users all the time, and keeps what was wrong."""

    def __init__(self, opened: Stores, rng: Random) -> None:
        self.reads = 0
        self.slowest_s = self.seconds = 0.0
        self.failures: list[str] = []
        self._reader = TimelineReader(opened)
        self._rng = rng
        self._stopped = threading.Event()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """While the context lasts."""
        with ThreadPoolExecutor(1) as threads:
            began_s, work = time.monotonic(), threads.submit(self._read)
            try:
                yield
            finally:
                self._stopped.set()
            self.seconds = time.monotonic() - began_s
            work.result()

    def _read(self) -> None:
        while not self._stopped.wait(self._rng.expovariate(READS_PER_S)):
            user_id, began_s = self._rng.randint(1, USERS), time.monotonic()
            try:
                ids = [tweet.id for tweet in self._reader.home(user_id, Cursor()).tweets]
            except FanfoldError as error:
                self.failures.append(f"user {user_id}: {error}")
                continue
            self.reads += 1
            self.slowest_s = max(self.slowest_s, time.monotonic() - began_s)
            if ids != sorted(set(ids), reverse=True):
                self.failures.append(f"user {user_id}: a double or a wrong order in {ids}")


@contextmanager
def under_load(seed: int, diary: Diary) -> Iterator[tuple[Stack, Stores]]:
    """Callers and readers while the context lasts; then everything is compared."""
    with telling(diary), prepared_stack(seed, diary) as (stack, opened, graph):
        readers = Readers(opened, Random(seed))
        with Callers(Publisher(opened), graph).calling(seed), readers.reading():
            time.sleep(QUIET_S)
            quiet_per_s = readers.reads / QUIET_S
            yield stack, opened
        per_s = readers.reads / readers.seconds
        diary.note(f"{per_s:.1f} reads a second after {quiet_per_s:.1f}, the slowest {readers.slowest_s:.2f} s")

        def is_whole() -> bool:
            return opened.clusters.shard_map.copies.all_serving

        wait_for(diary, "every copy serves again", is_whole, SERVES_WITHIN_S)
        print(diary.text())  # noqa: T201 - pytest shows it when a test fails, and with -s
        assert readers.failures == []
        assert per_s > quiet_per_s * READ_SHARE_MIN > 0
        assert readers.slowest_s < READ_WITHIN_S
        check(opened, stack.settings(), diary)


def states_of(shard_map: ShardMap, name: str) -> set[CopyState]:
    return {shard_map.copies.of(name[0], slot) for slot in shard_map.slots_on(name)}


def wait_for(diary: Diary, what: str, condition: Callable[[], bool], within_s: float) -> None:
    began_s = time.monotonic()
    wait_until(condition, what, within_s)
    diary.note(f"{what}, {time.monotonic() - began_s:.1f} s later")


def test_nodes_that_die_and_hang_are_down_at_once_and_come_back_emptied() -> None:
    diary, rng = Diary(1), Random(1)
    with under_load(1, diary) as (stack, opened):
        until_s = time.monotonic() + TROUBLE_S
        troubles = 0
        while time.monotonic() < until_s:
            name = rng.choice(CLUSTERS) + rng.choice("12")
            number = (signal.SIGKILL, signal.SIGSTOP)[troubles % 2]
            before = opened.clusters.shard_map.copies.incarnations[name]
            diary.note(f"{name} gets {number.name}")
            stack.kill(name, number)
            began_s = time.monotonic()

            def is_known(name: str = name, before: str = before) -> bool:
                return opened.clusters.shard_map.copies.incarnations.get(name) != before

            wait_for(diary, f"{name} is not admitted any more", is_known, DOWN_WITHIN_S)
            if number is signal.SIGSTOP:
                time.sleep(max(HUNG_S - (time.monotonic() - began_s), 0.0))
                diary.note(f"{name} gets SIGCONT")
                stack.kill(name, signal.SIGCONT)

            def is_back(name: str = name) -> bool:
                return CopyState.DOWN not in states_of(opened.clusters.shard_map, name)

            wait_for(diary, f"{name} is back", is_back, BACK_WITHIN_S)
            troubles += 1
            time.sleep(BETWEEN_S)
        assert troubles >= 4
        assert opened.clusters.shard_map.epoch == 1, "none was away for long"


def test_without_zookeeper_everything_goes_on_and_afterwards_it_is_followed_again() -> None:
    diary = Diary(2)
    with under_load(2, diary) as (stack, opened):
        before = opened.clusters.shard_map
        diary.note("zookeeper stops")
        stack.kill("zookeeper", signal.SIGSTOP)
        time.sleep(ZOOKEEPER_AWAY_S)
        assert opened.clusters.cut_off
        assert opened.clusters.shard_map == before
        diary.note("zookeeper goes on")
        stack.kill("zookeeper", signal.SIGCONT)
        wait_for(diary, "the shard map is checked again", lambda: not opened.clusters.cut_off, BACK_WITHIN_S)
        diary.note("b1 gets SIGKILL")
        killed = before.copies.incarnations["b1"]
        stack.kill("b1", signal.SIGKILL)

        def is_followed() -> bool:
            shard_map = opened.clusters.shard_map
            incarnation = shard_map.copies.incarnations.get("b1", killed)
            return incarnation != killed and CopyState.DOWN not in states_of(shard_map, "b1")

        wait_for(diary, "b1 was admitted again", is_followed, 2 * BACK_WITHIN_S)
        running = {part: stack.state(part) for part in ROLES}
        assert set(running.values()) == {PartState.RUNNING}
        assert opened.clusters.shard_map.placement == before.placement


def test_after_zookeeper_lost_its_data_a_command_makes_a_new_map_and_every_node_begins_anew() -> None:
    diary = Diary(3)
    with under_load(3, diary) as (stack, opened):
        before = opened.clusters.shard_map
        diary.note("zookeeper loses its data")
        stack.kill("zookeeper", signal.SIGSTOP)
        shutil.rmtree(stack.data_dir / "zookeeper")
        stack.kill("zookeeper", signal.SIGKILL)
        log = stack.data_dir / "logs" / "coordinator.log"
        wait_for(diary, "it is refused", lambda: "`fanfold shards restore`" in log.read_text(), REFUSED_WITHIN_S)
        assert opened.clusters.shard_map == before, "everybody goes on with what he knows"
        command = [sys.executable, "-m", "infra", "--data-dir", str(stack.data_dir), "shards", "restore"]

        def is_restored() -> bool:
            return subprocess.run(command, check=False, capture_output=True).returncode == 0

        wait_for(diary, "it is restored", is_restored, REFUSED_WITHIN_S)

        def is_followed() -> bool:
            shard_map = opened.clusters.shard_map
            states = {state for name in shard_map.nodes for state in states_of(shard_map, name)}
            return shard_map.epoch > before.epoch and CopyState.DOWN not in states

        wait_for(diary, "every node was emptied and admitted", is_followed, REFUSED_WITHIN_S)
        time.sleep(BETWEEN_S)
