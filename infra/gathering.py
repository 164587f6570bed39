"""Gathering: calls of many callers become few batches, without making a lone one wait.

A call starts at once while a thread is free; what arrives while all are busy forms the next batch. So the size of the
batches follows the load by itself. Nothing bounds how many calls wait: whoever accepts them does (http_frame.py).
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

import structlog

from infra.errors import Closed

I = TypeVar("I")  # noqa: E741 - an item
R = TypeVar("R")

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Ended(Generic[R]):
    """A batch that was worked on, and what its callers wait for."""

    futures: "Sequence[Future[R]]"
    outcomes: Sequence[R | Exception]

    def tell(self) -> None:
        """Tells each caller his own."""
        for future, outcome in zip(self.futures, self.outcomes, strict=True):
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)


class Gathering(Generic[I, R]):
    """`work` gets 1 to `batch_max` items in the order of their submission, on at most `at_once` threads, and returns
    one result an item, in the same order. An exception among the results is its item's alone; one that `work` raises
    is every item's. `after`, if there is one, gets the results of one or several batches before their callers do; the
    next batches do not wait for it, and what it raises changes no result. Safe to share between threads; close it
    once."""

    def __init__(
        self,
        work: Callable[[Sequence[I]], Sequence[R | Exception]],
        batch_max: int,
        at_once: int,
        name: str = "batch",
        after: Callable[[Sequence[R | Exception]], None] | None = None,
    ) -> None:
        assert batch_max >= 1
        assert at_once >= 1
        self._work = work
        self._name = name
        self._after = after
        self._ends: Gathering[Ended[R], None] | None = (
            Gathering(self._end, batch_max, at_once, f"{name}-after") if after else None
        )
        self._batch_max = batch_max
        self._free = at_once
        self._closed = False
        self._waiting: deque[tuple[I, Future[R]]] = deque()
        self._lock = threading.Lock()
        self._threads = ThreadPoolExecutor(at_once, thread_name_prefix=name)

    def submit(self, item: I) -> "Future[R]":
        """The future result for one item. In a coroutine: `await asyncio.wrap_future(...)`; its end takes an item that
        still waits out again. Raises `Closed` after `close`."""
        future: Future[R] = Future()
        with self._lock:
            if self._closed:
                raise Closed("it is closed: nothing new is taken; open another one")
            self._waiting.append((item, future))
            if self._free:
                try:
                    self._threads.submit(self._drain)
                except RuntimeError:  # no thread can be started, or the interpreter ends
                    self._waiting.pop()
                    raise
                self._free -= 1
        return future

    def close(self) -> None:
        """Takes no more, works off what was taken, ends the threads."""
        with self._lock:
            self._closed = True  # whoever was before this has his thread already
        self._threads.shutdown(wait=True)
        if self._ends is not None:
            self._ends.close()

    def _drain(self) -> None:
        while batch := self._next_batch():
            outcomes = self._outcomes([item for item, _ in batch])
            ended = Ended([future for _, future in batch], outcomes)
            if self._ends is None:
                ended.tell()
                continue
            try:
                self._ends.submit(ended)
            except RuntimeError:  # as above
                self._end([ended])

    def _end(self, all_ended: "Sequence[Ended[R]]") -> Sequence[None]:
        try:
            assert self._after is not None
            self._after([outcome for ended in all_ended for outcome in ended.outcomes])
        except Exception:
            log.exception("what follows a batch failed", batch=self._name)
        for ended in all_ended:
            ended.tell()
        return [None] * len(all_ended)

    def _next_batch(self) -> list[tuple[I, "Future[R]"]]:
        """The next calls, without those that nobody awaits any longer. Empty, and this thread is free, if none wait."""
        batch: list[tuple[I, Future[R]]] = []
        with self._lock:
            while self._waiting and len(batch) < self._batch_max:
                item, future = self._waiting.popleft()
                if future.set_running_or_notify_cancel():
                    batch.append((item, future))
            self._free += not batch
        return batch

    def _outcomes(self, items: Sequence[I]) -> Sequence[R | Exception]:
        try:
            outcomes = self._work(items)
        except Exception as error:  # noqa: BLE001 - each caller gets it and decides
            return [error] * len(items)
        if len(outcomes) == len(items):
            return outcomes
        wrong = RuntimeError(f"{len(items)} items were worked on, but there are {len(outcomes)} results")
        return [wrong] * len(items)
