"""bench read: home reads of 20 hydrated tweets, beside bare redis-py with the same commands in the same run.

Then the latency of reads at half of that rate while deliveries run at half of what live posting reaches (open loop:
reads come at random times whether the system keeps up or not), and first reads, which rebuild. A comparison of all
timelines ends it.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import TypeVar

import numpy as np

from benchmarks.callers import locked, share_out, sleep_until
from benchmarks.maximum import APPLIED_LIMIT_S, live_maximum
from benchmarks.posting import posting
from benchmarks.read_limit import BareReader, commands_of
from benchmarks.read_report import ReadReport
from benchmarks.read_state import fill_readers
from benchmarks.stage import Ground, warm_audience
from benchmarks.warm_state import Audience, Shape
from consumers.applied import wait_until_applied
from consumers.audit import audit
from consumers.delivered import delivered
from consumers.read_timeline import TimelineReader
from infra import redis_keys
from infra.errors import CheckFailed
from infra.paging import LIMIT_DEFAULT, Cursor

READERS_MAX = 1_000  # of each kind: their timelines and tweets are spread over all nodes
CALLERS = 16  # of the open loop: so many reads may be under way, as in an API process
REBUILD_ROUNDS = 5

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Options:
    """What to measure. `seconds` is the length of each phase."""

    shape: Shape
    seconds: float
    runs: int
    followees: int
    workers: int
    seed: int


class ReadBench:
    """The measurement on a stack that is up."""

    def __init__(self, options: Options, ground: Ground) -> None:
        self._options = options
        self._ground = ground
        self._stores = ground.stores
        self._watcher = ground.watcher
        self._rng = np.random.default_rng(options.seed)
        self._reader = TimelineReader(ground.stores)
        self._cursor = Cursor(LIMIT_DEFAULT)

    def run(self) -> ReadReport:
        """Fills, warms, and goes through the phases; compares every timeline last."""
        options, shape = self._options, self._options.shape
        audience = warm_audience(self._ground, shape, self._rng)
        self._watcher.step("writing celebrities and readers with many followees")
        readers = fill_readers(self._stores, audience, shape.timelines, options.followees, self._rng)
        plain, with_celebrities = self._sample(readers.plain), self._sample(readers.with_celebrities)
        self._watcher.step(f"{len(plain) + len(with_celebrities):,} users read")
        for number, user_id in enumerate((*plain, *with_celebrities), 1):
            self._read(user_id)
            self._watcher.counted(number, len(plain) + len(with_celebrities))
        rates = self._rates(plain, with_celebrities)
        latency_ms, load = self._under_deliveries(audience, plain, float(np.median(rates["reads"])) / 2)
        rebuild_ms = self._rebuilds(readers.few_followees)
        many_ms = self._rebuilds(range(readers.many_followees, readers.many_followees + 1))
        wait_until_applied(self._stores.engine, self._ground.settings.kafka_bootstrap, APPLIED_LIMIT_S)
        self._watcher.step("comparing every timeline with the database")
        result = audit(self._stores.engine, self._stores.timelines, complete=True, progress=self._watcher.counted)
        return ReadReport(shape, options.followees, rates, latency_ms, load, rebuild_ms, many_ms, result)

    def _sample(self, users: range) -> list[int]:
        chosen = self._rng.choice(len(users), min(READERS_MAX, len(users)), replace=False)
        return [users[int(place)] for place in chosen]

    def _read(self, user_id: int) -> None:
        """A full page, or the figure would be of something else."""
        page = self._reader.home(user_id, self._cursor)
        if len(page.tweets) != self._cursor.limit:
            raise CheckFailed(f"a page of user {user_id} has {len(page.tweets)} tweets, state {page.state}")

    def _rates(self, plain: Sequence[int], with_celebrities: Sequence[int]) -> dict[str, list[float]]:
        """Reads a second of this process, one after the other; ours and bare redis-py's in turn."""
        bare = BareReader(self._stores.clusters.shard_map.addresses)
        found: dict[str, list[float]] = {}
        try:
            kinds = {"": plain, "celebrity_": with_celebrities}
            commands = {kind: commands_of(self._stores, users, self._cursor) for kind, users in kinds.items()}
            for number in range(1, self._options.runs + 1):
                self._watcher.step(f"reads and their limit, run {number} of {self._options.runs}")
                for kind, users in kinds.items():
                    found.setdefault(f"{kind}reads", []).append(self._rate(self._read, users))
                    found.setdefault(f"{kind}limit", []).append(self._rate(bare.read, commands[kind]))
                self._watcher.done(", ".join(f"{name} {rates[-1]:,.0f}" for name, rates in found.items()))
        finally:
            bare.close()
        return found

    def _rate(self, read: Callable[[T], object], items: Sequence[T]) -> float:
        began_s = time.monotonic()
        end_s = began_s + self._options.seconds
        for count, item in enumerate(cycle(items), 1):
            read(item)
            if (now_s := time.monotonic()) >= end_s:
                return count / (now_s - began_s)
        raise AssertionError("cycle ends for nobody")

    def _under_deliveries(
        self, audience: Audience, readers: Sequence[int], rate: float
    ) -> tuple[list[float], dict[str, float]]:
        """Milliseconds from when each read was due to its page, while deliveries run at half of their maximum."""
        tweets_per_s, maximum = live_maximum(self._ground, audience, self._options.seconds / 2, self._rng)
        self._watcher.step(f"{rate:,.0f} reads and {maximum / 2:,.0f} deliveries a second")
        data_dir = self._ground.settings.data_dir
        with posting(data_dir, audience.first, audience.authors, tweets_per_s / 2):
            self._open_loop(readers, rate, min(self._options.seconds, 2.0))  # warms up
            before, began_s = delivered(self._stores.clusters).deliveries, time.monotonic()
            latency_ms = self._open_loop(readers, rate, self._options.seconds)
            now = delivered(self._stores.clusters).deliveries
            deliveries = (now - before) / (time.monotonic() - began_s)
        self._watcher.done(f"p50 {np.percentile(latency_ms, 50):.1f} ms, p99 {np.percentile(latency_ms, 99):.1f} ms")
        load = {"maximum_deliveries_per_s": maximum, "deliveries_per_s": deliveries, "latency_reads_per_s": rate}
        return latency_ms, load

    def _open_loop(self, readers: Sequence[int], rate: float, seconds: float) -> list[float]:
        count = max(round(rate * seconds), 1)
        due_s = np.cumsum(self._rng.exponential(1 / rate, size=count)) + time.monotonic()
        latency_ms: list[float] = []

        def read_when_due(due: tuple[float, int]) -> None:
            at_s, user_id = due
            sleep_until(at_s)
            self._read(user_id)
            latency_ms.append((time.monotonic() - at_s) * 1000)

        share_out(CALLERS, locked(zip(due_s.tolist(), cycle(readers), strict=False)), read_when_due)
        return latency_ms

    def _rebuilds(self, readers: Sequence[int]) -> list[float]:
        """Milliseconds of home reads that no copy can answer: home, own user timeline and celebrities are rebuilt."""
        self._watcher.step(f"first reads of {len(readers)} users")
        found = []
        for _ in range(REBUILD_ROUNDS):
            for user_id in readers:
                self._forget(user_id)
                began_s = time.monotonic()
                self._read(user_id)
                found.append((time.monotonic() - began_s) * 1000)
        self._watcher.done(f"p50 {np.percentile(found, 50):.1f} ms")
        return found

    def _forget(self, user_id: int) -> None:
        keys = (redis_keys.home_timeline(user_id), redis_keys.user_timeline(user_id), redis_keys.celebrities(user_id))
        self._stores.clusters.on_each_copy(user_id, lambda node: node.command("DEL", *keys))
