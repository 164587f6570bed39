"""Coalescing: callers in one process who miss the same thing at the same time wait for the first of them.

They take nothing from him but the word that he is done, and look again: what they then show was read after they asked.
Between processes the rebuild token does the same. Next: consumers/timeline_source.py, tweet_bodies.py.
"""

import threading
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, wait
from typing import Generic, TypeVar

from infra import metrics

WAIT_S_MAX = 2.0  # a rebuild takes tens of milliseconds; who has waited for so long does without it

K = TypeVar("K", bound=Hashable)


class Coalescing(Generic[K]):
    """What is being filled in this process. Safe to share between threads."""

    def __init__(self) -> None:
        self._under_way: dict[tuple[str, K], Future[None]] = {}
        self._lock = threading.Lock()

    def fill(self, kind: str, keys: Sequence[K], work: Callable[[Sequence[K]], None]) -> Sequence[K]:
        """Runs `work` for the keys that nobody is filling, and waits until the others are filled; returns those. Both
        at the same time for all: nobody who works waits for others before he is done. `work` may raise; who waited for
        it looks again and tries it himself."""
        mine: dict[K, Future[None]] = {}
        others: dict[K, Future[None]] = {}
        with self._lock:
            for key in dict.fromkeys(keys):
                if (found := self._under_way.get((kind, key))) is not None:
                    others[key] = found
                else:
                    self._under_way[kind, key] = mine[key] = Future()
        try:
            if mine:
                work(list(mine))
        finally:
            with self._lock:
                for key, future in mine.items():
                    del self._under_way[kind, key]
                    future.set_result(None)
        if others:
            metrics.COALESCED.labels(kind).inc(len(others))
            await_all(list(others.values()), WAIT_S_MAX)
        return list(others)


def await_all(futures: Sequence[Future[None]], within_s: float) -> None:
    """Until all are done, or for so long."""
    wait(futures, within_s)
