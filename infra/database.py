"""PostgreSQL: one engine a process, its errors as ours, and migrations.

Locks, in this order: key 0 shared for every publish and activation (exclusive for an import's batch), then authors
ascending. So an import has the table to itself for one batch, and no two transactions can deadlock.
"""

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, DisconnectionError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as NoConnectionFree
from sqlalchemy.pool import ConnectionPoolEntry

from infra.errors import AuthorBusy, DatabaseUnavailable

POOL_CONNECTIONS_MAX = 20  # of one process; the embedded server takes 200
# A server that silently went away is noticed within 10 s: by what was sent, or by keepalives when nothing was.
NETWORK: dict[str, Any] = {
    "connect_timeout": 5,
    "tcp_user_timeout": 10_000,
    "keepalives_idle": 4,
    "keepalives_interval": 2,
    "keepalives_count": 3,
}
PING_AFTER_S = 1.0  # of idling in the pool
_USED_S = "fanfold_used_s"
LOCK_TIMEOUT_MS = 5_000  # a frozen publisher must not block its author for longer
AUTHOR_LOCKS_MAX = 500  # of one transaction: PostgreSQL's lock table is small
IMPORT_LOCK = 0  # users have ids above 0, so no author's lock has this key


def make_engine(url: str) -> sa.Engine:
    """An engine with a bounded pool. Opens no connection yet."""
    if url.startswith("postgresql://"):
        url = "postgresql+psycopg://" + url.removeprefix("postgresql://")
    engine = sa.create_engine(
        url,
        pool_size=POOL_CONNECTIONS_MAX,
        max_overflow=0,
        connect_args={"application_name": "fanfold", **NETWORK},
    )
    sa.event.listen(engine, "checkin", _note_use)
    sa.event.listen(engine, "checkout", partial(_ping_if_idle, engine.dialect))
    return engine


def _note_use(_: object, record: ConnectionPoolEntry) -> None:
    record.info[_USED_S] = time.monotonic()


def _ping_if_idle(dialect: sa.Dialect, driver: Any, record: ConnectionPoolEntry, _: object) -> None:
    """So that a restart of the server is met with a new connection: one that is in constant use tells by itself, and
    a ping each time would double the round trips of small calls."""
    used_s = record.info.get(_USED_S)
    if used_s is not None and time.monotonic() - used_s > PING_AFTER_S:
        try:
            dialect.do_ping(driver)
        except psycopg.Error as error:
            raise DisconnectionError(str(error)) from error


@contextmanager
def transaction(engine: sa.Engine) -> Iterator[sa.Connection]:
    """One transaction. Raises `DatabaseUnavailable` when the server cannot be reached."""
    with _our_errors(engine), engine.begin() as connection:
        yield connection


@contextmanager
def reading(engine: sa.Engine) -> Iterator[sa.Connection]:
    """Statements that each see the newest committed state. Raises `DatabaseUnavailable`."""
    with _our_errors(engine), engine.connect() as connection:
        yield connection.execution_options(isolation_level="AUTOCOMMIT")


@contextmanager
def driver_cursor(connection: sa.Connection) -> Iterator[psycopg.Cursor]:
    """The driver's own cursor on this connection and in its transaction, for COPY. Raises `DatabaseUnavailable`."""
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    try:
        with driver.cursor() as cursor:
            yield cursor
    except (psycopg.OperationalError, psycopg.InterfaceError) as error:
        where = connection.engine.url.render_as_string(hide_password=True)
        raise DatabaseUnavailable(f"PostgreSQL at {where}: {str(error).splitlines()[0]}") from error


def lock_authors(connection: sa.Connection, authors: Iterable[int], others: Iterable[int] = ()) -> None:
    """Takes key 0 shared and the lock of each author, ascending, before any write; shared, those of `others`: users who
    must not be deleted before the commit.

    So an author's outbox ids are in commit order. At most `AUTHOR_LOCKS_MAX` users; larger batches are split.
    """
    alone = set(authors)
    distinct = sorted(alone.union(others))
    assert len(distinct) <= AUTHOR_LOCKS_MAX, "split the batch: PostgreSQL's lock table is small"
    limit_waits(connection)
    connection.execute(_LOCK, {"zero": IMPORT_LOCK, "users": distinct, "alone": [user in alone for user in distinct]})


def try_lock_authors(connection: sa.Connection, authors: Iterable[int]) -> set[int]:
    """The same without waiting for anybody but an import; returns the authors whose lock somebody else has."""
    distinct = sorted(set(authors))
    assert len(distinct) <= AUTHOR_LOCKS_MAX, "split the batch: PostgreSQL's lock table is small"
    limit_waits(connection)
    return set(connection.execute(_TRY_LOCK, {"zero": IMPORT_LOCK, "users": distinct}).scalars())


def limit_waits(connection: sa.Connection) -> None:
    """First in a transaction that takes locks: it waits for none longer than `LOCK_TIMEOUT_MS` (`AuthorBusy`), and is
    ended when its process is silent for so long."""
    connection.execute(_LIMITS)


_LIMITS = sa.text(
    f"SET LOCAL lock_timeout = {LOCK_TIMEOUT_MS}; SET LOCAL idle_in_transaction_session_timeout = {LOCK_TIMEOUT_MS}"
)
_LOCK = sa.text(
    """
    SELECT pg_advisory_xact_lock_shared(:zero),
           (SELECT count(CASE WHEN alone THEN CAST(pg_advisory_xact_lock(id) AS text)
                              ELSE CAST(pg_advisory_xact_lock_shared(id) AS text) END)
            FROM unnest(CAST(:users AS bigint[]), CAST(:alone AS boolean[])) AS one (id, alone))
    """
)
_TRY_LOCK = sa.text(
    """
    WITH zero AS MATERIALIZED (SELECT CAST(pg_advisory_xact_lock_shared(:zero) AS text) AS taken)
    SELECT id FROM zero, unnest(CAST(:users AS bigint[])) AS one (id)
    WHERE taken IS NOT NULL AND NOT pg_try_advisory_xact_lock(id)
    """
)


def lock_for_import(connection: sa.Connection) -> None:
    """Takes key 0 exclusively: no publish and no activation runs beside this transaction."""
    connection.execute(sa.text("SELECT pg_advisory_xact_lock(:zero)"), {"zero": IMPORT_LOCK})


def upgrade(url: str) -> None:
    """Runs all migrations; two at the same time are safe."""
    from alembic import command  # 11 MB that no other process of Fanfold needs
    from alembic.config import Config

    engine = make_engine(url)
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    try:
        with transaction(engine) as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
    finally:
        engine.dispose()


@contextmanager
def _our_errors(engine: sa.Engine) -> Iterator[None]:
    try:
        yield
    except (OperationalError, InterfaceError) as error:
        raise _unavailable(engine, error) from error
    except NoConnectionFree as error:
        raise DatabaseUnavailable(
            f"all {POOL_CONNECTIONS_MAX} connections to PostgreSQL are in use: {error}"
        ) from error
    except DBAPIError as error:
        if error.connection_invalidated:
            raise _unavailable(engine, error) from error
        raise


def _unavailable(engine: sa.Engine, error: DBAPIError) -> DatabaseUnavailable:
    if isinstance(error.orig, psycopg.errors.LockNotAvailable):
        return AuthorBusy(f"somebody has held what this needs for {LOCK_TIMEOUT_MS} ms, as a user's lock; try again")
    reason = str(error.orig).strip().splitlines()[0] if str(error.orig).strip() else type(error.orig).__name__
    return DatabaseUnavailable(f"PostgreSQL at {engine.url.render_as_string(hide_password=True)}: {reason}")
