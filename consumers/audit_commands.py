"""`fanfold audit`: waits until everything is applied and counted, compares every timeline and every tweet's counts with
the database, reports."""

import sys
import time
from dataclasses import fields
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from consumers.applied import WAIT_S, wait_until_applied, wait_until_folded
from consumers.audit import audit
from consumers.audit_counts import CountsResult, audit_counts
from consumers.audit_report import AuditResult, Counts
from infra.cli import JsonFlag, print_json, say, settings_of
from infra.composition import Stores, stores
from infra.errors import CheckFailed, InvalidInput

SAY_EVERY_S = 5.0  # where standard error is not a terminal


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
    """Compare home timelines in all clusters with the database, entry by entry, and the counts of tweets. Exit 1 when
    anything differs."""
    if everyone and sample is not None:
        raise InvalidInput("--all and --sample exclude each other: leave one out")
    settings = settings_of(context)
    with stores(settings) as opened:
        result, counts = _run(opened, settings.need("kafka_bootstrap"), wait_s, sample, complete)
    clean = result.clean and not counts.wrong
    if as_json:
        print_json({**result.as_json(), "counts": counts.as_json(), "clean": clean})
    else:
        _show(result, counts, Console(file=sys.stdout))
    if not clean:
        raise CheckFailed(_verdict(result, counts))


def _run(
    opened: Stores, bootstrap: str, wait_s: float, sample: int | None, complete: bool
) -> tuple[AuditResult, CountsResult]:
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
        bar.update(task, description="audited users")
        result = audit(
            opened.engine,
            opened.timelines,
            sample=sample,
            complete=complete,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
        wait_until_folded(opened.engine, bootstrap, wait_s, waiting)
        bar.update(task, description="audits counts", completed=0, total=None)
        return result, audit_counts(opened.engine, opened.clusters, sample=sample)


def _show(result: AuditResult, counts: CountsResult, console: Console) -> None:
    """The differences in words, then how many there are."""
    for sentence in (*result.differences, *counts.differences):
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
    if not counts.wrong:
        console.print(f"the counts of all {counts.tweets:,} tweets are right")


def _verdict(result: AuditResult, counts: CountsResult) -> str:
    wrong, absent = result.total.wrong, result.total.absent
    parts = []
    if wrong:
        parts.append(f"{wrong:,} difference{'s' * (wrong > 1)} between timelines and database")
    if result.complete and absent:
        parts.append(f"{absent:,} absent timeline{'s of active users' if absent > 1 else ' of an active user'}")
    if counts.wrong:
        parts.append(f"{counts.wrong:,} wrong count{'s' * (counts.wrong > 1)} of tweets")
    return "the audit found " + ", and ".join(parts)
