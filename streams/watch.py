"""Watch: looks once a second, on a thread of its own, at how far behind this worker is and whether it still moves.

Input: the consumer's positions, the agents' progress, and the ends of the logs, asked of Kafka apart from the consumer
(one that has stopped fetching would report an old end, and nothing to do). Output: the lags as metrics, and the answers
to "alive" and "ready".
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from infra import metrics
from infra.health import Health
from infra.kafka_logs import ENDS_TIMEOUT_S
from infra.topics import LOGS_OF_WORKERS
from streams.progress import (
    AGENT_OF,
    STALLED_S,
    TOPIC_OF,
    Fetched,
    Place,
    Progress,
    lag_offsets,
    lag_s,
    oldest_open,
    stalled,
)

PERIOD_S = 1.0
ROUND_S = PERIOD_S + ENDS_TIMEOUT_S + 15.0  # one look, on a machine that has no time for it

Read = Callable[[], Mapping[Place, Fetched]]
Ends = Callable[[], Mapping[Place, int] | None]  # None while Kafka does not answer
Unowned = Callable[[], int | None]  # partitions that no worker has
Retentions = Mapping[str, int | None]  # of each agent's log in milliseconds; None is without end

DEFAULT_RETENTIONS: Retentions = {AGENT_OF[topic.name]: topic.retention_ms for topic in LOGS_OF_WORKERS}


@dataclass(frozen=True, slots=True)
class Worked:
    """How far a partition is worked off: all before an offset, transaction markers among them, and all that was
    published before a time (Unix, milliseconds)."""

    next_offset: int
    until_ms: int


class Watch:
    """The lags of the partitions that this worker has now, and since when each of them is quiet."""

    def __init__(
        self, progress: Progress, read: Read, ends: Ends, unowned: Unowned, retentions: Retentions = DEFAULT_RETENTIONS
    ) -> None:
        self._retentions = retentions
        self._progress = progress
        self._read = read
        self._ends = ends
        self._unowned = unowned
        self._needless_at_s: float | None = None  # when it was last right to have no partition, or when there was one
        self._behind_since_s: dict[Place, float] = {}
        self._quiet_since_s: dict[Place, float] = {}
        self._shown: set[Place] = set()
        self._worked: dict[Place, Worked] = {}
        self._answers = True

    def watch(self, health: Health) -> None:
        """Looks for the life of the process."""
        beat = health.loop("the watch over the partitions", ROUND_S)
        health.also_alive_if(self.stalled)
        health.also_ready_if(self.lacking)
        health.describe_by(self.fields)

        def run() -> None:
            while True:
                beat()
                self.look(time.monotonic(), time.time_ns() // 1_000_000)
                time.sleep(PERIOD_S)

        threading.Thread(target=run, name="watch", daemon=True).start()

    def look(self, now_s: float, now_ms: int) -> None:
        """One look. Positions are read before the ends, and the ends before the progress: a message that comes in
        between makes the lag of this look too large, never too small."""
        fetched = self._read()
        ends = self._ends()
        self._answers = ends is not None
        known: set[Place] = set()
        worked: dict[Place, Worked] = {}
        for place, one in fetched.items():
            work = self._progress.of(place)
            open_ = oldest_open(one, work)
            lag = lag_offsets((ends or {}).get(place), one.position, open_)
            if open_ is not None:
                worked[place] = Worked(open_.first, open_.first_ms)
            elif lag == 0:  # else how old what was not fetched is nobody knows
                worked[place] = Worked(one.position or 0, now_ms)
            since_s = self._note(place, lag, now_s if work.in_line else work.moved_s, now_s)
            if lag is not None:
                known.add(place)
                _show(place, lag, lag_s(lag, open_, now_s - since_s, now_ms), self._retentions[place[0]])
        self._worked = worked
        self._drop(fetched.keys(), known)
        if fetched or not self._unowned() or self._needless_at_s is None:
            self._needless_at_s = now_s

    def worked(self) -> Mapping[tuple[str, int], Worked]:
        """How far the last look found each partition of this worker worked off, by its topic."""
        return {(TOPIC_OF[agent], partition): one for (agent, partition), one in self._worked.items()}

    def stalled(self, now_s: float) -> Sequence[str]:
        """The partitions that silently stopped; or the whole worker, which has none while some are nobody's."""
        idle_s = now_s - (self._needless_at_s or now_s)
        out = [f"this worker has no partition, and some belong to nobody for {idle_s:.0f} s"]
        return [*stalled(dict(self._quiet_since_s), now_s), *(out if idle_s > STALLED_S else [])]

    def lacking(self, _: float) -> Sequence[str]:
        """What keeps this worker from its work. A Redis cluster that is away does not: its batches wait for it."""
        return [] if self._answers else ["Kafka does not answer"]

    def fields(self) -> dict[str, Any]:
        """How many partitions each agent has here, and what their batches wait for."""
        places = list(self._behind_since_s)
        counts = {agent: sum(place[0] == agent for place in places) for agent in metrics.AGENTS}
        return {"partitions": counts, "waiting": self._progress.waiting()}

    def _note(self, place: Place, lag: int | None, moved_s: float, now_s: float) -> float:
        """Keeps the clocks of one partition, and returns since when it is behind. While Kafka is away nobody is to
        blame for standing still, so its silence does not count."""
        if lag == 0 or place not in self._behind_since_s:
            self._behind_since_s[place] = now_s
        quiet_s = max(self._quiet_since_s.get(place, now_s), moved_s)
        self._quiet_since_s[place] = now_s if lag == 0 or not self._answers else quiet_s
        return self._behind_since_s[place]

    def _drop(self, assigned: Any, known: set[Place]) -> None:
        """Partitions that went to another worker are its affair, in the metrics too."""
        for place in self._behind_since_s.keys() - assigned:
            del self._behind_since_s[place], self._quiet_since_s[place]
        for agent, partition in self._shown - known:
            metrics.LAG_OFFSETS.remove(agent, str(partition))
            metrics.LAG_SECONDS.remove(agent, str(partition))
            metrics.LAG_OF_RETENTION.remove(agent, str(partition))
        self._shown = known


def _show(place: Place, lag: int, seconds: float, retention_ms: int | None) -> None:
    agent, partition = place
    metrics.LAG_OFFSETS.labels(agent, str(partition)).set(lag)
    metrics.LAG_SECONDS.labels(agent, str(partition)).set(seconds)
    share = 1_000 * seconds / retention_ms if retention_ms else 0
    metrics.LAG_OF_RETENTION.labels(agent, str(partition)).set(share)
