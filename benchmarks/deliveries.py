"""bench deliveries: how many entries a second reach their timelines, each in three clusters.

Two forms: `backlog` (the activity log is written before the clock starts) and `live` (the clock runs from the first
commit). Input: a warm state. Output: figures beside limits measured in the same run; without a clean audit, none.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

import numpy as np

from benchmarks.deliveries_report import DeliveriesReport, Run
from benchmarks.limit import load_limit, measure_limit
from benchmarks.plain import measure_plain
from benchmarks.scrape import read_totals
from benchmarks.stage import Ground, warm_audience
from benchmarks.warm_state import Audience, Chunk, Shape
from consumers.applied import wait_until_applied
from consumers.audit import audit
from consumers.audit_report import AuditResult
from consumers.delivered import delivered
from infra import outbox
from infra.errors import CheckFailed, FanfoldError
from infra.stack.roles import instance_name
from infra.stack.status import read_status
from infra.stack.supervisor import Stack
from producers.publish import NewTweet
from producers.snowflake import Snowflakes

POST_AT_ONCE = 2_000  # tweets of one call of post_many
APPLIED_LIMIT_S = 1_800.0
POLL_MIN_S = 0.01
POLL_MAX_S = 0.5
LIMIT_TWEETS = 5_000  # a million and a half deliveries show a rate that does not change
PLAIN_TWEETS = 1_000  # the comparison is slow
APPENDS = frozenset({"cmdstat_rpush", "cmdstat_rpushx"})


class Form(StrEnum):
    """What is there when the clock starts."""

    BACKLOG = "backlog"
    LIVE = "live"


@dataclass(frozen=True, slots=True)
class Options:
    """What to measure."""

    shape: Shape
    tweets: int
    runs: int
    forms: tuple[Form, ...]
    workers: int
    seed: int


class DeliveriesBench:
    """The measurement on a stack that is up."""

    def __init__(self, options: Options, ground: Ground) -> None:
        self._options = options
        self._ground = ground
        self._stack = ground.stack
        self._settings = ground.settings
        self._stores = ground.stores
        self._watcher = ground.watcher
        self._rng = np.random.default_rng(options.seed)
        self._publisher = ground.publisher

    def run(self) -> DeliveriesReport:
        """Fills, warms, runs every form, compares every timeline, and measures the limits last."""
        audience = warm_audience(self._ground, self._options.shape, self._rng)
        runs: dict[str, list[Run]] = {form: [] for form in self._options.forms}
        for number in range(1, self._options.runs + 1):
            ended = {form: self._run(form, number, audience) for form in self._options.forms}
            result = self._audit()  # of both: what one of them spoiled shows here, and neither has a figure then
            for form, run in ended.items():
                runs[form].append(run(result))
        clean = all(run.audit.clean for form in runs.values() for run in form)
        # The limits leave entries in the lists that the database does not have: only on a stack of our own.
        limits = self._limits(self._stack, audience) if clean and self._stack is not None else {}
        return DeliveriesReport(self._options.shape, self._options.tweets, self._options.workers, runs, limits)

    def _run(self, form: Form, number: int, audience: Audience) -> Callable[[AuditResult], Run]:
        """One run; its audit follows."""
        self._watcher.step(f"{form}, run {number} of {self._options.runs}: {self._options.tweets:,} tweets")
        authors = audience.some_authors(self._options.tweets, self._rng)
        counted = (0.0, 0.0) if form is Form.BACKLOG else self._counted()  # a backlog's workers are new
        before, held, appends = delivered(self._stores.clusters).deliveries, self._incarnations(), self._appends()
        wanted = before + sum(len(audience.of(author)) for author in authors)
        began_s = self._backlog(authors) if form is Form.BACKLOG else self._live(authors)
        self._wait_for(wanted, before, held)
        seconds = time.time() - began_s
        after = delivered(self._stores.clusters)
        taken, out_of_order = (now - then for now, then in zip(self._counted(), counted, strict=True))
        wait_until_applied(self._stores.engine, self._settings.kafka_bootstrap, APPLIED_LIMIT_S)
        deliveries, appends = after.deliveries - before, self._appends() - appends
        self._watcher.done(f"{deliveries:,} deliveries in {seconds:.1f} s: {deliveries / seconds:,.0f} a second")
        return partial(Run, deliveries, seconds, after.copies, out_of_order / taken if taken else 0.0, appends)

    def _backlog(self, authors: Sequence[int]) -> float:
        """Everything is in the activity log before a worker runs. The clock starts when the first one is ready."""
        assert self._stack is not None, "workers of a stack that others run cannot be stopped"
        names = [instance_name("worker", at) for at in range(1, self._options.workers + 1)]
        for name in names:
            self._stack.stop_part(name)
        self._post(authors)
        _wait(lambda: outbox.unsent(self._stores.engine) == 0)
        for name in names:
            self._stack.start_part(name)
        ready = [self._stack.data_dir / "run" / f"{name}.ready" for name in names]
        return min(path.stat().st_mtime for path in ready)

    def _live(self, authors: Sequence[int]) -> float:
        began_s = time.time()
        self._post(authors)
        return began_s

    def _post(self, authors: Sequence[int]) -> None:
        for at in range(0, len(authors), POST_AT_ONCE):
            part = authors[at : at + POST_AT_ONCE]
            self._publisher.post_many([NewTweet(author, f"Measured tweet of user {author}") for author in part])

    def _incarnations(self) -> Mapping[str, str]:
        return self._stores.clusters.shard_map.copies.incarnations

    def _wait_for(self, wanted: int, before: int, held: Mapping[str, str]) -> None:
        """Until all three clusters have acknowledged; looks seldom at first, since each look costs the nodes time."""
        began_s, deadline_s = time.monotonic(), time.monotonic() + APPLIED_LIMIT_S
        while (now := delivered(self._stores.clusters).deliveries) < wanted:
            if time.monotonic() > deadline_s:
                raise FanfoldError(f"{wanted - now:,} deliveries are missing after {APPLIED_LIMIT_S:g} s")
            refuse_lost_nodes(held, self._incarnations())
            self._watcher.counted(now - before, wanted - before)
            rate = max(now - before, 1) / (time.monotonic() - began_s + POLL_MIN_S)
            time.sleep(min(max((wanted - now) / rate / 4, POLL_MIN_S), POLL_MAX_S))

    def _counted(self) -> tuple[float, float]:
        """Entries that the workers' calls answered as taken, and those of them that came out of order."""
        addresses = [part.address for part in read_status(self._settings).parts if part.name.startswith("worker")]
        totals = read_totals([address for address in addresses if address])
        return totals.get("fanfold_deliveries_total", 0.0), totals.get("fanfold_out_of_order_total", 0.0)

    def _appends(self) -> int:
        """Commands that appended to a list, on all nodes so far; each takes all that a call has for its list."""
        nodes = (self._stores.clusters.node(name) for name in self._stores.clusters.shard_map.nodes)
        said = (node.command("INFO", "commandstats") for node in nodes)
        return sum(stats[command]["calls"] for stats in said for command in APPENDS & stats.keys())

    def _audit(self) -> AuditResult:
        self._watcher.step(f"comparing {3 * self._options.shape.timelines:,} timelines with the database")
        return audit(self._stores.engine, self._stores.timelines, complete=True, progress=self._watcher.counted)

    def _limits(self, stack: Stack, audience: Audience) -> dict[str, list[float]]:
        """In the state that the runs left: the audits are done, so these insertions need not be in the database."""
        clusters, length = self._stores.clusters, self._stores.timelines.live.timeline_entries
        if not self._all_serve():
            self._watcher.step("a node was emptied during the comparison, and is filled again")
            _wait(self._all_serve)
        stack.stop_part("coordinator")  # it would rebuild lists that the copies do not have alike for a moment
        load_limit(clusters)
        snowflakes = Snowflakes(0, lambda: time.time_ns() // 1_000_000)
        found: dict[str, list[float]] = {}
        for number in range(1, self._options.runs + 1):
            for name, function in (("limit", "look_and_append"), ("blind_limit", "append_blindly")):
                self._watcher.step(f"{name.replace('_', ' ')}, run {number} of {self._options.runs}")
                chunks = self._chunks(audience, snowflakes, min(LIMIT_TWEETS, self._options.tweets))
                found.setdefault(name, []).append(measure_limit(clusters, chunks, function, length))
                self._watcher.done(f"{found[name][-1]:,.0f} a second")
        self._watcher.step("a plain pipeline of redis-py, for comparison")
        chunks = self._chunks(audience, snowflakes, min(PLAIN_TWEETS, self._options.tweets))
        found["plain"] = [measure_plain(clusters, chunks, length)]
        self._watcher.done(f"{found['plain'][0]:,.0f} a second")
        return found

    def _all_serve(self) -> bool:
        """Whether all lists are there, since the limits' Functions append to those only."""
        return self._stores.clusters.shard_map.copies.all_serving

    def _chunks(self, audience: Audience, snowflakes: Snowflakes, tweets: int) -> list[Chunk]:
        authors = audience.some_authors(tweets, self._rng)
        return [Chunk(snowflakes.next(), audience.of(author)) for author in authors]


def refuse_lost_nodes(held: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Raises `CheckFailed` when a node does not have the incarnation any more that it held: what it counted is gone."""
    for name in sorted(name for name, incarnation in held.items() if now.get(name) != incarnation):
        raise CheckFailed(f"node {name} was marked down during the run, so there is no figure: the logs say why")


def _wait(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + APPLIED_LIMIT_S
    while not condition():
        if time.monotonic() > deadline_s:
            raise FanfoldError(f"the benchmark waited {APPLIED_LIMIT_S:g} s in vain; the logs say why")
        time.sleep(0.05)
