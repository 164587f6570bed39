"""What must be made in the servers before the roles start: tables and topics, by Fanfold's own commands."""

import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from infra.errors import StackError
from infra.stack.child import PROBE_EVERY_S
from infra.stack.processes import end, identify, rotate_log, spawn, tail
from infra.stack.progress import Progress, Report
from infra.stack.roles import fanfold_command

PREPARATIONS: Sequence[tuple[str, ...]] = (("db", "upgrade"), ("topics", "create"))
PREPARED_WITHIN_S = 120.0  # a migration of a large table; the first one takes two seconds


def run_preparations(data_dir: Path, report: Report, interrupted: threading.Event) -> None:
    """Runs the commands side by side (one is PostgreSQL's, one Kafka's). Each is idempotent."""
    started_s = time.monotonic()
    running = [(words, *_begin(data_dir, words)) for words in PREPARATIONS]
    try:
        for words, process, log in running:
            report(Progress(words[0], "waiting", " ".join(words)))
            _wait(" ".join(words), process, log, started_s, interrupted)
            report(Progress(words[0], "done", f"{' '.join(words)}: done after {time.monotonic() - started_s:.1f} s"))
    finally:
        for _, process, _ in running:
            if process.poll() is None and (known := identify(process.pid)):
                end(known, 15, within_s=5)
            process.wait()


def _begin(data_dir: Path, words: tuple[str, ...]) -> tuple[subprocess.Popen[bytes], Path]:
    log = data_dir / "logs" / f"{'-'.join(words)}.log"
    rotate_log(log)
    return spawn(fanfold_command(data_dir, *words), log, data_dir, {}), log


def _wait(
    name: str, process: subprocess.Popen[bytes], log: Path, started_s: float, interrupted: threading.Event
) -> None:
    while (code := process.poll()) is None:
        if time.monotonic() - started_s > PREPARED_WITHIN_S:
            raise StackError(f"`fanfold {name}` took longer than {PREPARED_WITHIN_S:.0f} s:\n{tail(log)}")
        if interrupted.wait(PROBE_EVERY_S):
            raise StackError(f"stopped during `fanfold {name}`")
    if code != 0:
        raise StackError(f"`fanfold {name}` failed with exit code {code}:\n{tail(log)}")
