"""One cold build of the follower index, in a process of its own that has imported what a worker imports.

Usage: python -m benchmarks.index_build DATABASE_URL USERS SEED. One line of JSON on standard output. The 8 partitions
are built at the same time in as many threads, by batches as the agent has them: what a worker does after a rebalance.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import numpy as np
import psutil
import sqlalchemy as sa
from prometheus_client import Gauge

import streams.worker  # noqa: F401 - its memory belongs to the figure
from benchmarks.demo_report import Watcher
from benchmarks.index_graph import user_ids
from infra import metrics
from infra.database import driver_cursor, make_engine, reading
from infra.malloc import share_arenas
from infra.slots import Ids
from infra.topics import ACTIVITY
from streams.app import FAN_OUT_ROUNDS
from streams.follower_index import FollowerIndex

_BARE = """
    COPY (
        SELECT author_id, string_agg(int8send(follower_id), '') FROM follows
        WHERE author_id BETWEEN %s AND %s GROUP BY author_id
    ) TO STDOUT (FORMAT binary)
"""


@dataclass(frozen=True, slots=True)
class Build:
    """What one build took. `limit_seconds`: the same follows read with bare COPY and dropped, in a thread a
    partition."""

    follows: int
    authors: int
    seconds: float
    limit_seconds: float
    imported_bytes: int  # resident before the first load
    resident_bytes: int  # and after the last
    index_bytes: int

    @property
    def follows_per_s(self) -> float:
        """What the index took in."""
        return self.follows / self.seconds

    @property
    def limit_per_s(self) -> float:
        """What bare COPY brought."""
        return self.follows / self.limit_seconds


def build(engine: sa.Engine, ids: Ids, shown: Callable[[int], None]) -> Build:
    """Looks every user up as an author, in rounds as a worker's; `shown` is told how many were."""
    process = psutil.Process()
    imported_bytes = process.memory_info().rss
    parts = [ids[partition :: ACTIVITY.partitions] for partition in range(ACTIVITY.partitions)]
    indexes = [FollowerIndex(engine) for _ in parts]
    began_s = time.monotonic()
    follows, looked_up = 0, 0
    for start in range(0, max(map(len, parts)), FAN_OUT_ROUNDS.messages_max):
        for index, part in zip(indexes, parts, strict=True):
            batch = part[start : start + FAN_OUT_ROUNDS.messages_max].tolist()
            follows += sum(len(one.ids) for one in index.get_all(batch).values())
            looked_up += len(batch)
        shown(looked_up)
    seconds = time.monotonic() - began_s
    resident_bytes = process.memory_info().rss
    return Build(
        follows=follows,
        authors=int(_value(metrics.INDEX_AUTHORS)),
        seconds=seconds,
        limit_seconds=_read_bare(engine, ids),
        imported_bytes=imported_bytes,
        resident_bytes=resident_bytes,
        index_bytes=int(_value(metrics.INDEX_BYTES)),
    )


def _read_bare(engine: sa.Engine, ids: Ids) -> float:
    """Seconds for reading and dropping everything."""
    ordered = np.sort(ids)
    ranges = [(int(part[0]), int(part[-1])) for part in np.array_split(ordered, ACTIVITY.partitions) if len(part)]
    began_s = time.monotonic()
    with ThreadPoolExecutor(ACTIVITY.partitions) as threads:
        list(threads.map(lambda one: _read_range(engine, one), ranges))
    return time.monotonic() - began_s


def _read_range(engine: sa.Engine, authors: tuple[int, int]) -> None:
    with (
        reading(engine) as connection,
        driver_cursor(connection) as cursor,
        cursor.copy(_BARE, authors) as copy,
    ):
        while copy.read():
            continue


def _value(gauge: Gauge) -> float:
    [family] = gauge.collect()
    return family.samples[0].value


def main(arguments: Sequence[str]) -> None:
    """Builds and reports."""
    share_arenas()  # as a worker does
    url, users, seed = arguments
    ids, watcher = user_ids(int(users), int(seed)), Watcher()
    engine = make_engine(url)
    try:
        result = build(engine, ids, lambda done: watcher.counted(done, len(ids)))
    finally:
        engine.dispose()
    watcher.done(f"{result.follows:,} follows in {result.seconds:.1f} s, {result.resident_bytes >> 20} MiB resident")
    sys.stdout.write(json.dumps(asdict(result)) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
