"""`fanfold replay`: sends activity again, and looks after the jobs that do."""

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from infra.cli import EXIT_INTERRUPTED, JsonFlag, parse_id, print_json, say, settings_of
from infra.composition import Stores, stores
from infra.errors import CheckFailed, InvalidInput, LeaseHeld
from infra.leases import lease, read_lease
from infra.replay import Run
from infra.replay_estimate import Estimate, estimate
from infra.replay_jobs import Job, Jobs, State, lease_of
from infra.replay_pace import TARGET_S, TARGETS_S
from infra.replay_plan import plan_of, total_of
from infra.replay_progress import Progress, progress
from infra.replay_what import Source, What, parse_offsets, parse_time, shown_time
from infra.sessions_of_commands import zookeeper_of
from infra.topics import create_backfill_topic

RATE_DEFAULT = 5_000  # events a second; deliveries bound it before that where authors have many followers
RATE_MAX = 1_000_000
FOLLOW_EVERY_S = 0.5

replays = typer.Typer(help="Send activity again through the agents, or into a topic of its own.")
JobId = Annotated[int, typer.Argument(min=1, metavar="REPLAY", help="A replay's number.")]


@replays.callback(invoke_without_command=True)
def replay(
    context: typer.Context,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="From then on: a time with its zone, a date, or a tweet's id.")
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Before then; until now without it.")] = None,
    offsets: Annotated[
        list[str] | None, typer.Option(metavar="P:FROM-TO", help="Offsets of the activity log; may be repeated.")
    ] = None,
    author: Annotated[
        list[int] | None, typer.Option(parser=parse_id, metavar="ID", help="Only of this user; may be repeated.")
    ] = None,
    followers_of: Annotated[
        int | None, typer.Option(parser=parse_id, metavar="ID", help="Only of the users who follow this one.")
    ] = None,
    source: Annotated[Source, typer.Option(help="Where it is read; auto: the log, and before it the database.")] = (
        Source.AUTO
    ),
    topic: Annotated[
        str | None, typer.Option(metavar="NAME", help="Into this topic, for a new reader, instead of the timelines.")
    ] = None,
    rate: Annotated[int, typer.Option(help="Events a second, at most.")] = RATE_DEFAULT,
    live_wait: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            help="For how long live tweets may wait behind what is sent again; the longer, the more is sent at once.",
        ),
    ] = TARGET_S,
    execute: Annotated[bool, typer.Option("--execute", help="Do it; without this, only say what it would do.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Send activity again: what was posted, deleted, followed, in a range of time or of offsets.

    \b
    It goes through the same agents as live activity, behind it, and is
    compared with the database where it is applied: what is right stays as
    it is, and nothing deleted or unfollowed comes back. The last hour again:
      fanfold replay --since 2026-11-26T09:00:00+01:00 --execute
    Ctrl-C pauses it; a replay whose process dies is taken over by the
    coordinator. Commands for those that there are stand below.
    """
    if context.invoked_subcommand is not None:
        return
    if not 1 <= rate <= RATE_MAX:
        raise InvalidInput(f"--rate is {rate}, and must be from 1 to {RATE_MAX:,} events a second")
    if not TARGETS_S[0] <= live_wait <= TARGETS_S[1]:  # nan is not either
        raise InvalidInput(
            f"--live-wait is {live_wait:g}, and must be from {TARGETS_S[0]:g} to {TARGETS_S[1]:g} seconds"
        )
    settings = settings_of(context)
    what = _what(since, until, offsets or [], author or [], followers_of, source, topic)
    with stores(settings) as opened:
        bootstrap = settings.need("kafka_bootstrap")
        now_ms = time.time_ns() // 1_000_000
        plan = plan_of(opened.engine, bootstrap, what, now_ms)
        total = total_of(opened.engine, plan)
        if not execute:
            job = Job(0, what, plan, rate, total, now_ms, now_ms, position=plan.start(), live_wait_s=live_wait)
            _say_what_it_would_do(job, estimate(opened.engine, bootstrap, job), as_json)
            return
        if what.topic is not None:
            create_backfill_topic(bootstrap, what.topic)
        job = Jobs(opened.zookeeper).create(what, plan, rate, total, live_wait)
        say(f"replay {job.id}: {what}")
        _run(opened, bootstrap, job, as_json)


@replays.command("list")
def list_replays(context: typer.Context, as_json: JsonFlag = False) -> None:
    """Show the replays that there are, and the last ones that are over."""
    with zookeeper_of(context) as zookeeper:
        jobs = Jobs(zookeeper).all()
    if as_json:
        print_json({"replays": [job.as_json() for job in jobs]})
        return
    table = Table(box=SIMPLE_HEAD)
    for heading in ("replay", "state", "sent", "looked at", "of about", "what"):
        table.add_column(heading, justify="left" if heading in ("state", "what") else "right")
    for job in jobs:
        numbers = (f"{count:,}" for count in (job.counts.sent, job.counts.looked, job.total))
        table.add_row(str(job.id), job.state.value, *numbers, str(job.what))
    Console(file=sys.stdout, highlight=False).print(table if jobs else "there are no replays")


@replays.command()
def show(context: typer.Context, job_id: JobId, as_json: JsonFlag = False) -> None:
    """Show one replay: what it sends, how far it is, and who runs it."""
    with zookeeper_of(context) as zookeeper:
        job, standing = Jobs(zookeeper).get(job_id), read_lease(zookeeper, lease_of(job_id))
    if as_json:
        print_json({**job.as_json(), "runner": None if standing is None else standing.holder.as_json()})
        return
    typer.echo(f"replay {job.id} is {job.state.value}{': ' + job.reason if job.reason else ''}")
    typer.echo(f"  {job.what}, at most {job.rate:,} events a second; live tweets wait about {job.live_wait_s:g} s")
    typer.echo(f"  {job.counts.sent:,} events sent, {job.counts.looked:,} of about {job.total:,} looked at")
    typer.echo(f"  created {shown_time(job.created_ms)}, changed {shown_time(job.changed_ms)}")
    typer.echo(f"  run by {standing.holder if standing else 'nobody'}")


@replays.command()
def pause(context: typer.Context, job_id: JobId, as_json: JsonFlag = False) -> None:
    """Stop a replay where it is; `resume` goes on."""
    _change(context, job_id, State.PAUSED, as_json)


@replays.command()
def cancel(context: typer.Context, job_id: JobId, as_json: JsonFlag = False) -> None:
    """End a replay for good. What it has sent stays, and does no harm."""
    _change(context, job_id, State.CANCELLED, as_json)


@replays.command()
def resume(context: typer.Context, job_id: JobId, as_json: JsonFlag = False) -> None:
    """Go on with a replay that is paused or has failed, from where it is; or watch it where another runs it."""
    settings = settings_of(context)
    with stores(settings) as opened:
        job = Jobs(opened.zookeeper).change(job_id, State.RUNNING)
        _run(opened, settings.need("kafka_bootstrap"), job, as_json)


def _change(context: typer.Context, job_id: int, wanted: State, as_json: bool) -> None:
    with zookeeper_of(context) as zookeeper:
        job = Jobs(zookeeper).change(job_id, wanted)
    if as_json:
        print_json(job.as_json())
    else:
        typer.echo(f"replay {job.id} is {job.state.value}, with {job.counts.sent:,} events sent")


def _what(
    since: str | None,
    until: str | None,
    offsets: list[str],
    authors: list[int],
    followers_of: int | None,
    source: Source,
    topic: str | None,
) -> What:
    """What the options mean. Says so where a time has no zone."""
    times = []
    for option, text in (("--since", since), ("--until", until)):
        given = None if text is None else parse_time(option, text)
        if given is not None and given.assumed_utc:
            say(f"{option} {text} has no time zone and is taken as {shown_time(given.time_ms)}, which is UTC")
        times.append(None if given is None else given.time_ms)
    ranges = [parse_offsets(text) for text in offsets]
    if len({partition for partition, _ in ranges}) < len(ranges):
        raise InvalidInput("--offsets name one partition twice: give each one range")
    return What(source, times[0], times[1], dict(ranges), tuple(dict.fromkeys(authors)), followers_of, topic)


def _say_what_it_would_do(job: Job, found: Estimate, as_json: bool) -> None:
    if as_json:
        print_json({"executed": False, "what": job.what.encode(), "rate": job.rate, **found.as_json()})
        return
    about = "" if found.is_whole else "about "
    typer.echo(f"would send {about}{found.events:,} events again, {job.what}")
    if job.what.topic is None:
        typer.echo(f"  that is up to {found.deliveries:,} deliveries, by how many follow each author now")
    if found.unreadable:
        typer.echo(f"  {found.unreadable:,} messages cannot be read and are left out")
    typer.echo(f"  at {job.rate:,} events a second at least {found.about_s:,.0f} s; it waits for live activity")
    typer.echo("nothing was sent: --execute does it")


def _run(opened: Stores, bootstrap: str, job: Job, as_json: bool) -> None:
    """Runs it here, or watches it where another does, until it is over or paused."""
    began_s = time.monotonic()
    with progress(job) as shown, _signals() as (stop, interrupted):
        try:
            with lease(opened.zookeeper, lease_of(job.id)) as held:
                job = Run(opened, bootstrap, Jobs(opened.zookeeper).get(job.id), held, stop, shown).run()
        except LeaseHeld:
            job = _follow(opened, job.id, stop, shown)
        if interrupted.is_set() and job.state is State.RUNNING:
            job = Jobs(opened.zookeeper).change(job.id, State.PAUSED)
    if as_json:
        print_json({"executed": True, **job.as_json(), "took_s": round(time.monotonic() - began_s, 1)})
    _end(job, interrupted.is_set())


def _follow(opened: Stores, job_id: int, stop: threading.Event, shown: Progress) -> Job:
    say(f"another process runs replay {job_id}; this one only watches")
    while True:
        job = Jobs(opened.zookeeper).get(job_id)
        shown(job)
        if job.state is not State.RUNNING or stop.wait(FOLLOW_EVERY_S):
            return job


def _end(job: Job, interrupted: bool) -> None:
    """The last sentence, and the exit code."""
    sent = f"{job.counts.sent:,} events sent"
    if job.state is State.DONE:
        say(f"replay {job.id} is done: {sent}")
    elif job.state is State.FAILED:
        raise CheckFailed(
            f"replay {job.id} has failed, with {sent}: {job.reason}; `fanfold replay resume {job.id}` tries again from "
            "there, and where the log has lost what comes next a new one with --source auto reads the database"
        )
    elif job.state is State.RUNNING:
        say(f"replay {job.id} goes on without this process once a coordinator takes it over: {sent} so far")
        raise typer.Exit(EXIT_INTERRUPTED)
    elif job.state is State.CANCELLED:
        raise CheckFailed(f"replay {job.id} was cancelled, with {sent}")
    else:
        say(f"replay {job.id} is paused, with {sent}: `fanfold replay resume {job.id}` goes on")
        raise typer.Exit(EXIT_INTERRUPTED if interrupted else 1)


@contextmanager
def _signals() -> Iterator[tuple[threading.Event, threading.Event]]:
    """Ends the run at SIGINT, which pauses the job, and at SIGTERM, after which another process may go on."""
    stop, interrupted = threading.Event(), threading.Event()

    def end(number: int, _: object) -> None:
        if number == signal.SIGINT:
            interrupted.set()
        stop.set()

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop, interrupted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
