"""Several callers that share out work, for the benchmarks' loops."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def locked(items: Iterator[T]) -> Iterator[T]:
    """An iterator that several threads may take from. None ends it."""
    lock = threading.Lock()

    def take() -> T | None:
        with lock:
            return next(items, None)

    return iter(take, None)


def share_out(callers: int, items: Iterator[T], call: Callable[[T], object]) -> None:
    """Several callers, each with the next item as soon as it is free. Raises what the first of them raised."""

    def run() -> None:
        for item in items:
            call(item)

    with ThreadPoolExecutor(callers) as threads:
        for done in [threads.submit(run) for _ in range(callers)]:
            done.result()


def sleep_until(at_s: float) -> None:
    """By `time.monotonic`; returns at once when that is over."""
    time.sleep(max(at_s - time.monotonic(), 0.0))
