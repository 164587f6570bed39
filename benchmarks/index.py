"""Benchmark of the follower index: built from cold for all activity partitions in one worker's memory.

Starts PostgreSQL, fills it with follows, builds in fresh processes (index_build.py), and compares with bare COPY of the
same rows in the same run. Everything it made is gone afterwards, also after Ctrl-C.
"""

import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import sqlalchemy as sa

from benchmarks.demo_report import Watcher
from benchmarks.index_build import Build
from benchmarks.index_graph import make_follows
from infra.database import driver_cursor, make_engine, reading, transaction, upgrade
from infra.errors import CheckFailed, InvalidInput, StackError
from infra.slots import Ids
from infra.stack.progress import Report
from infra.stack.stop import stop_stack
from infra.stack.supervisor import Stack
from infra.topics import ACTIVITY
from streams.follower_index import INDEX_BYTES_MAX

FOLLOWS_MAX = 100_000_000
FOLLOWS_PER_USER_MAX = 100  # beyond that nearly everybody would follow the best known authors
DISK_BYTES_PER_FOLLOW = 250  # a row and two index entries take 125, sorting them as much again
DISK_BYTES_BESIDES = 2 << 30  # PostgreSQL's own files, its log among them
MEMORY_BYTES = (1 << 30) + ACTIVITY.partitions * INDEX_BYTES_MAX  # PostgreSQL, two Pythons, the index at its limit
MAINTENANCE_MEMORY = "256MB"  # of PostgreSQL while it makes an index
KEY = "follows_pkey"

_HEADER, _TRAILER = b"PGCOPY\n\xff\r\n\0" + bytes(8), b"\xff\xff"
_ROW = np.dtype([("fields", ">i2"), ("size_1", ">i4"), ("follower", ">i8"), ("size_2", ">i4"), ("author", ">i8")])


@dataclass(frozen=True, slots=True)
class IndexOptions:
    """What is built, and how often: each run is a fresh process."""

    users: int = 1_000_000
    follows: int = 10_000_000
    runs: int = 3
    seed: int = 7


@dataclass(frozen=True, slots=True)
class IndexResult:
    """What the runs took; rates are medians, bytes are the largest."""

    users: int
    builds: Sequence[Build]

    def as_json(self) -> dict[str, Any]:
        """Rates in follows a second. `ratio` is to bare COPY of the same rows, read and dropped."""
        rates = [one.follows_per_s for one in self.builds]
        rate, limit = statistics.median(rates), statistics.median(one.limit_per_s for one in self.builds)
        return {
            "users": self.users,
            "follows": self.builds[0].follows,
            "authors": self.builds[0].authors,
            "partitions": ACTIVITY.partitions,
            "runs": len(self.builds),
            "seconds": round(statistics.median(one.seconds for one in self.builds), 2),
            "follows_per_s": round(rate),
            "follows_per_s_min": round(min(rates)),
            "follows_per_s_max": round(max(rates)),
            "copy_limit_per_s": round(limit),
            "ratio": round(rate / limit, 3),
            "resident_bytes": max(one.resident_bytes for one in self.builds),
            "imported_bytes": max(one.imported_bytes for one in self.builds),
            "index_bytes": max(one.index_bytes for one in self.builds),
        }


def run_index(options: IndexOptions, data_dir: Path, watcher: Watcher, report: Report) -> IndexResult:
    """Runs in a fresh folder below `data_dir` and removes it, whatever happens.

    Raises `InvalidInput` or `StackError` before anything is started when it cannot be done.
    """
    data_dir.mkdir(parents=True, exist_ok=True)
    check_options(options)
    folder = data_dir / "bench-index"
    stop_stack(folder, silent=True)  # what a killed run left
    shutil.rmtree(folder, ignore_errors=True)
    check_room(options, data_dir, shutil.disk_usage(data_dir).free, psutil.virtual_memory().available)
    folder.mkdir()
    stack = Stack(folder, roles=(), prepare=False, servers=("postgres",))
    try:
        watcher.step("starting PostgreSQL")
        stack.start(report)
        url = stack.settings().need("database_url")
        fill(url, options, watcher)
        builds = []
        for run in range(1, options.runs + 1):
            watcher.step(f"building the index from cold, run {run} of {options.runs}")
            builds.append(_build_apart(url, options))
    finally:
        stack.stop(report)
        shutil.rmtree(folder, ignore_errors=True)
    return IndexResult(options.users, builds)


def check_options(options: IndexOptions) -> None:
    """Raises `InvalidInput` for a graph that cannot be made."""
    if options.users < 2:
        raise InvalidInput(f"{options.users} users cannot follow each other: name 2 or more")
    most = min(FOLLOWS_MAX, options.users * min(FOLLOWS_PER_USER_MAX, options.users // 2))
    if not 1 <= options.follows <= most:
        raise InvalidInput(f"{options.follows:,} follows of {options.users:,} users: name 1 to {most:,}")
    if options.runs < 1:
        raise InvalidInput(f"{options.runs} runs measure nothing: name 1 or more")


def check_room(options: IndexOptions, data_dir: Path, free_bytes: int, available_bytes: int) -> None:
    """Raises `StackError` when disk or memory would run out in the middle."""
    needed_bytes = DISK_BYTES_BESIDES + options.follows * DISK_BYTES_PER_FOLLOW
    if free_bytes < needed_bytes:
        raise StackError(
            f"{options.follows:,} follows need {needed_bytes >> 20} MiB on the disk of {data_dir}, and "
            f"{free_bytes >> 20} MiB are free: make room, or use another --data-dir"
        )
    if available_bytes < MEMORY_BYTES:
        raise StackError(
            f"the benchmark needs {MEMORY_BYTES >> 20} MiB of memory, and {available_bytes >> 20} MiB are available"
        )


def fill(url: str, options: IndexOptions, watcher: Watcher) -> None:
    """Migrated tables and the follows; indexes are made after the rows, and what autovacuum would do later is done."""
    upgrade(url)
    engine = make_engine(url)
    try:
        watcher.step(f"filling in {options.follows:,} follows of {options.users:,} users")
        with transaction(engine) as connection:
            connection.execute(sa.text(f"ALTER TABLE follows DROP CONSTRAINT {KEY}"))
            connection.execute(sa.text("DROP INDEX follows_by_author"))
            _copy_follows(connection, options, watcher)
        watcher.step("making the table's indexes")
        with transaction(engine) as connection:
            connection.execute(sa.text(f"SET LOCAL maintenance_work_mem = '{MAINTENANCE_MEMORY}'"))
            connection.execute(
                sa.text(f"ALTER TABLE follows ADD CONSTRAINT {KEY} PRIMARY KEY (follower_id, author_id)")
            )
            connection.execute(sa.text("CREATE INDEX follows_by_author ON follows (author_id, follower_id)"))
        with reading(engine) as connection:
            connection.execute(sa.text("VACUUM (ANALYZE) follows"))
        watcher.done("done")
    finally:
        engine.dispose()


def _copy_follows(connection: sa.Connection, options: IndexOptions, watcher: Watcher) -> None:
    done = 0
    statement = "COPY follows (follower_id, author_id) FROM STDIN (FORMAT binary)"
    with driver_cursor(connection) as cursor, cursor.copy(statement) as copy:
        copy.write(_HEADER)
        for followers, authors in make_follows(options.users, options.follows, options.seed):
            copy.write(_rows(followers, authors))
            done += len(followers)
            watcher.counted(done, options.follows)
        copy.write(_TRAILER)


def _rows(followers: Ids, authors: Ids) -> bytes:
    rows = np.empty(len(followers), _ROW)
    rows["fields"], rows["size_1"], rows["size_2"] = 2, 8, 8
    rows["follower"], rows["author"] = followers, authors
    return rows.tobytes()


def _build_apart(url: str, options: IndexOptions) -> Build:
    words = (sys.executable, "-m", "benchmarks.index_build", url, str(options.users), str(options.seed))
    done = subprocess.run(words, stdout=subprocess.PIPE, check=False)  # killed when we are interrupted
    if done.returncode != 0:
        raise CheckFailed(f"the process that builds the index ended with exit code {done.returncode}; see above")
    built = Build(**json.loads(done.stdout))
    if built.follows != options.follows:
        raise CheckFailed(f"the index holds {built.follows:,} follows of {options.follows:,}")
    return built
