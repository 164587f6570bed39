"""Gathering: calls of many callers become few batches, without making a lone one wait.

A call starts at once while a thread is free; what arrives while all are busy forms the next batch. So the size of the
batches follows the load by itself. Nothing bounds how many calls wait: whoever accepts them does (http_frame.py).
"""

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from infra.errors import Closed

I = TypeVar("I")  # noqa: E741 - an item
R = TypeVar("R")


class Gathering(Generic[I, R]):
    """`work` gets 1 to `batch_max` items in the order of their submission, on at most `at_once` threads, and returns
    one result an item, in the same order. An exception among the results is its item's alone; one that `work` raises
    is every item's. Safe to share between threads; close it once."""

    def __init__(
        self, work: Callable[[Sequence[I]], Sequence[R | Exception]], batch_max: int, at_once: int, name: str = "batch"
    ) -> None:
        assert batch_max >= 1
        assert at_once >= 1
        self._work = work
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
                self._free -= 1
                self._threads.submit(self._drain)
        return future

    def close(self) -> None:
        """Takes no more, works off what was taken, ends the threads."""
        with self._lock:
            self._closed = True  # whoever was before this has his thread already
        self._threads.shutdown(wait=True)

    def _drain(self) -> None:
        while batch := self._next_batch():
            items = [item for item, _ in batch]
            for (_, future), outcome in zip(batch, self._outcomes(items), strict=True):
                if isinstance(outcome, Exception):
                    future.set_exception(outcome)
                else:
                    future.set_result(outcome)

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
