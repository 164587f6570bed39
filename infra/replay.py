"""replay: activity that was sent before goes into the log once more, marked, at a bounded rate.

Input: a job and its lease. Output: messages in `activity` (or in a topic of their own), which fan_out takes as any
others, and whose chunks deliver compares with the database (streams/verify.py). At least once: how far the job is gets
written after the broker has what is before it, so a crash sends some of it again, which changes nothing. One runner
at a time: the lease says who, and a later runner's producer fences one that froze. Next: replay_keeper.py.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from random import SystemRandom

import structlog

from infra import metrics
from infra.applied_offsets import highest_applied
from infra.composition import Stores
from infra.errors import DependencyError, LeaseLost, Superseded, ZooKeeperUnavailable
from infra.kafka import TransactionalProducer
from infra.lease import Lease
from infra.log_reader import ACTIVITY_LOGS, DELIVERY_LOGS, Log, LogWatch
from infra.replay_jobs import Counts, Job, Jobs, Position, State
from infra.replay_pace import Pace, Window
from infra.replay_sources import Item, pages
from infra.retry import Backoff, retried

RECORD_S = 1.0  # between two notes of how far a job is: what is sent twice after a crash
AWAY = Backoff(first_s=0.2, max_s=5.0)  # a server that is away: for as long as the job runs

Told = Callable[[Job], None]

log = structlog.get_logger()


class Stopped(Exception):
    """Raised inside a run when it is to end: somebody has paused or cancelled the job, or the process stops."""


class Run:
    """One runner's part of a job."""

    def __init__(
        self,
        stores: Stores,
        bootstrap: str,
        job: Job,
        held: Lease,
        stop: threading.Event,
        told: Told = lambda _: None,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.job = job
        self._stores = stores
        self._bootstrap = bootstrap
        self._jobs = Jobs(stores.zookeeper)
        self._held = held
        self._stop = stop
        self._told = told
        self._clock_s = clock_s
        self._position, self._counts = job.position, job.counts
        self._recorded_s = clock_s()
        self._producer: TransactionalProducer | None = None
        self._waits_s = AWAY.waits_s(SystemRandom())

    def run(self) -> Job:
        """The job as it is when this runner ends: done, failed, or stopped by somebody. `running` when it was `stop`
        that ended it: then another runner may go on. Raises `LeaseLost` when another may do so already."""
        with closing(_Agents(self._stores, self._bootstrap)) as agents:
            window = None if self.job.what.topic else Window(agents, self.job.live_wait_s)
            self._pace = Pace(lambda: self.job.rate, window, self._clock_s)
            try:
                self._reachable(self._send_all)
                return self._record(State.DONE)
            except Stopped:
                return self._record(State.RUNNING)
            except Superseded as error:
                raise LeaseLost(f"replay {self.job.id} is another runner's: {error}") from error
            except (LeaseLost, DependencyError):
                raise
            except Exception as error:
                log.exception("a replay failed", replay=self.job.id)
                return self._record(State.FAILED, f"{type(error).__name__}: {error}")
            finally:
                self._close()

    def _reachable(self, step: Callable[[], None]) -> None:
        """Does it; again, from where the job is, while a server is away."""

        def wait(wait_s: float, error: Exception) -> None:
            log.warning("a replay waits", replay=self.job.id, error=str(error))
            self._close()
            self._wait(wait_s)

        retried(step, self._waits_s, wait, DependencyError)

    def _send_all(self) -> None:
        job = replace(self.job, position=self._position)
        for page in pages(self._stores.engine, self._bootstrap, job):
            items, before = page.items, replace(self._counts, sent=0)
            while items:
                self._wait_for_turn()
                now, items = items[: self._pace.share], items[self._pace.share :]
                self._send(now)
                self._reached(now[-1].behind, before.plus(now[-1].counts))
            self._reached(page.behind, before.plus(page.counts))
            self._note()

    def _send(self, items: Sequence[Item]) -> None:
        if self._producer is None:
            self._producer = TransactionalProducer(self._bootstrap, f"fanfold-replay-{self.job.id}")
        self._held.check()
        behind = self._producer.send(item.message for item in items)
        self._pace.sent(len(items), {partition: offset for (_, partition), offset in behind.items()})
        self._counts = self._counts.plus(Counts(sent=len(items)))
        metrics.REPLAYED.inc(len(items))

    def _reached(self, position: Position, looked: Counts) -> None:
        """The log has what is before this. A crash before it is noted sends it again."""
        self._position, self._counts = position, replace(looked, sent=self._counts.sent)

    def _wait_for_turn(self) -> None:
        while (wait_s := self._pace.wait_s()) > 0:
            self._note()
            self._wait(wait_s)
        self._note()

    def _note(self) -> None:
        """Now and then: writes how far the job is, and looks whether it is to stop."""
        if self._stop.is_set():
            raise Stopped
        if self._clock_s() - self._recorded_s >= RECORD_S and self._record(State.RUNNING).state is not State.RUNNING:
            raise Stopped

    def _record(self, state: State, reason: str = "") -> Job:
        """While ZooKeeper is away the replay goes on for as long as the lease is certain."""
        self._recorded_s = self._clock_s()
        try:
            job = self._jobs.record(self.job.id, self._held, self._position, self._counts, state, reason)
        except ZooKeeperUnavailable:
            if state is not State.RUNNING:
                raise
            self._held.check()
            return self.job
        self.job = job
        self._told(job)
        return job

    def _wait(self, wait_s: float) -> None:
        if self._stop.wait(wait_s):
            raise Stopped

    def _close(self) -> None:
        if self._producer is not None:
            self._producer.close()
            self._producer = None


class _Agents:
    """How far both logs are worked off, as `replay_pace.Logs` asks."""

    def __init__(self, stores: Stores, bootstrap: str) -> None:
        self._stores = stores
        self._watch = LogWatch(bootstrap)

    def fanned_out(self) -> dict[int, int]:
        return _of(self._watch.applied(ACTIVITY_LOGS), ACTIVITY_LOGS)

    def delivery_ends(self) -> dict[int, int]:
        return _of(self._watch.written(), DELIVERY_LOGS)

    def delivered(self) -> dict[int, int]:
        highest = highest_applied(self._stores.clusters)
        if highest is None:  # then nothing counts as applied
            return dict.fromkeys((partition for _, partition in DELIVERY_LOGS), 0)
        return {partition: offset + 1 for partition, offset in highest.items()}

    def close(self) -> None:
        with suppress(DependencyError):
            self._watch.close()


def _of(offsets: Mapping[Log, int], logs: Sequence[Log]) -> dict[int, int]:
    return {one[1]: offsets[one] for one in logs}
