"""How far the feed of the streams is behind, and whether its client of Kafka stands still.

A client that was refused for the leader's epoch, as after a broker froze, asks for nothing any more and says nothing:
only the ends of the logs show it.
"""

import time
from collections.abc import Mapping, Sequence

import structlog
from prometheus_client import Gauge

from infra import metrics
from infra.errors import KafkaUnavailable
from infra.log_reader import Log, LogMessage, LogReader, LogWatch

LOOK_EVERY_S = 5.0  # at the ends of the logs
STUCK_S = 12.0  # a log with something to read of which nothing was read: longer than an open transaction holds it up

log = structlog.get_logger()


class FeedLag:
    """Sets the metric, and gives a reader that stands still a new client. Not safe for several threads."""

    def __init__(self, watch: LogWatch, reader: LogReader, gauge: Gauge = metrics.STREAM_LAG) -> None:
        self._gauge = gauge
        self._watch = watch
        self._reader = reader
        self._behind: set[Log] = set()  # logs of which the end was not read
        self._heard_s = time.monotonic()  # when Kafka last answered
        self._look_s = self._heard_s + LOOK_EVERY_S
        self._stuck = Stuck()

    def look(self, messages: Sequence[LogMessage]) -> None:
        """After each read, also of nothing."""
        now_s = time.monotonic()
        ages_s = [0.0]
        for message in messages:
            if message.value is None:
                self._behind.discard(message.log)
            else:
                self._behind.add(message.log)
                ages_s.append(time.time() - message.timestamp_ms / 1000)
        if messages:
            self._heard_s = now_s
            self._gauge.set(max(ages_s) if self._behind else 0)
        if now_s > self._look_s:
            self._look_at_ends()
            self._look_s = time.monotonic() + LOOK_EVERY_S

    def _look_at_ends(self) -> None:
        try:
            ends = self._watch.ends()
        except KafkaUnavailable:
            self._gauge.set(time.monotonic() - self._heard_s)
            return
        now_s = time.monotonic()
        behind = {one: offset for one, offset in self._reader.cut.items() if ends[one] > offset}
        if not behind:
            self._heard_s = now_s
            self._gauge.set(0)
        if self._stuck.since(behind, now_s) > STUCK_S:
            log.warning("a reader of the logs stands still and gets a new client", logs=sorted(behind))
            self._reader.renew()
            self._stuck = Stuck()


class Stuck:
    """For how long a log has been at the same place though there was more to read. Pure."""

    def __init__(self) -> None:
        self._seen: dict[Log, tuple[int, float]] = {}

    def since(self, behind: Mapping[Log, int], now_s: float) -> float:
        """Seconds of the one that has been longest, of those that are `behind` and where they are."""
        self._seen = {
            log: self._seen[log] if log in self._seen and self._seen[log][0] == offset else (offset, now_s)
            for log, offset in behind.items()
        }
        return max((now_s - since_s for _, since_s in self._seen.values()), default=0.0)
