"""An advisory lock of PostgreSQL on a session of its own: of several processes one holds it, until its session ends.

The session ends by itself when its process dies or is silent for too long, as a frozen one is.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from infra.database import NETWORK
from infra.errors import DatabaseUnavailable

IDLE_SESSION_TIMEOUT_MS = 3_000  # a frozen process loses the lock by then; a healthy one shows itself every second


class AdvisoryLock:
    """One lock, by the two numbers of its key. Raises `DatabaseUnavailable` when the session is gone. Not safe for
    several threads."""

    def __init__(self, url: str, key: tuple[int, int]) -> None:
        self._url = url.replace("postgresql+psycopg://", "postgresql://")
        self._key = key
        self._session: psycopg.Connection | None = None

    def try_take(self) -> bool:
        """True when the lock is ours now; else the session stays open for the next try."""
        with _session_errors():
            if self._session is None:
                options = f"-c idle_session_timeout={IDLE_SESSION_TIMEOUT_MS}"
                self._session = psycopg.connect(self._url, autocommit=True, options=options, **NETWORK)
            row = self._session.execute("SELECT pg_try_advisory_lock(%s, %s)", self._key).fetchone()
            return row is not None and bool(row[0])

    def show_alive(self) -> None:
        """Keeps the session, and tells whether it is there still."""
        assert self._session is not None
        with _session_errors():
            self._session.execute("SELECT")

    def give_back(self) -> None:
        """Ends the session, and the lock with it."""
        if self._session is not None:
            self._session.close()
            self._session = None


@contextmanager
def _session_errors() -> Iterator[None]:
    try:
        yield
    except (psycopg.OperationalError, psycopg.InterfaceError) as error:
        raise DatabaseUnavailable(f"the session of a lock at PostgreSQL: {str(error).splitlines()[0]}") from error
