"""`fanfold down`: asks the supervisor to stop, or cleans up after one that cannot do so any more."""

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

from infra.cli import say
from infra.errors import InvalidInput, StackError
from infra.stack.cleaning import end_leftovers
from infra.stack.processes import POLL_S, is_alive
from infra.stack.progress import to_standard_error
from infra.stack.state import FolderLock, Holder, Mode, holder_of, is_held

STOPPED_WITHIN_S = 120.0  # every part in turn has its own, shorter bound


def stop_stack(data_dir: Path, *, silent: bool = False) -> None:
    """Returns when nothing of this folder's stack runs any more. Idempotent. `silent` says only what it ended."""
    data_dir = data_dir.resolve()
    held = is_held(data_dir)
    if held:
        _ask(data_dir, STOPPED_WITHIN_S)
    if not data_dir.is_dir():
        if data_dir.exists():
            raise InvalidInput(f"{data_dir} is a file and no data folder: name a folder with --data-dir")
        if not silent:
            say(f"nothing runs in {data_dir}")
        return
    lock = FolderLock(data_dir, Mode.COMMAND)  # so that no `up` starts while we clean
    try:
        ended = end_leftovers(data_dir, to_standard_error)
    finally:
        lock.release()
    if ended:
        say(f"cleaned up what a killed stack had left in {data_dir}")
    elif not silent:
        say("stopped" if held else f"nothing runs in {data_dir}")


def _ask(data_dir: Path, within_s: float) -> None:
    """Sends the holder its signal and waits until the folder is free; a holder that does not stop is killed."""
    holder = holder_of(data_dir)
    if holder is None or not is_alive(holder.process):
        raise StackError(f"{data_dir} is being taken or cleaned by another command: try again in a moment")
    say(f"stopping the stack in {data_dir} (pid {holder.process.pid})")
    _signal(holder, signal.SIGTERM if holder.mode is Mode.COMMAND else signal.SIGINT)
    if not _freed(data_dir, within_s):
        say(f"pid {holder.process.pid} did not stop within {within_s:.0f} s: it is killed")
        _signal(holder, signal.SIGKILL)
        if not _freed(data_dir, within_s=10):
            raise StackError(f"{data_dir} is still held by another process: `fanfold status` shows it")


def _signal(holder: Holder, number: signal.Signals) -> None:
    if is_alive(holder.process):
        with suppress(ProcessLookupError):
            os.kill(holder.process.pid, number)


def _freed(data_dir: Path, within_s: float) -> bool:
    deadline_s = time.monotonic() + within_s
    while is_held(data_dir):
        if time.monotonic() > deadline_s:
            return False
        time.sleep(POLL_S)
    return True
