"""`fanfold import`: files of follows and of tweets, with a progress bar and a summary."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from infra.cli import EXIT_INTERRUPTED, JsonFlag, print_json, say, settings_of
from infra.composition import stores
from infra.database import make_engine
from infra.errors import InvalidInput
from infra.role import stop_on_signals
from producers import importer
from producers.import_files import check_is_file
from producers.importer import ImportResult

SAY_EVERY_S = 5.0  # where standard error is not a terminal

group = typer.Typer(no_args_is_help=True, help="Bring in files; the same file again goes on or changes nothing.")

FileToImport = Annotated[Path, typer.Argument(metavar="FILE", show_default=False)]
Name = Annotated[
    str | None, typer.Option(help="Import under this name instead of the file's: the same name is imported once.")
]
Strict = Annotated[bool, typer.Option("--strict", help="Stop at the first bad line and change nothing.")]
BadLines = Annotated[
    Path | None, typer.Option(help="Where the bad lines go (by default <file name>.bad.tsv in the current folder).")
]


@group.command("follows")
def import_follows(
    context: typer.Context,
    file: FileToImport,
    name: Name = None,
    strict: Strict = False,
    bad_lines: BadLines = None,
    as_json: JsonFlag = False,
) -> None:
    """Import follows: TSV or CSV with columns follower and author (user ids), header or not, gzip or not."""
    check_is_file(file)
    with stores(settings_of(context)) as opened, progress_of(file) as progress:
        result = importer.import_follows(
            opened.engine,
            file,
            threshold=opened.timelines.live.threshold,
            name=name,
            strict=strict,
            bad_lines=bad_lines,
            progress=progress,
            stop=stop_on_signals(),
        )
    report("follow", file, result, as_json)


@group.command("tweets")
def import_tweets(
    context: typer.Context,
    file: FileToImport,
    name: Name = None,
    strict: Strict = False,
    bad_lines: BadLines = None,
    as_json: JsonFlag = False,
) -> None:
    """Import tweets: JSON lines with author, text and created_at (ISO 8601 with a time zone), gzip or not."""
    check_is_file(file)
    engine = make_engine(settings_of(context).need("database_url"))
    try:
        with progress_of(file) as progress:
            result = importer.import_tweets(
                engine,
                file,
                name=name,
                strict=strict,
                bad_lines=bad_lines,
                progress=progress,
                stop=stop_on_signals(),
            )
    finally:
        engine.dispose()
    report("tweet", file, result, as_json)


def report(what: str, file: Path, result: ImportResult, as_json: bool) -> None:
    """The summary, and the exit code. Raises `InvalidInput` when every line was bad."""
    if as_json:
        print_json(asdict(result))
    for line in summary(what, file, result):
        say(line)
    if not result.complete:
        raise typer.Exit(EXIT_INTERRUPTED)
    if result.bad and result.bad == result.lines:
        raise InvalidInput(f"no line of {file} is a good one; {result.bad_lines_file} says why")


def summary(what: str, file: Path, result: ImportResult) -> Iterator[str]:
    """What happened, for a person."""
    if result.complete and result.already == result.lines > 0:
        yield f"{file} is already imported ({_count(result.lines, 'line')}); nothing changed"
        return
    yield f"imported {_count(result.imported, what)} of {_count(result.lines, 'line')} from {file}"
    if result.already:
        yield f"  {_count(result.already, 'line')} imported before or there already"
    if result.users_created:
        yield f"  {_count(result.users_created, 'user')} created"
    if result.bad:
        yield f"  {_count(result.bad, 'bad line')} left out, with numbers and reasons in {result.bad_lines_file}"
    if what == "follow":
        yield f"  celebrities now: {result.celebrities:,}"
    if not result.complete:
        yield "stopped; run the same command again to go on"


@contextmanager
def progress_of(file: Path) -> Iterator[importer.Progress]:
    """Shows progress on standard error: a bar on a terminal, else a line every few seconds."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _line_every(SAY_EVERY_S, file)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        MofNCompleteColumn(),
        TextColumn("lines"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(file.name, total=None)

        def show(lines: int, of: int) -> None:
            bar.update(task, completed=lines, total=of)

        yield show


def _line_every(seconds: float, file: Path) -> importer.Progress:
    last = time.monotonic()

    def show(lines: int, of: int) -> None:
        nonlocal last
        if time.monotonic() - last >= seconds:
            last = time.monotonic()
            say(f"{file.name}: {lines:,} of {of:,} lines")

    return show


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
