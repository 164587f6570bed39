"""Relay: committed outbox rows to the activity log, per author in commit order, at least once (G2).

One relay is active a shard: it reads on a session that holds an advisory lock, and its transactional id fences a thawed
old one out of Kafka. It sends rows in id order and deletes them after the commit. Next: streams/fan_out.py.
"""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
import structlog

from infra import metrics, outbox
from infra.advisory_lock import AdvisoryLock, LockClass
from infra.cloud_events import SOURCE_ROOT, constant_headers, headers_of
from infra.database import reading
from infra.errors import DependencyError, Superseded
from infra.health import Health, State
from infra.kafka import CALL_TIMEOUT_S, Message, TransactionalProducer

BATCH_ROWS_MAX = 2_000  # 2,000 events of 500 bytes, headers included: 1 MB in one transaction
SLOW_POLL_S = 1.0  # the fallback when a wake-up was lost, and the longest that a relay is silent on its session
RETRY_S = 0.5
# One round of a healthy relay: opening its producer, a transaction that times out and its abort, and the database.
ROUND_S = 3 * CALL_TIMEOUT_S + 15.0
BUSY_STEPS_MIN = 3  # full looks in a row before publishers are spared the wake-up
# From then on transactions begin so far apart. What comes meanwhile shares one, a round of fan_out and the calls of its
# deliveries: each costs much beside what a tweet does. Decision 122 in ARCHITECTURE.md has what that brings.
PACE_S = 0.05
# A look steps over the index entries of rows that were removed since the last vacuum: 500,000 of them make it 2 ms
# longer, and autovacuum comes once a minute. A vacuum of 50,000 takes some 5 ms.
VACUUM_AFTER_ROWS = 50_000

log = structlog.get_logger()

_CONSTANT = constant_headers(f"{SOURCE_ROOT}{outbox.SHARD}")
_UNSENT = (
    "SELECT id, aggregatetype, aggregateid, type, payload, created_at, traceparent FROM outbox ORDER BY id LIMIT %s"
)
_SLEEP = "UPDATE relays SET sleeping = %(sleeping)s WHERE shard = %(shard)s AND sleeping <> %(sleeping)s"
_REMOVE = sa.text("DELETE FROM outbox WHERE id = ANY (CAST(:ids AS bigint[]))")
# It waits for nobody, and gives no space back: for that it would keep publishers out.
_VACUUM = sa.text("VACUUM (SKIP_LOCKED, TRUNCATE FALSE, INDEX_CLEANUP ON) outbox")


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
    headers = [*_CONSTANT, *headers_of(str(row.id), row.type, author, row.created_at, row.traceparent)]
    return Message(row.topic, row.payload.encode(), author, headers=headers)


def pause_s(sent: int, took_s: float) -> float:
    """How long a busy relay waits before it looks again: none after a full batch, since more waits already."""
    return max(PACE_S - took_s, 0.0) if sent < BATCH_ROWS_MAX else 0.0


class Ownership:
    """The right to relay one shard: an advisory lock, on whose session the outbox is read as well.

    The session ends on its own when this process freezes or dies; whoever lost it reads nothing any more. Raises
    `DatabaseUnavailable` when the session is gone.
    """

    def __init__(self, url: str) -> None:
        # All that this session writes is whether the relay sleeps: losing that costs a slow poll or a needless wake-up.
        self._lock = AdvisoryLock(url, LockClass.RELAY, outbox.SHARD, "-c synchronous_commit=off")

    def try_take(self) -> bool:
        """True when the lock is ours now; else the session stays open for the next try."""
        taken = self._lock.try_take()
        if taken:
            self._lock.execute(f"LISTEN {outbox.CHANNEL}")
        return taken

    def unsent(self) -> list[Row]:
        """The next rows, in id order; also shows the server that this process is alive."""
        return [Row(*row) for row in self._lock.execute(_UNSENT, (BATCH_ROWS_MAX,))]

    def say_sleeping(self, sleeping: bool) -> None:
        """Whether publishers are to wake this relay."""
        self._lock.execute(_SLEEP, {"sleeping": sleeping, "shard": outbox.SHARD})

    def wait(self, timeout_s: float) -> None:
        """Returns when somebody published or after `timeout_s`."""
        self._lock.wait_notified(timeout_s)

    def give_back(self) -> None:
        """Ends the session, and the lock with it."""
        self._lock.give_back()


class Relay:
    """Relays one shard until it is told to stop."""

    def __init__(self, engine: sa.Engine, database_url: str, bootstrap: str) -> None:
        self._engine = engine
        self._bootstrap = bootstrap
        self._ownership = Ownership(database_url)
        self._sleeping = False
        self._removed = 0  # rows, since the last vacuum
        self._beat: Callable[[], None] = lambda: None

    def run(self, stop: threading.Event, health: Health) -> None:
        """Waits for ownership, relays while it lasts, and starts again."""
        self._beat = health.loop("the relay", ROUND_S)
        try:
            while not stop.is_set():
                self._beat()
                try:
                    self._relay_if_owned(stop, health)
                except (DependencyError, Superseded) as error:
                    self._ownership.give_back()
                    log.warning("relay waits", error=str(error))
                    health.enter(State.WAITING, f"the relay waits: {type(error).__name__}")
                stop.wait(RETRY_S)
        finally:
            self._ownership.give_back()

    def _relay_if_owned(self, stop: threading.Event, health: Health) -> None:
        if self._ownership.try_take():
            log.info("relay owns the outbox", shard=outbox.SHARD)
            self._relay_while_owned(stop, health)
        else:
            health.enter(State.STANDBY)

    def _relay_while_owned(self, stop: threading.Event, health: Health) -> None:
        producer = TransactionalProducer(self._bootstrap, f"fanfold-relay-{outbox.SHARD}")
        try:
            # One that froze before this has fenced its successor; then the session is gone, and it sends nothing.
            self._say_sleeping(sleeping=False)
            health.enter(State.SERVING)
            self._keep_sending(producer, stop)
        finally:
            producer.close()

    def _keep_sending(self, producer: TransactionalProducer, stop: threading.Event) -> None:
        busy_steps = 0
        while not stop.is_set():
            self._beat()
            began_s = time.monotonic()
            sent = self.step(producer)
            busy_steps = busy_steps + 1 if sent else 0
            if busy_steps == 0:
                self._sleep()
            elif busy_steps >= BUSY_STEPS_MIN:
                if self._sleeping:
                    self._say_sleeping(sleeping=False)
                stop.wait(pause_s(sent, time.monotonic() - began_s))

    def step(self, producer: TransactionalProducer) -> int:
        """Sends and removes one batch; the number of events sent.

        A crash before the commit sends nothing that counts; one between commit and removal sends the batch again, in
        the same order. Idempotent downstream: every event names its tweet or pair.
        """
        rows = self._ownership.unsent()
        if rows:
            producer.send(map(as_message, rows))
            self._remove([row.id for row in rows])
            metrics.RELAY_BATCH_EVENTS.observe(len(rows))
            metrics.RELAYED.inc(len(rows))
        return len(rows)

    def _remove(self, ids: Sequence[int]) -> None:
        """What was sent goes whoever owns the outbox by now: were it on the lock's session, a relay whose every commit
        outlasts that would send one batch for ever."""
        self._removed += len(ids)
        with reading(self._engine) as connection:
            connection.execute(_REMOVE, {"ids": list(ids)})
            if self._removed >= VACUUM_AFTER_ROWS:
                connection.execute(_VACUUM)
                self._removed = 0

    def _sleep(self) -> None:
        """Says that it sleeps, looks once more, and only then waits: no commit falls between."""
        if self._sleeping:
            self._ownership.wait(SLOW_POLL_S)
        else:
            self._say_sleeping(sleeping=True)

    def _say_sleeping(self, *, sleeping: bool) -> None:
        self._ownership.say_sleeping(sleeping)
        self._sleeping = sleeping
