"""Drill: the memory of one cluster, then of all three, is full while much is delivered and read.

What has a time to live goes and is rebuilt when it is read; control records stay; where nothing is left to go,
deliveries wait. Nothing wrong is shown, and all comes back by itself once there is room.
"""

import time
from collections.abc import Iterable

import pytest

from consumers.delivered import delivered
from infra import redis_keys
from infra.composition import Stores
from infra.redis_node import RedisNode
from infra.shard_map import CLUSTERS
from infra.stack.valkey import NODE_MEMORY_BYTES_MAX, NODES
from infra.topics import DELIVERIES
from tests.drills.drill import Diary, telling
from tests.drills.failing import Drill
from tests.drills.heavy_load import Load, Meter, Size, heavy_stack

pytestmark = pytest.mark.heavy

SIZE = Size(users=1_000, authors=50, followers=300, deliveries_per_s=15_000.0, reads_per_s=150.0)
FILLS_S = 6.0
TIGHT_S = 4.0
FULL_S = 4.0
KEPT = 0.5  # of what came during `FILLS_S`


def memory(opened: Stores, name: str) -> int:
    """Bytes that a node has in use."""
    return int(_info(opened.clusters.node(name), "memory")["used_memory"])


def evicted(opened: Stores, names: Iterable[str]) -> int:
    """Keys that these nodes have dropped."""
    return sum(int(_info(opened.clusters.node(name), "stats")["evicted_keys"]) for name in names)


def limit(opened: Stores, bytes_of: dict[str, int]) -> None:
    for name, number in bytes_of.items():
        opened.clusters.node(name).command("CONFIG", "SET", "maxmemory", number)


def applied(opened: Stores) -> dict[tuple[str, int], int]:
    """The offset in each control record."""
    return {
        (name, partition): int(
            opened.clusters.node(name).command("HGET", redis_keys.control(partition), "applied") or -1
        )
        for name in NODES
        for partition in range(DELIVERIES.partitions)
    }


def _info(node: RedisNode, section: str) -> dict[str, int]:
    found: dict[str, int] = node.command("INFO", section)
    return found


def test_where_memory_is_full_timelines_are_missed_and_rebuilt_and_never_wrong() -> None:
    diary = Diary(1)
    with telling(diary), heavy_stack(SIZE, 1, diary) as (stack, opened):
        drill, load = Drill(stack, opened, diary, SIZE), Load(opened, SIZE, 1)
        empty = {name: memory(opened, name) for name in NODES}
        with load.running() as seen, Meter(opened.clusters, ("c1", "c2")).running() as meter:
            time.sleep(FILLS_S)
            tight = {name: round(empty[name] + KEPT * (memory(opened, name) - empty[name])) for name in NODES}
            before, count = applied(opened), delivered(opened.clusters).deliveries
            for clusters in ("b", CLUSTERS):
                names = [name for name in NODES if name[0] in clusters]
                gone = evicted(opened, names)
                limit(opened, {name: tight[name] for name in names})
                time.sleep(TIGHT_S)
                diary.note(f"{evicted(opened, names) - gone} keys were evicted on {', '.join(names)}")
                assert evicted(opened, names) > gone
                assert drill.all_serving(), "what is evicted is no fault"
                now = applied(opened)  # a record that was evicted would begin anew
                assert all(now[one] >= before[one] for one in before)
                assert delivered(opened.clusters).deliveries > count, "deliveries go on"
                before, count = now, delivered(opened.clusters).deliveries

            limit(opened, dict.fromkeys(NODES, 1))
            full_s = time.monotonic()
            diary.note("no node takes anything")
            time.sleep(FULL_S)
            diary.note(f"deliveries/s on c: {meter.rate(full_s + FULL_S / 2, full_s + FULL_S):,.0f}")
            assert not drill.keeps_up(), "deliveries have to wait"
            limit(opened, dict.fromkeys(NODES, NODE_MEMORY_BYTES_MAX))
            diary.note("there is room again")
            drill.wait("every copy serves", drill.all_serving, 30)
        reads = len(seen.reads_between(0.0))
        diary.note(f"{reads} reads, of which the slowest took {max(seen.reads_between(0.0)):.2f} s")
        assert seen.refused == []
        drill.check(seen, complete=False)
