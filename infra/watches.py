"""Watched znodes of one session: each is read at once when it changes, and every one or two seconds in any case.

A watch alone would not do. kazoo's own stands still for good when one of its questions is lost while the session is
renewed, and takes a znode that was written anew after a loss of ZooKeeper's data for the old one when their transaction
numbers agree.
"""

import threading
import time
from collections.abc import Callable

import structlog

from infra.errors import FanfoldError

PERIOD_S = 1.5  # at worst a look is twice as old: well within the 5 s that live settings may take

log = structlog.get_logger()

Told = Callable[..., None]


class _Watch:
    """One watched path. `tell` is one object for as long as the watch lives: kazoo keeps each only once."""

    def __init__(self, path: str, changed: Callable[[bytes | None], None], due: threading.Event) -> None:
        self.path = path
        self.changed = changed
        self.seen: tuple[bytes | None] | None = None  # what was told last, if anything was
        self.looked_s = 0.0
        self.is_due = True
        self._due = due

    def tell(self, *_: object) -> None:
        """It may have changed. Never waits, so kazoo's threads may call it."""
        self.is_due = True
        self._due.set()


class Watches:
    """`read` gives the newest bytes of a path, None without a znode, and has what it is given called at the next
    change."""

    def __init__(self, read: Callable[[str, Told], bytes | None], period_s: float = PERIOD_S) -> None:
        self._read = read
        self._period_s = period_s
        self._watches: list[_Watch] = []
        self._due = threading.Event()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_looking, name="watches", daemon=True)
        self._lock = threading.Lock()

    def add(self, path: str, changed: Callable[[bytes | None], None]) -> None:
        """From now on `changed` is told the bytes, first those that are there now. It must not wait for anything."""
        with self._lock:
            self._watches.append(_Watch(path, changed, self._due))
            if not self._thread.is_alive() and not self._ended.is_set():
                self._thread.start()
        self._due.set()

    def look(self) -> None:
        """Every one may have changed. Never waits."""
        for watch in list(self._watches):
            watch.tell()

    def end(self) -> None:
        """No look begins from now on; one under way ends with the session."""
        self._ended.set()
        self._due.set()

    def _keep_looking(self) -> None:
        while not self._ended.is_set():
            self._due.clear()
            for watch in list(self._watches):
                if watch.is_due or time.monotonic() - watch.looked_s >= self._period_s:
                    self._look_at(watch)
            self._due.wait(self._period_s)

    def _look_at(self, watch: _Watch) -> None:
        watch.is_due, watch.looked_s = False, time.monotonic()
        try:
            data = self._read(watch.path, watch.tell)
        except FanfoldError as error:
            if not self._ended.is_set():
                log.debug("watched value not read", path=watch.path, error=str(error))
            return
        if self._ended.is_set() or watch.seen == (data,):
            return
        watch.seen = (data,)
        try:
            watch.changed(data)
        except Exception:
            log.exception("a watcher failed", path=watch.path)
