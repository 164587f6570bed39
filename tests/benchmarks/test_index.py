"""The benchmark of the follower index: its graph, what it refuses, a small run, and what Ctrl-C leaves."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from benchmarks.demo_report import Watcher
from benchmarks.index import IndexOptions, check_options, check_room, run_index
from benchmarks.index_graph import SLICE_USERS, make_follows, user_ids
from infra.errors import InvalidInput, StackError
from infra.stack.progress import silent
from streams.follower_index import AUTHOR_BYTES

MIB, GIB = 1 << 20, 1 << 30


@pytest.mark.parametrize(("users", "follows"), [(2, 1), (10, 40), (2 * SLICE_USERS + 7, 900_001)])
def test_the_graph_has_each_follow_once_and_nobody_follows_himself(users: int, follows: int) -> None:
    slices = list(make_follows(users, follows, seed=3))

    followers, authors = (np.concatenate(columns) for columns in zip(*slices, strict=True))
    assert len(followers) == follows == len(set(zip(followers.tolist(), authors.tolist(), strict=True)))
    assert not (followers == authors).any()
    assert set(authors.tolist()) | set(followers.tolist()) <= set(user_ids(users, seed=3).tolist())


def test_the_graph_has_a_heavy_tail() -> None:
    authors = np.concatenate([authors for _, authors in make_follows(100_000, 1_000_000, seed=3)])

    _, counts = np.unique(authors, return_counts=True)
    assert counts.max() > 5_000
    assert np.median(counts) < 10
    assert len(counts) > 50_000


@pytest.mark.parametrize(
    "options",
    [IndexOptions(users=1), IndexOptions(follows=0), IndexOptions(users=10, follows=51), IndexOptions(runs=0)],
)
def test_a_graph_that_cannot_be_made_is_refused(options: IndexOptions) -> None:
    with pytest.raises(InvalidInput):
        check_options(options)


@pytest.mark.parametrize(
    ("free_bytes", "available_bytes", "said"),
    [(4 * GIB, 8 * GIB, "4096 MiB are free"), (80 * GIB, 300 * MIB, "300 MiB are available")],
)
def test_too_little_room_is_said_before_anything_starts(
    tmp_path: Path, free_bytes: int, available_bytes: int, said: str
) -> None:
    with pytest.raises(StackError, match=said):
        check_room(IndexOptions(), tmp_path, free_bytes, available_bytes)


def test_a_small_run_reports_what_it_held_and_leaves_nothing(tmp_path: Path) -> None:
    figures = run_index(IndexOptions(users=2_000, follows=20_000, runs=1), tmp_path, Watcher(), silent).as_json()

    assert (figures["users"], figures["follows"], figures["authors"]) == (2_000, 20_000, 2_000)
    assert figures["index_bytes"] > 2_000 * AUTHOR_BYTES + 20_000 * 8
    assert 50 * MIB < figures["imported_bytes"] < figures["resident_bytes"] < 400 * MIB
    assert figures["ratio"] == pytest.approx(figures["follows_per_s"] / figures["copy_limit_per_s"], abs=0.01)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_leaves_neither_files_nor_processes(tmp_path: Path) -> None:
    program = (
        # A shell has what it starts in the background ignore interrupts.
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "from pathlib import Path; from benchmarks.index import *; "
        "from infra.stack.progress import silent; "
        "run_index(IndexOptions(users=20_000, follows=200_000, runs=50), Path(sys.argv[1]), Watcher(), silent)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "building" in line:
            break
    children = psutil.Process(process.pid).children(recursive=True)

    os.killpg(process.pid, signal.SIGINT)

    process.communicate(timeout=60)
    _, alive = psutil.wait_procs(children, timeout=10)
    assert (len(children) > 0, alive, list(tmp_path.iterdir())) == (True, [], [])
