"""The status keeper: authors cross the threshold one step at a time, each step in one transaction with its event.

A step is taken when the last one of the same author is applied everywhere: its event sent by the relay, and what that
asked for acknowledged in both logs. So the new side is complete before the old one is given up, and what fan_out left
out for the old status is not missing in the new one. Several keepers may work at the same time. Rules: infra/status.py;
what an event does: streams/fan_out.py.
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import sqlalchemy as sa
import structlog

from infra import metrics, outbox
from infra.composition import stores
from infra.database import AUTHOR_LOCKS_MAX, lock_authors, reading, transaction
from infra.errors import DependencyError
from infra.events import Activity, ActivityType
from infra.kafka_logs import LogEnds
from infra.settings import Settings
from infra.status import Standing, Status, next_standing
from infra.timelines import Timelines
from infra.topics import ACTIVITY, DELIVERIES
from producers.publish import now_ms

PERIOD_S = 2.0  # between two looks at who has crossed the threshold
POLL_S = 0.5  # while a step is being applied
RETRY_S = 2.0
ROUND_S = 60.0  # the longest silence of a healthy keeper: its questions to Kafka and the database, each with time-outs

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Step:
    """One author's next step, as it was decided by what was read."""

    author_id: int
    before: Standing
    after: Standing
    event: int | None  # the outbox id of the event before; None before the first


def keep_statuses(settings: Settings, stop: threading.Event, beat: Callable[[], None]) -> None:
    """Until `stop`. Waits for servers that are away."""
    bootstrap = settings.need("kafka_bootstrap")
    while not stop.is_set():
        beat()
        try:
            with stores(settings) as opened:
                StatusKeeper(opened.engine, bootstrap, partial(_threshold, opened.timelines), stop, beat).run()
        except DependencyError as error:
            log.warning("status keeper waits", error=str(error))
            stop.wait(RETRY_S)
        except Exception:
            log.exception("status keeper failed")
            stop.wait(RETRY_S)


class StatusKeeper:
    """Takes authors from one side of the threshold to the other. Raises `DependencyError`; start again then."""

    def __init__(
        self,
        engine: sa.Engine,
        bootstrap: str,
        threshold: Callable[[], int],
        stop: threading.Event,
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        self._engine = engine
        self._bootstrap = bootstrap
        self._threshold = threshold
        self._stop = stop
        self._beat = beat
        self._applied: set[int] = set()  # events of last steps whose effect is known to be everywhere

    def run(self) -> None:
        """Until it is told to stop."""
        while not self._stop.is_set():
            self._beat()
            if not self.round():
                self._stop.wait(PERIOD_S)

    def round(self) -> bool:
        """Takes all steps that are due, some in each transaction; then waits for the next ones to become so. False when
        there is nothing to do."""
        wanted = due_steps(self._engine, self._threshold())
        ready = [step for step in wanted if step.event is None or step.event in self._applied]
        for start in range(0, len(ready), AUTHOR_LOCKS_MAX):
            self._take(ready[start : start + AUTHOR_LOCKS_MAX])
        if not ready and wanted:
            self._wait_until_applied({step.event for step in wanted if step.event is not None})
        return bool(wanted)

    def _take(self, steps: Sequence[Step]) -> None:
        taken = take_steps(self._engine, steps, now_ms())
        outbox.wake_relay(self._engine)
        for step in taken:
            metrics.STATUS_CHANGES.labels(step.after.status).inc()
            log.info("status changed", author=step.author_id, before=step.before.status, after=step.after.status)

    def _wait_until_applied(self, events: set[int]) -> None:
        """Until these are applied everywhere, or `stop`."""
        if not self._until(lambda: _is_sent(self._engine, max(events))):
            return
        for topic in (ACTIVITY, DELIVERIES):
            if not self._until(LogEnds(self._bootstrap, topic).are_acknowledged):
                return
        self._applied = events

    def _until(self, condition: Callable[[], bool]) -> bool:
        while not self._stop.is_set():
            self._beat()
            if condition():
                return True
            self._stop.wait(POLL_S)
        return False


def _threshold(timelines: Timelines) -> int:
    return timelines.live.threshold


def due_steps(engine: sa.Engine, threshold: int) -> list[Step]:
    """The next steps of all authors who are not where they belong, whether or not their last one is applied."""
    with reading(engine) as connection:
        rows = connection.execute(_CANDIDATES, {"threshold": threshold}).all()
    steps = []
    for row in rows:
        standing = Standing(Status(row.status), Status(row.status_before))
        after = next_standing(standing, row.followers, threshold)
        if after is not None:
            steps.append(Step(row.id, standing, after, row.status_event))
    return steps


def take_steps(engine: sa.Engine, steps: Sequence[Step], at_ms: int) -> list[Step]:
    """Takes up to `AUTHOR_LOCKS_MAX` steps in one transaction; those that were taken. An author whom somebody else has
    taken further meanwhile, or deleted, stays where he is."""
    with transaction(engine) as connection:
        lock_authors(connection, [step.author_id for step in steps])
        taken = [step for step in steps if _change(connection, step)]
        for step in taken:
            outbox.append(connection, [Activity(ActivityType.STATUS_CHANGED, step.author_id, step.author_id, at_ms)])
            connection.execute(_NOTE_EVENT, {"id": step.author_id})
    return taken


def _change(connection: sa.Connection, step: Step) -> bool:
    values = {
        "id": step.author_id,
        "old": step.before.status,
        "event": step.event,
        "new": step.after.status,
        "before": step.after.before,
    }
    return connection.execute(_CHANGE, values).rowcount > 0


def _is_sent(engine: sa.Engine, last: int) -> bool:
    with reading(engine) as connection:
        return not connection.execute(_LEFT, {"last": last}).scalar_one()


# An author above the threshold, or on his way, or pulled. The exact rule is next_standing's.
_CANDIDATES = sa.text(
    """
    SELECT id, status, status_before, status_event, followers
    FROM follower_counts JOIN users ON id = author_id
    WHERE followers >= :threshold AND status = 'push' AND deleted_at IS NULL
    UNION ALL
    SELECT id, status, status_before, status_event, coalesce(followers, 0)
    FROM users LEFT JOIN follower_counts ON author_id = id
    WHERE status <> 'push' AND deleted_at IS NULL
    """
)
_CHANGE = sa.text(
    """
    UPDATE users SET status = :new, status_before = :before
    WHERE id = :id AND status = :old AND status_event IS NOT DISTINCT FROM CAST(:event AS bigint)
      AND deleted_at IS NULL
    """
)
# In the transaction that wrote the event just before.
_NOTE_EVENT = sa.text("UPDATE users SET status_event = currval(pg_get_serial_sequence('outbox', 'id')) WHERE id = :id")
_LEFT = sa.text("SELECT EXISTS (SELECT FROM outbox WHERE id <= :last)")
