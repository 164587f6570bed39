"""Where this worker's partitions go on, and how far they are worked off, written down for the next start.

Input: what the watch sees once a second. Output: rows of `worked_logs`. Next: infra/worked_logs.py, the guards.
"""

import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

import sqlalchemy as sa
import structlog

from infra.errors import DependencyError
from infra.kafka import Place
from infra.log_losses import Seen
from infra.worked_logs import Ground, note_worked, refuse_losses
from streams.watch import Worked

ASK_AGAIN_S = 5.0  # a new group has no offset for any of its partitions, and asks for all of them at once
NOTE_EVERY_S = 10.0  # after a crash so much may be known too little: of a log that is idle ever since, a marker

log = structlog.get_logger()


class Positions:
    """Safe to share between threads."""

    def __init__(self, engine: sa.Engine, bootstrap: str, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._engine = engine
        self._bootstrap = bootstrap
        self._clock_s = clock_s
        self._lock = threading.Lock()
        self._noted: dict[Place, int] = {}
        self._asked_s = clock_s()
        self._ground = refuse_losses(engine, bootstrap)

    def find_offset(self, topic: str, partition: int) -> int:
        """Where a partition goes on. Raises `ConfigurationError` when something is missing in any of them,
        `DependencyError`."""
        return self._looked().next_offsets[topic, partition]

    def note(self, worked: Mapping[Place, Worked]) -> None:
        """Writes down what changed. Raises `DatabaseUnavailable`."""
        changed = {
            place: Seen(
                self._ground.log_ids[place[0]], one.next_offset, datetime.fromtimestamp(one.until_ms / 1000, UTC)
            )
            for place, one in worked.items()
            if self._noted.get(place) != one.next_offset
        }
        note_worked(self._engine, changed)
        self._noted |= {place: seen.next_offset for place, seen in changed.items()}

    def keep_noting(self, read: Callable[[], Mapping[Place, Worked]]) -> None:
        """Notes for the life of the process, on a thread of its own."""

        def run() -> None:
            while True:
                time.sleep(NOTE_EVERY_S)
                try:
                    self.note(read())
                except DependencyError as error:
                    log.warning("what is worked off cannot be written down", error=str(error))

        threading.Thread(target=run, name="positions", daemon=True).start()

    def _looked(self) -> Ground:
        with self._lock:
            if self._clock_s() - self._asked_s > ASK_AGAIN_S:
                self._ground = refuse_losses(self._engine, self._bootstrap)
                self._asked_s = self._clock_s()
            return self._ground
