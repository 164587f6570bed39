"""Drills: a node, two clusters and all of them are gone while much is delivered and read.

Reads go on as long as a copy is there, deliveries wait rather than lose, and afterwards everything is back by itself.
20,000 deliveries and 500 reads a second are asked for; in the environment DRILL_USERS makes it larger, and
DRILL_LOAD=0.5 halves the load where other tests run on the same machine.
"""

import os
import time
from collections.abc import Iterator

import pytest

from infra.composition import Stores
from infra.stack.supervisor import Stack
from infra.stack.valkey import NODES
from tests.drills.drill import Diary, telling
from tests.drills.failing import REPAIRED_WITHIN_S, Drill
from tests.drills.heavy_load import Load, Meter, Seen, Size, heavy_stack
from tests.waiting import wait_until

pytestmark = pytest.mark.heavy

LOAD = float(os.environ.get("DRILL_LOAD", "1"))
SIZE = Size(int(os.environ.get("DRILL_USERS", "1500")), deliveries_per_s=20_000 * LOAD, reads_per_s=500 * LOAD)
QUIET_S = 4.0
AWAY_S = 4.0
AFTER_S = 2.0
LOAD_SHARE_MIN = 0.8  # of the deliveries that are asked for, before anything fails
READ_WITHIN_S = 3.0  # a bounded call to each of three copies


@pytest.fixture(scope="module")
def stack_under_test() -> Iterator[tuple[Stack, Stores]]:
    with heavy_stack(SIZE, 1, Diary(1)) as (stack, opened):
        yield stack, opened


@pytest.fixture
def drill(stack_under_test: tuple[Stack, Stores]) -> Iterator[Drill]:
    diary = Diary(1)
    with telling(diary):
        made = Drill(*stack_under_test, diary, SIZE)
        wait_until(made.all_serving, "every copy to serve", REPAIRED_WITHIN_S)
        yield made


def test_without_a_node_no_read_fails_and_it_is_repaired_soon(drill: Drill) -> None:
    load = Load(drill.opened, SIZE, 1)
    with load.running() as seen, Meter(drill.opened.clusters, ("c1", "c2")).running() as meter:
        quiet_s = time.monotonic() + 1
        time.sleep(QUIET_S)
        before, killed_s = drill.incarnations(("a1",)), time.monotonic()
        drill.diary.note("a1 gets SIGKILL")
        drill.stack.kill("a1")
        back_s = drill.wait("a1 was emptied and admitted", lambda: drill.admitted_anew(before), 15)
        served_s = drill.wait("a1 serves again", drill.all_serving, REPAIRED_WITHIN_S)
        drill.diary.note(f"deliveries/s: {meter.rate(quiet_s, killed_s):,.0f} before")
        drill.diary.note(f"deliveries/s: {meter.rate(killed_s, served_s):,.0f} until it serves")
        drill.diary.note(f"longest pause {meter.longest_pause_s(killed_s, served_s):.1f} s")
        drill.note_reads(seen, (quiet_s, killed_s), (killed_s, served_s))

    assert meter.rate(quiet_s, killed_s) > LOAD_SHARE_MIN * SIZE.deliveries_per_s
    assert served_s - back_s < REPAIRED_WITHIN_S
    drill.need_reads(seen, (quiet_s, killed_s), (killed_s, served_s))
    assert max(seen.reads_between(killed_s)) < READ_WITHIN_S
    drill.check(seen)


def test_without_two_clusters_reads_go_on_and_deliveries_wait(drill: Drill) -> None:
    gone = ("a1", "a2", "b1", "b2")
    load = Load(drill.opened, SIZE, 2)
    with load.running() as seen, Meter(drill.opened.clusters, ("c1", "c2")).running() as meter:
        time.sleep(AFTER_S)
        before, killed_s = drill.incarnations(gone), time.monotonic()
        drill.diary.note("a1, a2, b1 and b2 are ended, and stay away")
        for name in gone:
            drill.stack.kill(name, restart=False)
        time.sleep(AWAY_S)
        began_s = time.monotonic()
        drill.diary.note(f"deliveries/s on c: {meter.rate(began_s - AWAY_S / 2, began_s):,.0f} while they are away")
        assert not drill.keeps_up(), "deliveries have to wait"
        for name in gone:
            drill.stack.start_part(name)
        drill.diary.note("they are started")
        drill.wait("they were emptied and admitted", lambda: drill.admitted_anew(before), 30)
        served_s = drill.wait("they serve again", drill.all_serving, REPAIRED_WITHIN_S)
        drill.note_reads(seen, (killed_s - AFTER_S, killed_s), (killed_s, served_s))

    drill.need_reads(seen, (killed_s - AFTER_S, killed_s), (killed_s, began_s))
    drill.check(seen)


def test_when_all_clusters_are_gone_and_empty_everything_is_rebuilt(drill: Drill) -> None:
    load = Load(drill.opened, SIZE, 3)
    with load.running() as seen:
        time.sleep(AFTER_S)
        before, killed_s = drill.incarnations(NODES), time.monotonic()
        drill.diary.note("all nodes get SIGKILL")
        for name in NODES:
            drill.stack.kill(name)
        back_s = drill.wait("they were emptied and admitted", lambda: drill.admitted_anew(before), 30)
        served_s = drill.wait("they serve again", drill.all_serving, REPAIRED_WITHIN_S)
        time.sleep(AFTER_S)
        drill.note_reads(seen, (killed_s - AFTER_S, killed_s), (killed_s, served_s))
        drill.diary.note(f"{len(seen.refused)} reads were refused, the last one {_last_s(seen) - killed_s:.1f} s later")

    assert all(killed_s - 1 <= at_s <= back_s for at_s, _ in seen.refused), seen.refused[-1]
    assert len(seen.reads_between(back_s)) > 0
    drill.check(seen)


def _last_s(seen: Seen) -> float:
    return max((at_s for at_s, _ in seen.refused), default=0.0)
