"""One part and its process: started, waited for, watched and ended. The supervisor owns one of these per part."""

import os
import signal
import subprocess
import threading
import time
from collections import deque
from pathlib import Path

from infra.errors import StackError
from infra.readiness import EXIT_NOT_AGAIN, EXIT_UNFINISHED
from infra.stack.part import Part
from infra.stack.processes import ProcessId, end, identify, rotate_log, spawn, tail
from infra.stack.restarts import ENDS_MAX, wait_before_restart_s
from infra.stack.state import PartRecord, PartState

PROBE_EVERY_S = 0.05


class Child:
    """A part's process and the state that it is in. Not safe for two threads at once: the supervisor sees to that."""

    def __init__(self, part: Part, data_dir: Path) -> None:
        self.part = part
        self.log = data_dir / "logs" / f"{part.name}.log"
        self.state = PartState.STARTING
        self.process: subprocess.Popen[bytes] | None = None
        self.id: ProcessId | None = None
        self.restarts = 0
        self.unfinished = 0  # processes of this start that asked for another one
        self.wanted = True  # whether it is started again when it ends
        self.due_s = 0.0  # restarting: when its next process starts; then, by when that must serve
        self._data_dir = data_dir
        self._ended_at_s: deque[float] = deque(maxlen=ENDS_MAX + 1)

    def begin(self) -> None:
        """Prepares the part and starts its process; it does not serve yet. All tries of one start share a log."""
        try:
            self.part.prepare()
            if not self.unfinished:
                rotate_log(self.log)
            folder = self.part.folder or self._data_dir
            self.process = spawn(self.part.command, self.log, folder, self.part.environ, self.part.user)
        except (OSError, subprocess.SubprocessError) as error:
            raise StackError(f"{self.part.name} cannot be started: {error}") from error
        self.id = identify(self.process.pid)

    def wait_ready(self, deadline_s: float, interrupted: threading.Event) -> bool:
        """True when the part serves, False when its process has ended and asks for another one; `StackError` with the
        end of its log if it ends otherwise, or takes too long."""
        while not self.serves():
            code = self.exit_code()
            if code not in (None, EXIT_UNFINISHED):
                raise StackError(f"{self.part.name} {ending(code)} while it started. {self._log_end()}")
            self.unfinished += code == EXIT_UNFINISHED
            if time.monotonic() > deadline_s:
                raise StackError(f"{self.part.name} was not ready within {self._tries()}. {self._log_end()}")
            if code == EXIT_UNFINISHED:
                return False
            if interrupted.wait(PROBE_EVERY_S):
                raise StackError(f"stopped while {self.part.name} was starting")
        self.part.complete()
        self.state = PartState.RUNNING
        self.unfinished = 0
        return True

    def serves(self) -> bool:
        """Whether the part's own condition holds now."""
        return self.process is not None and self.exit_code() is None and self.part.probe(self.process.pid)

    def exit_code(self) -> int | None:
        """How the process ended; None while it runs or when there is none."""
        return None if self.process is None else self.process.poll()

    def end(self) -> None:
        """Ends the process and all that it started. Idempotent."""
        if self.id is not None:
            end(self.id, self.part.stop_signal, self.part.stop_within_s)
        if self.process is not None:
            self.process.wait()
        self.process = self.id = None
        self.state = PartState.STOPPED

    def tend(self, now_s: float) -> str | None:
        """One look at a part that should run: restarts it as the policy says. Returns what a person should know."""
        if self.state is PartState.RUNNING and (code := self.exit_code()) is not None:
            return self._lost(ending(code), now_s, code)
        if self.state is not PartState.RESTARTING:
            return None
        if self.process is None:
            return self._begin_again(now_s) if now_s >= self.due_s else None
        if (code := self.exit_code()) is not None:
            if code == EXIT_UNFINISHED and now_s < self.due_s:
                return self._try_again(now_s)
            return self._lost(f"{ending(code)} while it started", now_s, code)
        if self.serves():
            self.part.complete()
            self.state = PartState.RUNNING
            self.unfinished = 0
            return f"runs again (pid {self.process.pid})"
        if now_s >= self.due_s:
            return self._lost(f"was not ready within {self._tries()}", now_s)
        return None

    def record(self) -> PartRecord:
        """The part as stack.json has it."""
        return PartRecord(
            name=self.part.name,
            kind=self.part.kind,
            address=self.part.address,
            state=self.state,
            process=self.id,
            stop_signal=int(self.part.stop_signal),
            stop_within_s=self.part.stop_within_s,
            restarts=self.restarts,
        )

    def _begin_again(self, now_s: float) -> str | None:
        try:
            self.begin()
        except StackError as error:
            return self._lost(str(error), now_s)
        self.restarts += 1
        self.due_s = now_s + self.part.ready_within_s
        return None

    def _try_again(self, now_s: float) -> str | None:
        """It asked for another start while it started: it gets that within the same time."""
        self.unfinished += 1
        self.end()
        self.state = PartState.RESTARTING
        try:
            self.begin()
        except StackError as error:
            return self._lost(str(error), now_s)
        return None

    def _lost(self, how: str, now_s: float, code: int | None = None) -> str:
        log_end = self._log_end()
        self.end()
        self.unfinished = 0
        self._ended_at_s.append(now_s)
        wait_s = wait_before_restart_s(self._ended_at_s, now_s)
        if not self.wanted:
            return how
        if code == EXIT_NOT_AGAIN:
            self.state = PartState.FAILED
            return f"{how}, which says that another start would not help: not started again. {log_end}"
        if wait_s is None:
            self.state = PartState.FAILED
            return f"{how}, more than {ENDS_MAX} times within a minute: not started again. {log_end}"
        self.state = PartState.RESTARTING
        self.due_s = now_s + wait_s
        return f"{how}; it is started again in {wait_s:g} s (its log: {self.log})"

    def _tries(self) -> str:
        within = f"{self.part.ready_within_s:.0f} s"
        return f"{within}, and {ending(EXIT_UNFINISHED)} {self.unfinished} times" if self.unfinished else within

    def _log_end(self) -> str:
        return f"The end of {self.log}:\n{tail(self.log)}"

    def signal(self, number: signal.Signals) -> int:
        """Sends a signal to the process itself; returns its pid."""
        if self.process is None or self.exit_code() is not None:
            raise StackError(f"{self.part.name} does not run")
        os.kill(self.process.pid, number)
        return self.process.pid


def ending(code: int) -> str:
    """An exit code in words."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
