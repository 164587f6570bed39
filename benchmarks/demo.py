"""The demo: the whole main job on real servers, from an empty folder to a checked result.

Stack up, a social graph imported, users made active by reading, tweets published, every timeline compared with the
database, all stopped. With given files nothing is mixed in, so every delivery can be counted. Next: demo_report.py.
"""

import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path

import numpy as np
import sqlalchemy as sa

from benchmarks.churn import Churned, churn, given_posts
from benchmarks.demo_report import Summary, Watcher, percentiles
from benchmarks.graph import Graph, make_authors, make_graph, make_texts, write_follows
from benchmarks.stage import fresh_stack
from benchmarks.traffic import run_traffic, split
from consumers.applied import wait_until_applied
from consumers.audit import audit
from consumers.delivered import Delivered, delivered, expected_deliveries
from consumers.read_timeline import Page, TimelineReader
from infra.composition import Stores, stores
from infra.database import reading
from infra.errors import FanfoldError
from infra.live_settings import set_live_settings
from infra.paging import Cursor
from infra.rebuild import BATCH_USERS_MAX
from infra.settings import Settings
from infra.stack.progress import Report
from infra.stack.status import read_status
from infra.zookeeper import ZooKeeper
from producers.importer import import_follows, import_tweets
from producers.publish import Publisher
from producers.status_keeper import due_steps

FIRST_READS_AT_ONCE = 3
APPLIED_LIMIT_S = 1_800.0
POLL_S = 0.05
LIVE_SETTINGS_LIMIT_S = 10.0


@dataclass(frozen=True, slots=True)
class Options:
    """What the demo does. `follows` and `tweets` are given files; without them a graph is made."""

    threshold: int
    active_share: float
    seed: int
    follows: Path | None
    tweets: Path | None
    made_users: int
    made_follows: int
    made_tweets: int
    mix: bool
    churn_s: float  # given tweets are posted over so many seconds, with churn; 0: imported as they are
    workers: int


def run_demo(options: Options, data_dir: Path, watcher: Watcher, report: Report) -> Summary:
    """Runs everything on a stack of its own below `data_dir`."""
    with (
        fresh_stack(data_dir / "demo", options.workers, watcher, report) as stack,
        stores(stack.settings()) as opened,
        tempfile.TemporaryDirectory(prefix="fanfold-demo-") as scratch,
    ):
        return Demo(options, stack.settings(), opened, watcher, Path(scratch)).run()


class Demo:
    """One run over a stack that is up."""

    def __init__(self, options: Options, settings: Settings, opened: Stores, watcher: Watcher, scratch: Path) -> None:
        self._options = options
        self._settings = settings
        self._stores = opened
        self._watcher = watcher
        self._scratch = scratch
        self._reader = TimelineReader(opened)
        self._rng = np.random.default_rng(options.seed)
        self._churned: Churned | None = None

    def run(self) -> Summary:
        """Import, first reads, tweets, audit."""
        self._set_threshold()
        graph = self._import_graph()
        active = self._first_reads()
        seconds, counted = self._publish(graph)
        expected = None if self._mixes else expected_deliveries(self._stores.engine)
        memory_bytes = read_status(self._settings).as_json()["memory_bytes"]
        latency = percentiles(self._settings)
        self._watcher.step(f"comparing {3 * active:,} timelines with the database")
        result = audit(self._stores.engine, self._stores.timelines, complete=True, progress=self._watcher.counted)
        return Summary(
            **self._table_sizes(),
            active_timelines=active,
            deliveries=counted.deliveries,
            deliveries_expected=expected,
            deliveries_per_s=counted.deliveries / seconds,
            seconds=seconds,
            latency_ms=latency,
            copies=counted.copies,
            memory_bytes=memory_bytes,
            audit=result,
            churned=self._churned,
            shard_map=self._stores.clusters.shard_map,
            home=self._a_home(),
        )

    @property
    def _mixes(self) -> bool:
        return bool(self._options.churn_s) or (self._options.tweets is None and self._options.mix)

    def _set_threshold(self) -> None:
        zookeeper = ZooKeeper(self._settings.zookeeper_hosts)
        try:
            set_live_settings(zookeeper, threshold=self._options.threshold)
        finally:
            zookeeper.close()
        _wait(lambda: self._stores.timelines.live.threshold == self._options.threshold, LIVE_SETTINGS_LIMIT_S)

    def _import_graph(self) -> Graph | None:
        graph, path = None, self._options.follows
        if path is None:
            graph = make_graph(self._options.made_users, self._options.made_follows, self._rng)
            path = self._scratch / "follows.tsv"
            write_follows(graph, path)
        self._watcher.step("importing the social graph")
        result = import_follows(
            self._stores.engine,
            path,
            threshold=self._options.threshold,
            bad_lines=self._scratch / "follows.bad.tsv",
            progress=self._watcher.counted,
        )
        self._watcher.done(f"{result.imported:,} follows, {result.celebrities} celebrities, {result.bad} bad lines")
        return graph

    def _first_reads(self) -> int:
        """Users become active by reading: each first read rebuilds the timeline in all three clusters."""
        with reading(self._stores.engine) as connection:
            users = list(connection.execute(sa.text("SELECT id FROM users ORDER BY id")).scalars())
        chosen = users if self._options.active_share == 1 else self._some(users)
        self._watcher.step(f"{len(chosen):,} users read their home timelines for the first time")
        batches = [chosen[at : at + BATCH_USERS_MAX] for at in range(0, len(chosen), BATCH_USERS_MAX)]
        done = 0
        with ThreadPoolExecutor(FIRST_READS_AT_ONCE) as threads:
            for batch, _ in zip(batches, threads.map(self._reader.warm, batches), strict=True):
                done += len(batch)
                self._watcher.counted(done, len(chosen))
        self._watcher.done(f"{len(chosen):,} active users")
        return len(chosen)

    def _some(self, users: Sequence[int]) -> list[int]:
        size = round(len(users) * self._options.active_share)
        return [int(user) for user in self._rng.choice(users, size=size, replace=False)]

    def _publish(self, graph: Graph | None) -> tuple[float, Delivered]:
        """Seconds from the first commit to the last acknowledged delivery, and what was delivered."""
        self._watcher.step("publishing tweets and delivering them")
        with self._shown_deliveries():
            began_s = time.monotonic()
            if self._options.churn_s:
                self._churn(graph)
            elif self._options.tweets is not None:
                bad_lines = self._scratch / "tweets.bad.tsv"
                import_tweets(self._stores.engine, self._options.tweets, bad_lines=bad_lines)
            else:
                self._post_live(graph)
            if not self._mixes:
                expected = expected_deliveries(self._stores.engine)
                _wait(lambda: delivered(self._stores.clusters).deliveries >= expected, APPLIED_LIMIT_S)
            else:
                self._wait_until_applied()
            seconds = time.monotonic() - began_s
            self._wait_until_applied()
        counted = delivered(self._stores.clusters)
        self._watcher.done(f"{counted.deliveries:,} deliveries in {timedelta(seconds=round(seconds))}")
        return seconds, counted

    def _post_live(self, graph: Graph | None) -> None:
        assert graph is not None, "made tweets need a made graph"
        count = self._options.made_tweets
        posts = list(zip(make_authors(graph, count, self._rng), make_texts(count, self._rng), strict=True))
        with Publisher(self._stores) as publisher:
            run_traffic(publisher, graph, split(posts, self._options.seed), self._watcher.posted, mix=self._mixes)

    def _churn(self, graph: Graph | None) -> None:
        if self._options.tweets is not None:
            posts = given_posts(self._options.tweets)
        else:
            assert graph is not None, "made tweets need a made graph"
            count = self._options.made_tweets
            posts = list(zip(make_authors(graph, count, self._rng), make_texts(count, self._rng), strict=True))
        self._churned = churn(self._stores, posts, self._options.churn_s, self._options.seed, self._watcher.posted)
        threshold = partial(due_steps, self._stores.engine, self._options.threshold)
        _wait(lambda: not threshold(), APPLIED_LIMIT_S)

    def _wait_until_applied(self) -> None:
        wait_until_applied(self._stores.engine, self._settings.kafka_bootstrap, APPLIED_LIMIT_S)

    @contextmanager
    def _shown_deliveries(self) -> Iterator[None]:
        """Shows the deliveries counted so far, twice a second."""
        stop = threading.Event()

        def show() -> None:
            while not stop.wait(0.5):
                with suppress(FanfoldError):  # a node that is away for a moment only stops the display
                    self._watcher.delivered(delivered(self._stores.clusters).deliveries)

        thread = threading.Thread(target=show)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()

    def _table_sizes(self) -> dict[str, int]:
        with reading(self._stores.engine) as connection:
            return {
                "users": connection.execute(sa.text("SELECT count(*) FROM users")).scalar_one(),
                "follows": connection.execute(sa.text("SELECT count(*) FROM follows")).scalar_one(),
                "tweets": connection.execute(sa.text("SELECT count(*) FROM tweets")).scalar_one(),
                "celebrities": connection.execute(
                    sa.text("SELECT count(*) FROM users WHERE status <> 'push'")
                ).scalar_one(),
            }

    def _a_home(self) -> tuple[int, Page]:
        """The home timeline of an active user who follows many."""
        with reading(self._stores.engine) as connection:
            user_id = connection.execute(
                sa.text(
                    "SELECT follower_id FROM follows JOIN users ON users.id = follower_id "
                    "WHERE active_until > now() GROUP BY follower_id ORDER BY count(*) DESC, follower_id LIMIT 1"
                )
            ).scalar_one()
        return user_id, self._reader.home(user_id, Cursor(limit=8))


def _wait(condition: Callable[[], bool], limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            raise FanfoldError(f"the demo waited {limit_s:g} s in vain; `fanfold status` and the logs say why")
        time.sleep(POLL_S)
