"""What the demo shows: a line a step with live progress, and a summary that a newcomer understands."""

import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from benchmarks.churn import Churned
from benchmarks.scrape import percentile, read_buckets
from consumers.audit_report import AuditResult
from consumers.read_timeline import Page
from infra.settings import Settings
from infra.shard_map import ShardMap
from infra.stack.status import read_status

LATENCY = "fanfold_delivery_latency_seconds"
BAR_CELLS = 32


@dataclass(frozen=True, slots=True)
class Summary:
    """The demo's result. `deliveries_expected` is None when deletes and unfollows were mixed in."""

    users: int
    follows: int
    tweets: int
    celebrities: int
    active_timelines: int
    deliveries: int
    deliveries_expected: int | None
    deliveries_per_s: float
    seconds: float
    latency_ms: tuple[float, float] | None
    copies: int
    memory_bytes: int
    audit: AuditResult
    churned: Churned | None
    shard_map: ShardMap
    home: tuple[int, Page]

    @property
    def good(self) -> bool:
        """Whether every timeline is right and every expected delivery was made in all three clusters."""
        counted = self.deliveries_expected in (None, self.deliveries)
        read_well = self.churned is None or not self.churned.faults
        return self.audit.clean and read_well and self.copies == len(self.shard_map.placement) and counted

    def as_json(self) -> dict[str, object]:
        """The object that `--json` prints."""
        total = self.audit.total
        p50, p99 = self.latency_ms or (None, None)
        return {
            "users": self.users,
            "follows": self.follows,
            "tweets": self.tweets,
            "celebrities": self.celebrities,
            "active_timelines": self.active_timelines,
            "deliveries": self.deliveries,
            "deliveries_expected": self.deliveries_expected,
            "deliveries_per_s": round(self.deliveries_per_s, 1),
            "seconds": round(self.seconds, 2),
            "latency_ms_p50": p50 and round(p50, 1),
            "latency_ms_p99": p99 and round(p99, 1),
            "copies": self.copies,
            "memory_bytes": self.memory_bytes,
            "audit": asdict(total),
            "churn": self.churned and asdict(self.churned),
        }


def percentiles(settings: Settings) -> tuple[float, float] | None:
    """Publish-to-visible latency, p50 and p99 in milliseconds, from the workers' own histogram."""
    workers = [part.address for part in read_status(settings).parts if part.name.startswith("worker") and part.pid]
    buckets = read_buckets(workers, LATENCY)
    p50, p99 = percentile(buckets, 0.5), percentile(buckets, 0.99)
    return None if p50 is None or p99 is None else (p50 * 1000, p99 * 1000)


class Watcher:
    """Shows steps on standard error: a live bar on a terminal, a line a step elsewhere."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._progress: Progress | None = None
        self._task: TaskID | None = None
        self._posted = 0
        self._said_s = 0.0

    def step(self, name: str) -> None:
        """A new step."""
        self._end()
        self._console.print(f"[bold]→[/bold] {name}")
        self._said_s = time.monotonic()

    def done(self, text: str) -> None:
        """What the step came to."""
        self._end()
        self._console.print(f"  {text}")

    def counted(self, done: int, of: int) -> None:
        """How far the step is."""
        self._show(f"{done:,} of {of:,}", done, of)

    def posted(self) -> None:
        """One more tweet was published."""
        self._posted += 1

    def delivered(self, deliveries: int) -> None:
        """Deliveries so far."""
        self._show(f"{self._posted:,} tweets posted, {deliveries:,} deliveries", deliveries, None)

    def _show(self, text: str, done: int, of: int | None) -> None:
        if sys.stderr.isatty():
            self._bar(text, done, of)
        elif time.monotonic() - self._said_s > 5:
            self._console.print(f"  … {text}")
            self._said_s = time.monotonic()

    def _bar(self, text: str, done: int, of: int | None) -> None:
        if self._progress is None:
            columns = (TextColumn("  {task.description}"), BarColumn(BAR_CELLS), TimeElapsedColumn())
            self._progress = Progress(*columns, console=self._console, transient=True)
            self._task = self._progress.add_task(text, total=of)
            self._progress.start()
        assert self._task is not None
        self._progress.update(self._task, description=text, completed=done, total=of)

    def _end(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress, self._task = None, None


def print_summary(summary: Summary) -> None:
    """The summary for people, on standard output."""
    console = Console(highlight=False, soft_wrap=True)
    console.print("\n[bold]What happened[/bold]")
    rows = [
        ("users", f"{summary.users:,}, all their timelines kept three times, in clusters a, b and c"),
        ("follows", f"{summary.follows:,}"),
        ("celebrities", f"{summary.celebrities}, merged when a timeline is read instead of being delivered"),
        ("tweets", f"{summary.tweets:,}"),
        ("deliveries", f"{summary.deliveries:,} entries, each acknowledged by {summary.copies} clusters"),
        ("speed", f"{summary.deliveries_per_s:,.0f} deliveries a second"),
        ("memory", f"{summary.memory_bytes / 2**20:,.0f} MiB for all servers and processes"),
    ]
    if summary.latency_ms:
        p50, p99 = summary.latency_ms
        rows.append(("latency", f"from publish to visible in all clusters: p50 {p50:,.0f} ms, p99 {p99:,.0f} ms"))
    if summary.churned:
        done = summary.churned
        churned = f"{done.deletes:,} deletes, {done.unfollows:,} unfollows, {done.follows:,} follows"
        rows.append(("churn", f"{churned}, the threshold changed {done.thresholds} times"))
        rows.append(("reads", f"{done.reads:,} pages read meanwhile, wrong: {'; '.join(done.faults) or 'none'}"))
    for name, text in rows:
        console.print(f"  {name:<12} {text}")
    _print_shard_map(console, summary.shard_map)
    _print_home(console, *summary.home)
    _print_audit(console, summary)


def _print_shard_map(console: Console, shard_map: ShardMap) -> None:
    console.print(f"\n[bold]Shard map[/bold], epoch {shard_map.epoch}: which node holds how many of the 1,024 slots")
    for cluster, placement in shard_map.placement.items():
        counts = Counter(placement)
        bars = "  ".join(
            f"{name} {'█' * round(counts[name] / len(placement) * BAR_CELLS)} {counts[name]}" for name in sorted(counts)
        )
        console.print(f"  cluster {cluster}  {bars}")


def _print_home(console: Console, user_id: int, page: Page) -> None:
    console.print(f"\n[bold]The home timeline of user {user_id}[/bold], newest first")
    for tweet in page.tweets:
        console.print(f"  {tweet.created_at:%Y-%m-%d %H:%M:%S}  user {tweet.author_id:<8} {tweet.text}", markup=False)


def _print_audit(console: Console, summary: Summary) -> None:
    total = summary.audit.total
    verdict = "[green]clean[/green]" if summary.audit.clean else "[red]NOT clean[/red]"
    console.print(f"\n[bold]Audit[/bold] against the database: {verdict}")
    console.print(
        f"  {total.timelines:,} timelines with {total.entries:,} entries compared: {total.missing} missing, "
        f"{total.duplicate} duplicate, {total.unexpected} unexpected, {total.misordered} misordered, "
        f"{total.absent} timelines absent"
    )
    for difference in summary.audit.differences:
        console.print(f"  {difference}", markup=False)
    if summary.deliveries_expected is not None and summary.deliveries_expected != summary.deliveries:
        console.print(f"  [red]{summary.deliveries_expected:,} deliveries were expected[/red]")
