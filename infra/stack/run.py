"""How `fanfold up` runs the supervisor: in the foreground until it is asked to stop, or in the background."""

import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import typer

from infra.cli import say
from infra.errors import StackError
from infra.stack.crew import WATCH_EVERY_S
from infra.stack.processes import end, identify, rotate_log, spawn
from infra.stack.progress import to_standard_error
from infra.stack.roles import fanfold_command
from infra.stack.state import Mode, holder_of, is_held, record_of_holder
from infra.stack.supervisor import Stack

UP_LOG = "up.log"  # what the supervisor itself says when it runs in the background
STOPPED_WITHIN_S = 120.0  # all parts in turn, each with its own bound
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True)
class Wish:
    """What `up` was asked for."""

    roles: Sequence[str]
    workers: int = 1
    prepare: bool = True
    wanted_ports: Mapping[str, int] = field(default_factory=dict)


def run_in_foreground(data_dir: Path, wish: Wish) -> None:
    """Starts the stack and returns when it was stopped by a signal."""
    stack = Stack(
        data_dir,
        wish.roles,
        prepare=wish.prepare,
        mode=Mode.COMMAND,
        wanted_ports=wish.wanted_ports,
        workers=wish.workers,
    )

    def stop(_number: int, _frame: FrameType | None) -> None:
        stack.stop_requested.set()

    for number in SIGNALS:
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # ignored under nohup
            signal.signal(number, stop)
    say(f"starting the stack in {stack.data_dir}")
    started_s = time.monotonic()
    stack.start(to_standard_error)
    try:
        say(f"all ready after {time.monotonic() - started_s:.1f} s; Ctrl-C or `fanfold down` stops it")
        while not stack.stop_requested.wait(1.0):
            pass
    finally:
        say("stopping")
        stack.stop(to_standard_error)
    say("stopped")


def run_in_background(data_dir: Path, words: Sequence[str]) -> None:
    """Starts `fanfold up` in a session of its own, shows what it says, and returns when all is ready.

    When it fails this ends with its exit code; when we are interrupted it is stopped.
    """
    data_dir = data_dir.resolve()
    if is_held(data_dir):
        raise StackError(
            f"a stack is running in {data_dir} already: `fanfold status` shows it, `fanfold down` stops it"
        )
    log = data_dir / "logs" / UP_LOG
    rotate_log(log)
    child = spawn(fanfold_command(data_dir, "up", *words), log, Path.cwd(), {})
    known = identify(child.pid)
    assert known is not None
    try:
        with log.open(encoding="utf-8", errors="replace") as lines:
            while child.poll() is None and not _is_ready(data_dir, child.pid):
                _show(lines.read())
                time.sleep(WATCH_EVERY_S)
            _show(lines.read())
    except BaseException:
        end(known, signal.SIGTERM, STOPPED_WITHIN_S)
        raise
    if (code := child.poll()) is not None:
        raise typer.Exit(code if code > 0 else StackError.exit_code)
    say("it goes on in the background: `fanfold status` shows it, `fanfold down` stops it")


def _is_ready(data_dir: Path, pid: int) -> bool:
    holder = holder_of(data_dir)
    if holder is None or holder.process.pid != pid:
        return False
    record = record_of_holder(data_dir)
    return record is not None and record.ready


def _show(text: str) -> None:
    if text:
        say(text.removesuffix("\n"))
