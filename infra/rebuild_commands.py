"""`fanfold rebuild`: timelines built again by hand."""

import sys
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from infra.active_users import count_active
from infra.cli import JsonFlag, print_json, say, settings_of
from infra.composition import stores
from infra.errors import CheckFailed, InvalidInput
from infra.rebuild_by_hand import Asked, Counts, read_asked, rebuild_active, rebuild_asked

SHOWN_MAX = 20  # bad ids that people see; --json has up to 1,000


def rebuild(
    context: typer.Context,
    user: Annotated[list[str] | None, typer.Option("--user", metavar="ID", help="A user's id; repeatable.")] = None,
    users_file: Annotated[Path | None, typer.Option(metavar="FILE", help="A file of ids, one a line.")] = None,
    active: Annotated[bool, typer.Option("--active", help="Every active user.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Build timelines again from the database, although they are there.

    \b
    Home and own timeline and the set of followed celebrities, in each
    cluster after the other, beside live traffic: readers use the other
    copies. Who was not active is then. Exit 1: some were left out; each is
    named.
    """
    if not (user or users_file or active) or (active and (user or users_file)):
        raise InvalidInput("say whose timelines: --user ID, --users-file FILE, or --active")
    # Fails before anything is done; a pipe can be read only once.
    total = 0 if users_file is not None and users_file.is_fifo() else sum(1 for _ in _asked(user or [], users_file))
    began_s = time.monotonic()
    with stores(settings_of(context)) as opened:
        if active:
            counts = _show(rebuild_active(opened), count_active(opened.engine))
        else:
            counts = _show(rebuild_asked(opened, _asked(user or [], users_file)), total)
    _report(counts, time.monotonic() - began_s, as_json)


def _asked(users: list[str], users_file: Path | None) -> Iterator[Asked]:
    of_file = read_asked(users_file) if users_file is not None else iter(())
    return chain(map(Asked, users), of_file)


def _show(work: Iterator[Counts], total: int) -> Counts:
    """Runs it, with a bar on a terminal."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    counts = Counts()
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("users", total=total)
        for counts in work:
            bar.update(task, completed=counts.looked_at, total=max(total, counts.looked_at))
    return counts


def _report(counts: Counts, took_s: float, as_json: bool) -> None:
    if as_json:
        bad = [{"line": one.asked.line, "text": one.asked.text, "why": one.why} for one in counts.named]
        result = {"rebuilt": counts.rebuilt, "bad": counts.bad, "failed": counts.failed, "bad_ids": bad}
        print_json({**result, "took_s": round(took_s, 1)})
    else:
        for one in counts.named[:SHOWN_MAX]:
            say(f"{one.asked.place}: {one.why}")
        if counts.bad > SHOWN_MAX:
            say(f"… and {counts.bad - SHOWN_MAX:,} more")
        typer.echo(f"rebuilt the timelines of {counts.rebuilt:,} {'user' if counts.rebuilt == 1 else 'users'}")
    left_out = f"{counts.bad:,} ids were left out: correct them" if counts.bad else ""
    changed = f"{counts.failed:,} users changed during every try: run it again" if counts.failed else ""
    if left_out or changed:
        raise CheckFailed("; ".join(filter(None, (left_out, changed))))
