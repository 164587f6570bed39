"""bench replay: entries a second that a replay from the database brings through the agents, each compared with the
database and applied in three clusters, while nothing else runs.

Input: a warm state, so every entry has its place somewhere in a full list. A part of what is replayed is taken out of
the lists first, and has to be back afterwards. Without a clean audit there is no figure.
"""

import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import sqlalchemy as sa
from rich.console import Console

from benchmarks.stage import Ground, warm_audience
from benchmarks.warm_state import Shape
from consumers.applied import wait_until_applied
from consumers.audit import audit
from consumers.audit_report import AuditResult
from consumers.delivered import delivered
from infra import redis_keys
from infra.database import reading
from infra.leases import lease
from infra.replay import Run
from infra.replay_jobs import Jobs, lease_of
from infra.replay_plan import plan_of, total_of
from infra.replay_what import Source, What
from infra.shard_map import CLUSTERS
from infra.timelines import Kind
from infra.tweet_ids import time_ms_of

APPLIED_LIMIT_S = 1_800.0
RATE = 1_000_000  # events a second: the agents set the pace
LIVE_WAIT_S = 20.0  # nobody waits here
DAMAGED_LISTS = 2_000  # that lack one entry of what is replayed before it begins

_RANGE = sa.text("SELECT id FROM tweets ORDER BY id OFFSET :skip LIMIT 1")


@dataclass(frozen=True, slots=True)
class Options:
    """What to measure: `tweets` from the middle of the history are replayed."""

    shape: Shape
    tweets: int
    workers: int
    seed: int


@dataclass(frozen=True, slots=True)
class ReplayReport:
    """What was replayed in which time, and the comparison that followed."""

    options: Options
    events: int
    entries: int
    seconds: float
    damaged: int
    audit: AuditResult

    @property
    def clean(self) -> bool:
        """Whether there is a figure."""
        return self.audit.clean

    def as_json(self) -> Mapping[str, Any]:
        """The object that `--json` prints."""
        return {
            "entries_per_s": round(self.entries / self.seconds) if self.clean else None,
            "events_per_s": round(self.events / self.seconds) if self.clean else None,
            "entries": self.entries,
            "events": self.events,
            "seconds": round(self.seconds, 1),
            "damaged": self.damaged,
            "live_wait_s": LIVE_WAIT_S,
            "timelines": self.options.shape.timelines,
            "list_entries": self.options.shape.entries,
            "fan_out": self.options.shape.fan_out,
            "workers": self.options.workers,
            "audit": asdict(self.audit.total),
        }


class ReplayBench:
    """The measurement on a stack that is up."""

    def __init__(self, options: Options, ground: Ground) -> None:
        self._options = options
        self._ground = ground
        self._stores = ground.stores
        self._bootstrap = ground.settings.need("kafka_bootstrap")

    def run(self) -> ReplayReport:
        """Fills, warms, damages, replays, and compares every timeline."""
        rng = np.random.default_rng(self._options.seed)
        audience = warm_audience(self._ground, self._options.shape, rng)
        what = self._middle()
        users = audience.first + rng.permutation(self._options.shape.timelines)[:DAMAGED_LISTS]
        damaged = self._damage(what, [int(user) for user in users])
        before, began_s = delivered(self._stores.clusters).deliveries, time.monotonic()
        events = self._replay(what)
        wait_until_applied(self._stores.engine, self._bootstrap, APPLIED_LIMIT_S)
        seconds = time.monotonic() - began_s
        entries = delivered(self._stores.clusters).deliveries - before
        self._ground.watcher.done(f"{entries:,} entries in {seconds:.1f} s: {entries / seconds:,.0f} a second")
        self._ground.watcher.step(f"comparing {3 * self._options.shape.timelines:,} timelines with the database")
        result = audit(
            self._stores.engine, self._stores.timelines, complete=True, progress=self._ground.watcher.counted
        )
        return ReplayReport(self._options, events, entries, seconds, damaged, result)

    def _middle(self) -> What:
        """So many tweets from the middle of the history."""
        shape = self._options.shape
        total = shape.authors * shape.history
        tweets = min(self._options.tweets, total - 1)
        skip = (total - tweets) // 2
        with reading(self._stores.engine) as connection:
            first, last = (connection.execute(_RANGE, {"skip": at}).scalar_one() for at in (skip, skip + tweets))
        return What(Source.DATABASE, time_ms_of(first), time_ms_of(last))

    def _damage(self, what: What, users: list[int]) -> int:
        """Takes one entry of the range out of each list, in all copies; how many lists had one."""
        damaged = 0
        for user in users:
            listed = self._stores.timelines.dump("a", Kind.HOME, [user])[user][1:]
            inside = [one for one in listed if (what.since_ms or 0) <= time_ms_of(int(one)) < (what.until_ms or 0)]
            if inside:
                damaged += 1
                for cluster in CLUSTERS:
                    node = self._stores.clusters.node_for(cluster, user)
                    node.command("LREM", redis_keys.home_timeline(user), 1, inside[len(inside) // 2])
        return damaged

    def _replay(self, what: What) -> int:
        jobs = Jobs(self._stores.zookeeper)
        plan = plan_of(self._stores.engine, self._bootstrap, what, time.time_ns() // 1_000_000)
        job = jobs.create(what, plan, RATE, total_of(self._stores.engine, plan), LIVE_WAIT_S)
        self._ground.watcher.step(f"replaying {what}")
        with lease(self._stores.zookeeper, lease_of(job.id)) as held:
            return Run(self._stores, self._bootstrap, job, held, threading.Event()).run().counts.sent


def print_replay(report: ReplayReport) -> None:
    """For people, on standard output."""
    found, console = report.as_json(), Console(highlight=False, soft_wrap=True)
    shape = report.options.shape
    console.print(
        f"\n{shape.timelines:,} timelines of {shape.entries} entries, mean fan-out {shape.fan_out}, "
        f"{report.events:,} tweets replayed from the database, {report.options.workers} worker(s)"
    )
    if report.clean:
        console.print(f"  {found['entries_per_s']:,} entries a second, {found['events_per_s']:,} events a second")
        console.print(f"  {report.damaged:,} lists that lacked an entry have it again")
    else:
        console.print("  no figure: the audit found differences")
