"""bench latency: from the publish call to visible in all three clusters, for every delivered chunk.

Open loop: tweets come at random times of a fixed rate, whether the system keeps up or not. The maximum is measured
first, with callers that post as fast as they can. Output: percentiles when idle and at half of the maximum.
"""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.callers import locked, share_out, sleep_until
from benchmarks.demo_report import LATENCY
from benchmarks.maximum import APPLIED_LIMIT_S, live_maximum
from benchmarks.scrape import percentile, read_buckets
from benchmarks.stage import Ground, warm_audience
from benchmarks.warm_state import Audience, Shape
from consumers.applied import wait_until_applied
from consumers.audit import audit
from consumers.audit_report import AuditResult
from infra.stack.status import read_status
from producers.publish import NewTweet

CALLERS = 16  # of the open loop: so many posts may be under way
WARM_UP_S = 5.0  # before each phase: connections, plans and the follower index
PERCENTILES = {"latency_ms_p50": 0.5, "latency_ms_p99": 0.99, "latency_ms_p999": 0.999}


@dataclass(frozen=True, slots=True)
class Options:
    """What to measure. Rates are in tweets a second."""

    shape: Shape
    idle_rate: float
    seconds: float
    workers: int
    seed: int


@dataclass(frozen=True, slots=True)
class Phase:
    """One phase of the open loop. `late_ms` is how late callers were with a post, p99: the load generator's fault."""

    rate: float
    posts: int
    chunks: int
    latency_ms: Mapping[str, float]
    late_ms: float

    def as_json(self) -> dict[str, Any]:
        """The object of one phase."""
        return {
            **{name: round(value, 1) for name, value in self.latency_ms.items()},
            "tweets_per_s": round(self.rate, 1),
            "tweets": self.posts,
            "chunks": self.chunks,
            "late_ms_p99": round(self.late_ms, 1),
        }


@dataclass(frozen=True, slots=True)
class LatencyReport:
    """All that was found. A run whose audit is not clean has no figure."""

    shape: Shape
    workers: int
    phases: Mapping[str, Phase]
    maximum_tweets_per_s: float
    maximum_deliveries_per_s: float
    audit: AuditResult

    def as_json(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        clean = self.audit.clean
        return {
            **{name: phase.as_json() if clean else None for name, phase in self.phases.items()},
            "maximum_tweets_per_s": round(self.maximum_tweets_per_s, 1) if clean else None,
            "maximum_deliveries_per_s": round(self.maximum_deliveries_per_s) if clean else None,
            "workers": self.workers,
            "timelines": self.shape.timelines,
            "entries": self.shape.entries,
            "fan_out": self.shape.fan_out,
            "audit": asdict(self.audit.total),
        }


class LatencyBench:
    """The measurement on a stack that is up."""

    def __init__(self, options: Options, ground: Ground) -> None:
        self._options = options
        self._ground = ground
        self._settings = ground.settings
        self._stores = ground.stores
        self._watcher = ground.watcher
        self._rng = np.random.default_rng(options.seed)
        self._publisher = ground.publisher

    def run(self) -> LatencyReport:
        """Fills, warms, and goes through the phases; compares every timeline last."""
        shape = self._options.shape
        audience = warm_audience(self._ground, shape, self._rng)
        idle = self._phase("idle", audience, self._options.idle_rate)
        tweets_per_s, deliveries_per_s = live_maximum(self._ground, audience, self._options.seconds / 2, self._rng)
        half = self._phase("half load", audience, tweets_per_s / 2)
        self._watcher.step(f"comparing {3 * shape.timelines:,} timelines with the database")
        result = audit(self._stores.engine, self._stores.timelines, complete=True, progress=self._watcher.counted)
        phases = {"idle": idle, "half_load": half}
        return LatencyReport(shape, self._options.workers, phases, tweets_per_s, deliveries_per_s, result)

    def _phase(self, name: str, audience: Audience, rate: float) -> Phase:
        self._watcher.step(f"{name}: {rate:,.1f} tweets a second for {self._options.seconds:g} s")
        self._open_loop(audience, rate, WARM_UP_S)
        before = self._buckets()
        late_ms = self._open_loop(audience, rate, self._options.seconds)
        after = self._buckets()
        buckets = {bound: after[bound] - before.get(bound, 0.0) for bound in after}
        latency_ms = {key: (percentile(buckets, share) or 0.0) * 1000 for key, share in PERCENTILES.items()}
        phase = Phase(rate, len(late_ms), int(max(buckets.values())), latency_ms, float(np.percentile(late_ms, 99)))
        self._watcher.done(", ".join(f"{key} {value:,.1f}" for key, value in phase.latency_ms.items()))
        return phase

    def _open_loop(self, audience: Audience, rate: float, seconds: float) -> list[float]:
        """Posts at random times of this rate, until all is applied; how late each call began, in milliseconds."""
        count = max(round(rate * seconds), 1)
        due_s = np.cumsum(self._rng.exponential(1 / rate, size=count)) + time.monotonic()
        plan = iter(list(zip(due_s.tolist(), audience.some_authors(count, self._rng), strict=True)))
        late_ms: list[float] = []

        def post_when_due(due: tuple[float, int]) -> None:
            at_s, author = due
            sleep_until(at_s)
            late_ms.append((time.monotonic() - at_s) * 1000)
            self._publisher.post(NewTweet(author, f"Measured tweet of user {author}"))

        share_out(CALLERS, locked(plan), post_when_due)
        self._wait_until_applied()
        return late_ms

    def _buckets(self) -> dict[float, float]:
        workers = [part.address for part in read_status(self._settings).parts if part.name.startswith("worker")]
        return read_buckets([address for address in workers if address], LATENCY)

    def _wait_until_applied(self) -> None:
        wait_until_applied(self._stores.engine, self._settings.kafka_bootstrap, APPLIED_LIMIT_S)


def print_latency(report: LatencyReport) -> None:
    """For people, on standard output."""
    console = Console(highlight=False, soft_wrap=True)
    if not report.audit.clean:
        console.print("no figure: the audit found differences")
        return
    console.print("\nFrom the publish call to visible in all three clusters, in milliseconds")
    for name, phase in report.phases.items():
        shown = ", ".join(f"{key.removeprefix('latency_ms_')} {value:,.1f}" for key, value in phase.latency_ms.items())
        console.print(f"  {name.replace('_', ' '):<10} {shown}  ({phase.rate:,.1f} tweets a second)")
    console.print(
        f"  maximum    {report.maximum_tweets_per_s:,.0f} tweets and {report.maximum_deliveries_per_s:,.0f} deliveries "
        "a second, with single posts on the same machine"
    )
