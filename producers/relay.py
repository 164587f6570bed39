"""Relay: committed outbox rows to the activity log, per author in commit order, at least once (G2).

One relay is active a shard: it holds an advisory lock whose session it pings, and its transactional id fences a thawed
old one out of Kafka. It sends rows in id order and deletes them after the commit. Next: streams/fan_out.py.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

import psycopg
import sqlalchemy as sa
import structlog

from infra import metrics, outbox
from infra.cloud_events import constant_headers, headers_of
from infra.database import NETWORK, reading, transaction
from infra.errors import DatabaseUnavailable, DependencyError, Superseded
from infra.health import Health, State
from infra.kafka import CALL_TIMEOUT_S, Message, TransactionalProducer

BATCH_ROWS_MAX = 2_000  # 2,000 events of 500 bytes, headers included: 1 MB in one transaction
SLOW_POLL_S = 1.0  # the fallback when a wake-up was lost
PING_S = 1.0
IDLE_SESSION_TIMEOUT_MS = 3_000  # a frozen relay loses the lock by then
RETRY_S = 0.5
# One round of a healthy relay: opening its producer, a transaction that times out and its abort, and the database.
ROUND_S = 3 * CALL_TIMEOUT_S + 15.0
BUSY_STEPS_MIN = 3  # full looks in a row before publishers are spared the wake-up
RELAY_LOCK_CLASS = 0x0FA0  # first key of the two-key advisory lock; the second is the shard

log = structlog.get_logger()

_CONSTANT = constant_headers(outbox.SHARD)
_UNSENT = sa.text(
    "SELECT id, aggregatetype, aggregateid, type, payload, created_at, traceparent FROM outbox ORDER BY id LIMIT :limit"
)
_REMOVE = sa.text("DELETE FROM outbox WHERE id = ANY (CAST(:ids AS bigint[]))")
_SLEEP = sa.text("UPDATE relays SET sleeping = :sleeping WHERE shard = :shard AND sleeping <> :sleeping")


@dataclass(frozen=True, slots=True)
class Row:
    """One unsent event."""

    id: int
    topic: str
    key: str
    type: str
    payload: str
    created_at: datetime
    traceparent: str | None


def as_message(row: Row) -> Message:
    """The Kafka message of an outbox row: the author is the key."""
    author = row.key.encode()
    headers = [*_CONSTANT, *headers_of(row.id, row.type, author, row.created_at, row.traceparent)]
    return Message(row.topic, row.payload.encode(), author, headers=headers)


class Ownership:
    """The right to relay one shard: an advisory lock on a session of its own, pinged every second.

    The session ends on its own when this process freezes (`idle_session_timeout`) or dies.
    """

    def __init__(self, url: str) -> None:
        self._url = url.replace("postgresql+psycopg://", "postgresql://")
        self._session: psycopg.Connection | None = None
        self.lost = threading.Event()

    def try_take(self) -> bool:
        """True when the lock is ours now."""
        try:
            session = psycopg.connect(self._url, autocommit=True, **NETWORK)
            session.execute(f"SET idle_session_timeout = {IDLE_SESSION_TIMEOUT_MS}")
            row = session.execute("SELECT pg_try_advisory_lock(%s, %s)", (RELAY_LOCK_CLASS, outbox.SHARD)).fetchone()
        except psycopg.Error as error:
            raise DatabaseUnavailable(f"the relay's lock cannot be asked for: {error}") from error
        if not row or not row[0]:
            session.close()
            return False
        session.execute(f"LISTEN {outbox.CHANNEL}")
        self._session = session
        self.lost.clear()
        return True

    def wait(self, timeout_s: float) -> None:
        """Returns when somebody published or after `timeout_s`; sets `lost` when the session is gone."""
        assert self._session is not None
        try:
            for _ in self._session.notifies(timeout=timeout_s, stop_after=1):
                pass
            self.ping()
        except psycopg.Error:
            self.lost.set()

    def ping(self) -> None:
        """Shows the server that this process is alive; sets `lost` when the session is gone."""
        assert self._session is not None
        try:
            self._session.execute("SELECT 1")
        except psycopg.Error:
            self.lost.set()

    def give_back(self) -> None:
        """Ends the session, and the lock with it."""
        if self._session is not None:
            self._session.close()
            self._session = None


class Relay:
    """Relays one shard until it is told to stop."""

    def __init__(self, engine: sa.Engine, database_url: str, bootstrap: str) -> None:
        self._engine = engine
        self._bootstrap = bootstrap
        self._ownership = Ownership(database_url)
        self._sleeping = False
        self._beat: Callable[[], None] = lambda: None

    def run(self, stop: threading.Event, health: Health) -> None:
        """Waits for ownership, relays while it lasts, and starts again."""
        self._beat = health.loop("the relay", ROUND_S)
        while not stop.is_set():
            self._beat()
            try:
                if self._ownership.try_take():
                    log.info("relay owns the outbox", shard=outbox.SHARD)
                    self._relay_while_owned(stop, health)
                else:
                    health.enter(State.STANDBY)
            except (DependencyError, Superseded) as error:
                log.warning("relay waits", error=str(error))
                health.enter(State.WAITING, f"the relay waits: {type(error).__name__}")
            finally:
                self._ownership.give_back()
            stop.wait(RETRY_S)

    def _relay_while_owned(self, stop: threading.Event, health: Health) -> None:
        producer = TransactionalProducer(self._bootstrap, f"fanfold-relay-{outbox.SHARD}")
        try:
            self._say_sleeping(sleeping=False)
            health.enter(State.SERVING)
            self._keep_sending(producer, stop)
        finally:
            producer.close()

    def _keep_sending(self, producer: TransactionalProducer, stop: threading.Event) -> None:
        pinged_s, busy_steps = time.monotonic(), 0
        while not stop.is_set() and not self._ownership.lost.is_set():
            self._beat()
            busy_steps = busy_steps + 1 if self.step(producer) else 0
            if busy_steps == 0:
                self._sleep()
                pinged_s = time.monotonic()
            elif busy_steps >= BUSY_STEPS_MIN and self._sleeping:
                self._say_sleeping(sleeping=False)
            if time.monotonic() - pinged_s > PING_S:
                self._ownership.ping()
                pinged_s = time.monotonic()

    def step(self, producer: TransactionalProducer) -> int:
        """Sends and removes one batch; the number of events sent.

        A crash before the commit sends nothing that counts; one between commit and removal sends the batch again, in
        the same order. Idempotent downstream: every event names its tweet or pair.
        """
        with reading(self._engine) as connection:
            rows = [Row(*row) for row in connection.execute(_UNSENT, {"limit": BATCH_ROWS_MAX})]
        if rows:
            producer.send(map(as_message, rows))
            self._remove([row.id for row in rows])
            metrics.RELAY_BATCH_EVENTS.observe(len(rows))
            metrics.RELAYED.inc(len(rows))
        return len(rows)

    def _remove(self, ids: Sequence[int]) -> None:
        with transaction(self._engine) as connection:
            connection.execute(_REMOVE, {"ids": list(ids)})

    def _sleep(self) -> None:
        """Says that it sleeps, looks once more, and only then waits: no commit falls between."""
        if not self._sleeping:
            self._say_sleeping(sleeping=True)
            if outbox.unsent(self._engine) > 0:
                return
        self._ownership.wait(SLOW_POLL_S)

    def _say_sleeping(self, *, sleeping: bool) -> None:
        """A crash that loses this costs a slow poll or a needless wake-up, so it need not reach the disk."""
        with transaction(self._engine) as connection:
            connection.execute(sa.text("SET LOCAL synchronous_commit = off"))
            connection.execute(_SLEEP, {"sleeping": sleeping, "shard": outbox.SHARD})
        self._sleeping = sleeping
