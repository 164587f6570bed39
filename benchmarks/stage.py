"""The embedded stack that a demo or a benchmark runs on: from an empty folder, and gone afterwards."""

import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import numpy as np

from benchmarks.demo_report import Watcher
from benchmarks.warm_state import Audience, Shape, fill, give_memory, refuse_other_data, warm
from infra.composition import Stores, stores
from infra.settings import Settings
from infra.stack.progress import Report
from infra.stack.stop import stop_stack
from infra.stack.supervisor import Stack
from producers.publish import Publisher


@dataclass(frozen=True, slots=True)
class Ground:
    """What a benchmark runs on. `stack` is None when others run it: its parts are not ours to stop then."""

    stack: Stack | None
    settings: Settings
    stores: Stores
    publisher: Publisher
    watcher: Watcher


@contextmanager
def own_ground(folder: Path, workers: int, watcher: Watcher, report: Report) -> Iterator[Ground]:
    """A stack of its own that is gone afterwards, also when it is interrupted."""
    try:
        with (
            fresh_stack(folder, workers, watcher, report) as stack,
            stores(stack.settings()) as opened,
            Publisher(opened) as publisher,
        ):
            yield Ground(stack, stack.settings(), opened, publisher, watcher)
    except KeyboardInterrupt:
        shutil.rmtree(folder, ignore_errors=True)
        raise


@contextmanager
def running_ground(settings: Settings, watcher: Watcher, *, beside_other_data: bool) -> Iterator[Ground]:
    """The stack that the settings name. Raises `Conflict` when it holds data, unless that is allowed."""
    with stores(settings) as opened:
        refuse_other_data(opened.engine, allowed=beside_other_data)
        with Publisher(opened) as publisher:
            yield Ground(None, settings, opened, publisher, watcher)


@contextmanager
def fresh_stack(folder: Path, workers: int, watcher: Watcher, report: Report) -> Iterator[Stack]:
    """A started stack in an empty `folder`, stopped whatever happens. The folder stays when something failed: its logs
    say why."""
    stop_stack(folder, silent=True)  # what a killed run left
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    stack = Stack(folder, workers=workers)
    watcher.step("starting the stack")
    stack.start(report)
    try:
        yield stack
    finally:
        watcher.step("stopping everything")
        stack.stop(report)
    shutil.rmtree(folder, ignore_errors=True)


def warm_audience(ground: Ground, shape: Shape, rng: np.random.Generator) -> Audience:
    """Users with full home timelines. The nodes' memory limit is raised only on a stack of our own."""
    ground.watcher.step(f"writing {shape.timelines:,} users, their follows and the history into the database")
    audience = fill(ground.stores.engine, shape, rng)
    if ground.stack is not None:
        give_memory(ground.stores, shape)
    ground.watcher.step(f"{shape.timelines:,} users read their home timelines for the first time")
    warm(ground.stores, range(audience.first, audience.first + shape.timelines), ground.watcher.counted)
    return audience


def stop_once_on_signals() -> None:
    """Ctrl-C and SIGTERM stop everything that was started; a second one does not interrupt the stopping."""

    def interrupt(_: int, __: FrameType | None) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
