"""Child processes: started in a session of their own, known by (pid, create time), ended with a bounded wait."""

import os
import signal
import subprocess
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from infra.stack.part import User

POLL_S = 0.05
KILLED_WITHIN_S = 10.0  # after SIGKILL the system only has to take the memory back
SAME_PROCESS_S = 1.5  # a create time can shift with the clock's correction; a pid is not reused that soon

LOG_TAIL_LINES = 20
LOG_TAIL_BYTES = 16 << 10
LOG_BYTES_MAX = 32 << 20  # of one log
OLD_LOGS = 3  # of each part: when it ended several times, the first reason is often the one to know

MemoryKind = Literal["rss", "pss", "uss"]


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A process, told from a later one with the same pid by when it was made (seconds since 1970)."""

    pid: int
    created_s: float


def identify(pid: int) -> ProcessId | None:
    """The process that has this pid now; None when there is none."""
    try:
        return ProcessId(pid, psutil.Process(pid).create_time())
    except psutil.NoSuchProcess:
        return None


def myself() -> ProcessId:
    """This process."""
    me = identify(os.getpid())
    assert me is not None
    return me


def same_process(known: ProcessId, found: ProcessId | None) -> bool:
    """Whether the process found under a pid is the one we knew."""
    return found is not None and found.pid == known.pid and abs(found.created_s - known.created_s) < SAME_PROCESS_S


def is_alive(known: ProcessId) -> bool:
    """Whether that very process still runs. One that ended and nobody has collected does not."""
    if not same_process(known, identify(known.pid)):
        return False
    try:
        return bool(psutil.Process(known.pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def spawn(
    command: tuple[str, ...], log: Path, folder: Path, environ: Mapping[str, str], user: User | None = None
) -> subprocess.Popen[bytes]:
    """Starts a child whose output goes to `log`. Its own session keeps a terminal's Ctrl-C from it.

    It gets our environment (passed on, not read) with `environ` over it.
    """
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={**os.environ, **environ},
            start_new_session=True,
            user=None if user is None else user.uid,
            group=None if user is None else user.gid,
            extra_groups=None if user is None else [],
        )


def end(known: ProcessId, stop_signal: int, within_s: float) -> None:
    """Asks the process to stop, waits, and then kills it with everything in its group."""
    if is_alive(known):
        with suppress(ProcessLookupError):
            os.kill(known.pid, signal.SIGCONT)  # a frozen one could not stop
            os.kill(known.pid, stop_signal)
        _wait_gone(known, within_s)
    for member in group_members(known):
        with suppress(ProcessLookupError):
            os.kill(member.pid, signal.SIGKILL)
    _wait_gone(known, KILLED_WITHIN_S)


def group_members(known: ProcessId) -> list[ProcessId]:
    """What lives of the process group that this process leads or led: itself and its children.

    A process older than the leader is another's: the pid was used again.
    """
    members = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, ProcessLookupError, PermissionError):
            if os.getpgid(process.pid) != known.pid or process.status() == psutil.STATUS_ZOMBIE:
                continue
            found = ProcessId(process.pid, process.create_time())
            if found.created_s > known.created_s - SAME_PROCESS_S:
                members.append(found)
    return members


def _wait_gone(known: ProcessId, within_s: float) -> None:
    deadline_s = time.monotonic() + within_s
    while is_alive(known) and time.monotonic() < deadline_s:
        time.sleep(POLL_S)


def memory_bytes(known: ProcessId, *, children: bool = True) -> tuple[int, MemoryKind]:
    """Resident memory of the process (and its children), and how it was counted.

    Processes that share memory (PostgreSQL's) would count it again each: they are added up by their
    proportional share (pss), or by what is theirs alone (uss) where the system does not tell.
    """
    try:
        leader = psutil.Process(known.pid)
        tree = [leader, *(leader.children(recursive=True) if children else ())]
        if len(tree) == 1:
            return leader.memory_info().rss, "rss"
        infos = [process.memory_full_info() for process in tree]
    except psutil.Error:
        return 0, "rss"
    if hasattr(infos[0], "pss"):
        return sum(info.pss for info in infos), "pss"
    return sum(info.uss for info in infos), "uss"


def rotate_log(log: Path) -> None:
    """Puts the last run's log aside, so that a log holds one run; `OLD_LOGS` are kept, .1 is the last one."""
    log.parent.mkdir(parents=True, exist_ok=True)
    for number in range(OLD_LOGS, 0, -1):
        with suppress(FileNotFoundError):
            _old(log, number - 1).replace(_old(log, number))


def _old(log: Path, number: int) -> Path:
    return log.with_name(f"{log.name}.{number}") if number else log


def bound_log(log: Path, bytes_max: int = LOG_BYTES_MAX) -> None:
    """Empties a log that has grown too long, keeping a copy; its writer appends, so it goes on at the start."""
    with suppress(FileNotFoundError):
        if log.stat().st_size > bytes_max:
            _old(log, 1).write_bytes(log.read_bytes())
            os.truncate(log, 0)


def tail(log: Path, lines: int = LOG_TAIL_LINES) -> str:
    """The last lines of a log, indented; says so when there are none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - LOG_TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        text = ""
    last = [line for line in text.splitlines() if line.strip()][-lines:]
    return "\n".join("    " + line for line in last) or "    (its log is empty)"
