"""An advisory lock of PostgreSQL on a session of its own: of several processes one holds it, until its session ends.

The session ends by itself when its process dies or is silent for too long, as a frozen one is.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import IntEnum, unique
from typing import LiteralString

import psycopg
import sqlalchemy as sa

from infra.database import NETWORK, reading
from infra.errors import DatabaseUnavailable
from infra.holder import this_process

IDLE_SESSION_TIMEOUT_MS = 3_000  # a frozen process loses the lock by then; a healthy one shows itself every second


@unique
class LockClass(IntEnum):
    """The first number of all locks with two; the second is a shard or a hash. Locks with one number are users'."""

    RELAY = 0x0FA0  # a shard of the outbox
    KEYS = 0x0FA1  # an idempotency key of nobody
    COUNTERS = 0x0FA2  # a shard of folding
    ERASING = 0x0FA3  # a user who is erased, by the low bits of his id


class AdvisoryLock:
    """One lock. Each statement on its session is a transaction of its own: a frozen one would lock out the next owner.
    The session's name says who holds the lock, since when, and what `about`.
    Raises `DatabaseUnavailable` when the session is gone. Not safe for several threads."""

    def __init__(
        self,
        url: str,
        lock_class: LockClass,
        number: int,
        options: str = "",
        silent_ms: int = IDLE_SESSION_TIMEOUT_MS,
        about: str = "",
    ) -> None:
        self._url = url.replace("postgresql+psycopg://", "postgresql://")
        self._key = lock_class.value, number
        self._options = f"-c idle_session_timeout={silent_ms} {options}"
        self._about = about
        self._session: psycopg.Connection | None = None

    def try_take(self) -> bool:
        """True when the lock is ours now; else the session stays open for the next try."""
        with _session_errors():
            if self._session is None:
                self._session = psycopg.connect(self._url, autocommit=True, options=self._options, **NETWORK)
        row = self.execute("SELECT pg_try_advisory_lock(%s, %s)", self._key).fetchone()
        taken = row is not None and bool(row[0])
        if taken:
            self.execute("SELECT set_config('application_name', %s, false)", (this_process(self._about).brief(),))
        return taken

    def execute(self, statement: LiteralString, values: Sequence[object] | Mapping[str, object] = ()) -> psycopg.Cursor:
        """A statement on the lock's session: whoever lost the lock executes nothing any more."""
        assert self._session is not None
        with _session_errors():
            return self._session.execute(statement, values)

    def wait_notified(self, timeout_s: float) -> None:
        """Returns when somebody notified a channel that the session listens to, or after `timeout_s`."""
        assert self._session is not None
        with _session_errors():
            for _ in self._session.notifies(timeout=timeout_s, stop_after=1):
                pass

    def show_alive(self) -> None:
        """Keeps the session, and tells whether it is there still."""
        self.execute("SELECT")

    def give_back(self) -> None:
        """Ends the session, and the lock with it."""
        if self._session is not None:
            self._session.close()
            self._session = None


def is_held(engine: sa.Engine, lock_class: LockClass, number: int) -> bool:
    """Whether somebody has the lock now."""
    with reading(engine) as connection:
        return bool(connection.execute(_HELD, {"class": lock_class.value, "number": number}).scalar_one())


_HELD = sa.text(
    """
    SELECT EXISTS (
        SELECT FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database
        WHERE locktype = 'advisory' AND granted AND datname = current_database()
          AND classid = CAST(:class AS oid) AND objid = CAST(:number AS oid) AND objsubid = 2
    )
    """
)


@contextmanager
def _session_errors() -> Iterator[None]:
    try:
        yield
    except (psycopg.OperationalError, psycopg.InterfaceError) as error:
        raise DatabaseUnavailable(f"the session of a lock at PostgreSQL: {str(error).splitlines()[0]}") from error
