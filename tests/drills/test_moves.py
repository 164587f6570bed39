"""Drill: under load a node joins each cluster, then another one of each is drained; the coordinator is killed too.

No read fails or goes to the database because of it, each move takes the slots that it must and hardly more, and
afterwards every timeline is there and right in every cluster.
"""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from consumers.read_timeline import TimelineReader
from infra import metrics
from infra.live_settings import set_live_settings
from infra.moves import moved_slots
from infra.paging import LIMIT_DEFAULT, Cursor
from infra.shard_map import CLUSTERS, ShardMap
from infra.slots import SLOTS
from infra.stack.roles import fanfold_command
from tests.drills.drill import Diary, check, telling
from tests.drills.heavy_load import Load, Size, heavy_stack
from tests.redis_server import redis_server
from tests.waiting import wait_until

pytestmark = pytest.mark.heavy

SEED = 5
SIZE = Size(users=600, authors=30, followers=200, deliveries_per_s=3_000.0, reads_per_s=100.0)
LARGE = Size()  # with DRILL_SIZE=large in the environment of the tests
SLOTS_MAX = 200  # a third of a cluster moves in two batches
MOVED_WITHIN_S = 120.0
READ_WITHIN_S = 3.0
# Of the bodies read: one whose tweet is delivered before its caller has put it is missed at any time. A copy that is
# cold would lack a third of them.
BODY_MISSES_MAX = 0.005
DATABASE_SOURCES = ("below_floor", "rebuilding")


def test_a_node_joins_each_cluster_and_another_one_is_drained_under_load(tmp_path: Path) -> None:
    diary, size = Diary(SEED), LARGE if os.environ.get("DRILL_SIZE") == "large" else SIZE
    with ExitStack() as servers, telling(diary), heavy_stack(size, SEED, diary) as (stack, opened):
        set_live_settings(opened.zookeeper, move_slots_max=SLOTS_MAX)
        urls = {}
        for cluster in CLUSTERS:
            folder = tmp_path / cluster
            folder.mkdir()
            urls[f"{cluster}3"] = servers.enter_context(redis_server(folder)).url
        reader = TimelineReader(opened)
        for user_id in range(1, size.users + 1):
            reader.home(user_id, Cursor())  # what is built when it is first read is there
        with Load(opened, size, SEED).running() as seen:
            wait_until(lambda: len(seen.reads) > size.reads_per_s, "the load")
            first, to_database = opened.clusters.shard_map, reads_of_the_database()
            with fanfold(stack.data_dir, diary, [("add", name, url) for name, url in urls.items()]):
                wait_until(lambda: opened.clusters.shard_map.epoch > first.epoch, "the first batch", MOVED_WITHIN_S)
                diary.note("the coordinator gets SIGKILL")
                stack.kill("coordinator", signal.SIGKILL)
            joined = opened.clusters.shard_map
            with fanfold(stack.data_dir, diary, [("drain", f"{cluster}1") for cluster in CLUSTERS]):
                pass
            drained = opened.clusters.shard_map
            now = reads_of_the_database()
            bodies = now.pop("miss body") - to_database.pop("miss body")
            assert now == to_database, "no read had to go there"
        assert bodies < BODY_MISSES_MAX * LIMIT_DEFAULT * len(seen.reads)
        slowest_s = max(seconds for _, seconds in seen.reads)
        diary.note(f"{len(seen.posted)} tweets, {len(seen.reads)} reads, the slowest {slowest_s:.2f} s")
        print(diary.text())  # noqa: T201 - pytest shows it when a test fails, and with -s
        assert seen.wrong == []
        assert seen.refused == []
        assert slowest_s < READ_WITHIN_S
        for cluster in CLUSTERS:
            check_share(first, joined, cluster, f"{cluster}3")
            check_share(drained, joined, cluster, f"{cluster}1")
        assert drained.epoch - first.epoch >= 4, "in batches"
        check(opened, stack.settings(), diary, size.users)


def check_share(without: ShardMap, with_it: ShardMap, cluster: str, name: str) -> None:
    """A node that joins or leaves moves its share, which is a third within 15 %, and at most 1.5 times a third."""
    assert name not in without.nodes_of(cluster)
    assert len(with_it.slots_on(name)) == pytest.approx(SLOTS / 3, rel=0.15)
    assert len(moved_slots(without, with_it, cluster)) <= 1.5 * SLOTS / 3


def reads_of_the_database() -> dict[str, float]:
    """How often this process, which reads and posts, found something in no copy, and what it had to build."""
    misses = {f"miss {kind}": metrics.MISSES.labels(kind)._value.get() for kind in ("home", "user", "body")}
    pages = {
        f"{kind} {source}": metrics.PAGES.labels(kind, source)._value.get()
        for kind in ("home", "user")
        for source in DATABASE_SOURCES
    }
    return {**misses, **pages}


@contextmanager
def fanfold(data_dir: Path, diary: Diary, commands: list[tuple[str, ...]]) -> Iterator[None]:
    """`fanfold shards` with each of these words, all at the same time; at the end they are waited for, and all done."""
    began_s = time.monotonic()
    running = [
        subprocess.Popen(
            fanfold_command(data_dir, "shards", *words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for words in commands
    ]
    try:
        yield
        for words, process in zip(commands, running, strict=True):
            output, errors = process.communicate(timeout=MOVED_WITHIN_S)
            took_s = time.monotonic() - began_s
            diary.note(f"{' '.join(words)}: exit {process.returncode} after {took_s:.1f} s: {output}{errors}".strip())
            assert process.returncode == 0
    finally:
        for process in running:
            process.kill()
            process.communicate()
