"""The keeper: takes over replays whose runner is gone, beside the coordinator that leads.

A replay runs where somebody called for it; when that process dies, its lease ends with its session and the job is
`running` without a runner. The keeper runs one job after the other. Next: replay_commands.py.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from infra.composition import Stores
from infra.errors import FanfoldError, LeaseHeld
from infra.leases import lease, read_lease
from infra.replay import Run
from infra.replay_jobs import Job, Jobs, State, lease_of

PERIOD_S = 1.0
ALONE_LOOKS = 2  # in a row at which a job has no runner: whoever creates one takes its lease in between
ENDS_WITHIN_S = 10.0  # a transaction that waits for Kafka; the coordinator does not wait longer for its end

log = structlog.get_logger()


class Keeper:
    """Runs what is left alone, until it is told to stop."""

    def __init__(self, stores: Stores, bootstrap: str, stop: threading.Event) -> None:
        self._stores = stores
        self._bootstrap = bootstrap
        self._stop = stop
        self._alone: dict[int, int] = {}  # job → looks in a row
        self._trouble = ""

    def run(self) -> None:
        """What cannot be reached is waited for."""
        while not self._stop.wait(PERIOD_S):
            try:
                for job in self.left_alone():
                    self._take_over(job)
                self._trouble = ""
            except FanfoldError as error:
                if str(error) != self._trouble and not isinstance(error, LeaseHeld):
                    log.warning("replays wait", error=str(error))
                self._trouble = str(error)
            except Exception:  # whatever it is, a replay that nobody ends for ever would be worse
                log.exception("the keeper of replays failed; it begins again")

    def left_alone(self) -> list[Job]:
        """The running jobs that nobody has run for some looks; this is one."""
        jobs = [job for job in Jobs(self._stores.zookeeper).all() if job.state is State.RUNNING]
        alone = [job for job in jobs if read_lease(self._stores.zookeeper, lease_of(job.id)) is None]
        self._alone = {job.id: self._alone.get(job.id, 0) + 1 for job in alone}
        return [job for job in alone if self._alone[job.id] >= ALONE_LOOKS]

    def _take_over(self, job: Job) -> None:
        with lease(self._stores.zookeeper, lease_of(job.id)) as held:
            now = Jobs(self._stores.zookeeper).get(job.id)
            if now.state is State.RUNNING:
                log.info("replay taken over", replay=job.id, sent=now.counts.sent)
                ended = Run(self._stores, self._bootstrap, now, held, self._stop).run()
                log.info("replay ended here", replay=job.id, state=ended.state, sent=ended.counts.sent)


@contextmanager
def keeping_replays(stores: Stores, bootstrap: str) -> Iterator[None]:
    """Takes replays over in the background while the context lasts; without Kafka's address it does nothing."""
    stop = threading.Event()
    thread = threading.Thread(target=Keeper(stores, bootstrap, stop).run, name="replays", daemon=True)
    if bootstrap:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        if bootstrap:
            thread.join(ENDS_WITHIN_S)
