"""The embedded stack that a demo or a benchmark runs on: from an empty folder, and gone afterwards."""

import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from benchmarks.demo_report import Watcher
from infra.stack.progress import Report
from infra.stack.stop import stop_stack
from infra.stack.supervisor import Stack


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


def remove(folder: Path) -> None:
    """Removes what a run left."""
    shutil.rmtree(folder, ignore_errors=True)


def stop_once_on_signals() -> None:
    """Ctrl-C and SIGTERM stop everything that was started; a second one does not interrupt the stopping."""

    def interrupt(_: int, __: FrameType | None) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
