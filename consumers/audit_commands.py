"""`fanfold audit`: waits until everything is applied and counted, compares all that the clusters hold, and the
counts of tweets, with the database, and reports."""

import sys
import time
from dataclasses import dataclass, fields
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from consumers.applied import WAIT_S, wait_until_applied, wait_until_folded
from consumers.audit import audit
from consumers.audit_caches import CacheResult, audit_caches
from consumers.audit_counts import CountsResult, audit_counts
from consumers.audit_report import AuditResult, Counts
from infra.cli import JsonFlag, print_json, say, settings_of
from infra.composition import Stores, stores
from infra.errors import CheckFailed, InvalidInput

SAY_EVERY_S = 5.0  # where standard error is not a terminal


@dataclass(frozen=True, slots=True)
class Found:
    """All that one audit found: in home timelines, in what else the clusters hold, and in the counts of tweets."""

    timelines: AuditResult
    caches: CacheResult
    counts: CountsResult

    @property
    def clean(self) -> bool:
        """Whether the check passed."""
        return self.timelines.clean and not self.caches.wrong and not self.counts.wrong

    def as_json(self) -> dict[str, object]:
        """The object that `--json` prints."""
        parts = {"caches": self.caches.as_json(), "counts": self.counts.as_json()}
        return {**self.timelines.as_json(), **parts, "clean": self.clean}


def audit_command(
    context: typer.Context,
    everyone: Annotated[bool, typer.Option("--all", help="All active users; this is the default.")] = False,
    sample: Annotated[int | None, typer.Option(min=1, help="Only this many active users, drawn at random.")] = None,
    complete: Annotated[
        bool, typer.Option("--complete", help="Fail also when an active user's timeline is absent in a copy.")
    ] = False,
    wait_s: Annotated[float, typer.Option(min=0, help="Seconds to wait until every event is applied.")] = WAIT_S,
    as_json: JsonFlag = False,
) -> None:
    """Compare home and user timelines, followed celebrities, bodies and tombstones in all clusters with the database,
    and the counts of tweets. Exit 1 when anything differs."""
    if everyone and sample is not None:
        raise InvalidInput("--all and --sample exclude each other: leave one out")
    settings = settings_of(context)
    with stores(settings) as opened:
        found = _run(opened, settings.need("kafka_bootstrap"), wait_s, sample, complete)
    if as_json:
        print_json(found.as_json())
    else:
        _show(found, Console(file=sys.stdout))
    if not found.clean:
        raise CheckFailed(_verdict(found))


def _run(opened: Stores, bootstrap: str, wait_s: float, sample: int | None, complete: bool) -> Found:
    """The audit, with a live line on standard error when that is a terminal."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("audit", total=None)
        said_s = time.monotonic()

        def waiting(left: str) -> None:
            nonlocal said_s
            bar.update(task, description=f"waits for {left}")
            if not bar.console.is_terminal and time.monotonic() - said_s > SAY_EVERY_S:
                say(f"waits for {left}")
                said_s = time.monotonic()

        wait_until_applied(opened.engine, bootstrap, wait_s, waiting)
        wait_until_folded(opened.engine, bootstrap, wait_s, waiting)  # now too: without counters it ends here
        bar.update(task, description="audited users")
        result = audit(
            opened.engine,
            opened.timelines,
            sample=sample,
            complete=complete,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
        caches = audit_caches(
            opened.engine,
            opened.timelines,
            sample=sample,
            progress=lambda part, cluster, done, total: bar.update(
                task, description=f"audited {part.replace('_', ' ')}, cluster {cluster}", completed=done, total=total
            ),
        )
        wait_until_folded(opened.engine, bootstrap, wait_s, waiting)
        bar.update(task, description="audits counts", completed=0, total=None)
        return Found(result, caches, audit_counts(opened.engine, opened.clusters, sample=sample))


def _show(found: Found, console: Console) -> None:
    """The differences in words, then how many there are."""
    result = found.timelines
    for sentence in (*result.differences, *found.caches.differences, *found.counts.differences):
        console.print(sentence, highlight=False, soft_wrap=True)
    columns = [*result.clusters.values(), result.total]
    table = Table(title=f"{result.active_users:,} active users", box=SIMPLE_HEAD)
    for heading in ("", *(f"cluster {name}" for name in result.clusters), "all"):
        table.add_column(heading, justify="right" if heading else "left")
    for field in fields(Counts):
        table.add_row(field.name, *(f"{getattr(counts, field.name):,}" for counts in columns))
    console.print(table)
    if result.clean:
        console.print("every timeline is exact")
    if not found.caches.wrong:
        held = ", ".join(f"{counts['held']:,} {part.replace('_', ' ')}" for part, counts in found.caches.parts.items())
        console.print(f"what else the clusters hold is right: {held}")
    if not found.counts.wrong:
        console.print(f"the counts of all {found.counts.tweets:,} tweets are right")


def _verdict(found: Found) -> str:
    result, counts, others = found.timelines, found.counts, found.caches.wrong
    wrong, absent = result.total.wrong, result.total.absent
    parts = []
    if wrong:
        parts.append(f"{wrong:,} difference{'s' * (wrong > 1)} between timelines and database")
    if result.complete and absent:
        parts.append(f"{absent:,} absent timeline{'s of active users' if absent > 1 else ' of an active user'}")
    if others:
        parts.append(f"{others:,} difference{'s' * (others > 1)} in what else the clusters hold")
    if counts.wrong:
        parts.append(f"{counts.wrong:,} wrong count{'s' * (counts.wrong > 1)} of tweets")
    return "the audit found " + ", and ".join(parts)
