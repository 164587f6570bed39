"""All children of one stack: launched together, watched by a thread, ended in reverse order, recorded in stack.json."""

import threading
import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path

from infra.errors import InvalidInput, StackError
from infra.stack.child import Child
from infra.stack.part import Part
from infra.stack.processes import bound_log, myself
from infra.stack.progress import Progress, Report
from infra.stack.state import PartState, StackRecord, save_record

WATCH_EVERY_S = 0.2
LOGS_EVERY_S = 10.0


class Crew:
    """Owns the children. `guard` is held whenever a child that the watch also tends is changed."""

    def __init__(self, data_dir: Path, stop_requested: threading.Event, report: Report) -> None:
        self.guard = threading.RLock()
        self.ready = False
        self._data_dir = data_dir
        self._stop_requested = stop_requested
        self._report = report
        self._children: dict[str, Child] = {}
        self._closing = threading.Event()
        self._watch: threading.Thread | None = None

    def child(self, name: str) -> Child:
        """The part of that name; `InvalidInput` when there is none."""
        try:
            return self._children[name]
        except KeyError:
            raise InvalidInput(f"{name} is not a part of this stack: {', '.join(self._children)}") from None

    def has(self, name: str) -> bool:
        """Whether a part of that name runs or is about to."""
        return name in self._children and self._children[name].state is not PartState.STOPPED

    def launch(self, parts: Sequence[Part]) -> None:
        """Starts these parts side by side and returns when all serve; they are reported in the given order.

        When one fails, the others' starts are broken off and its error is raised; the caller ends them.
        """
        children = [Child(part, self._data_dir) for part in parts]
        with self.guard:
            self._children.update({child.part.name: child for child in children})
        broken_off = threading.Event()
        with ThreadPoolExecutor(len(children)) as pool:
            try:
                starts = [pool.submit(self._start, child, broken_off) for child in children]
                for child, start in zip(children, starts, strict=True):
                    self._report(Progress(child.part.name, "waiting", "starting"))
                    took_s = self._await(start, starts)
                    self._report(
                        Progress(child.part.name, "done", f"ready after {took_s:4.1f} s  {child.part.address}")
                    )
            except BaseException:
                broken_off.set()
                raise

    def begin_watch(self) -> None:
        """From now on parts that end are started again."""
        self._watch = threading.Thread(target=self._keep_watch, name="stack-watch", daemon=True)
        self._watch.start()

    def close(self, report: Report) -> None:
        """Ends the watch, then all parts, the last started first. Idempotent."""
        self._closing.set()
        if self._watch is not None:
            self._watch.join()
        for child in reversed(list(self._children.values())):
            if child.process is not None:
                report(Progress(child.part.name, "waiting", "stopping"))
                child.end()
                self.save()
                report(Progress(child.part.name, "done", "stopped"))

    def drop(self, name: str) -> None:
        """Ends a part that could not start and forgets it."""
        with self.guard:
            self._children.pop(name).end()
            self.save()

    def save(self) -> None:
        """Writes stack.json."""
        with self.guard:
            parts = tuple(child.record() for child in self._children.values())
            record = StackRecord(myself(), self.ready, parts)
            save_record(self._data_dir, record)

    def _start(self, child: Child, broken_off: threading.Event) -> float:
        started_s = time.monotonic()
        deadline_s = started_s + child.part.ready_within_s
        ready = False
        while not ready:
            child.begin()
            self.save()  # a supervisor killed from here on leaves a process that is on record
            ready = child.wait_ready(deadline_s, broken_off)
        self.save()
        return time.monotonic() - started_s

    def _await(self, start: Future[float], all_starts: Sequence[Future[float]]) -> float:
        """This start's seconds; raises as soon as any of them failed or the stack was asked to stop."""
        while not start.done():
            wait([s for s in all_starts if not s.done()], timeout=WATCH_EVERY_S, return_when=FIRST_COMPLETED)
            for other in all_starts:
                if other.done():
                    other.result()
            if self._stop_requested.is_set():
                raise StackError("stopped before everything was ready")
        return start.result()

    def _keep_watch(self) -> None:
        looked_at_logs_s = time.monotonic()
        while not self._closing.wait(WATCH_EVERY_S):
            try:
                now_s = time.monotonic()
                self._tend_all(now_s)
                if now_s - looked_at_logs_s > LOGS_EVERY_S:
                    looked_at_logs_s = now_s
                    for log in (self._data_dir / "logs").glob("*.log"):
                        bound_log(log)
            except Exception as error:  # noqa: BLE001 – without its watch the stack must not go on as if all were well
                self._report(Progress("watch", "done", f"failed, so the stack stops: {error!r}"))
                self._stop_requested.set()
                return

    def _tend_all(self, now_s: float) -> None:
        for child in list(self._children.values()):
            with self.guard:
                before = (child.state, child.id)
                told = child.tend(now_s)
                if (child.state, child.id) != before:
                    self.save()
            if told:
                self._report(Progress(child.part.name, "done", told))
