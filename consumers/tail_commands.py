"""`fanfold tail`: the activity of all authors, as it was and as it happens."""

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated

import sqlalchemy as sa
import typer

from consumers.tail_text import event_line
from consumers.tweet_stream import TweetStream
from consumers.tweet_stream_events import Event, event_json
from consumers.tweet_stream_filter import Filter, parse_types
from consumers.tweet_stream_options import StreamOptions
from infra import social
from infra.cli import EXIT_INTERRUPTED, say, settings_of
from infra.composition import stores
from infra.events import ActivityType
from infra.log_start import FORMS, Start, parse_start

FROM_DEFAULT = "10m"
TYPES = ", ".join(one.value for one in ActivityType)


def tail(
    context: typer.Context,
    start: Annotated[
        str | None,
        typer.Option("--from", metavar="WHERE", help=f"{FORMS} (default {FROM_DEFAULT}; with --follow now)."),
    ] = None,
    author: Annotated[
        list[str] | None,
        typer.Option(metavar="USER", help="Only events of this author, by id or handle; may be given again."),
    ] = None,
    types: Annotated[
        list[str] | None, typer.Option("--type", metavar="TYPE", help=f"Only {TYPES}; may be given again.")
    ] = None,
    grep: Annotated[
        str | None, typer.Option(metavar="TEXT", help="Only posted tweets that contain this, in any case of letters.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what happens from now on.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object for each event, on a line.")] = False,
) -> None:
    """Show what authors do: tweets posted and deleted, follows, changes of status.

    \b
    What happened in the last ten minutes, and as it happens:
      fanfold tail
      fanfold tail --follow
    From a time on (without a zone it is UTC), from the oldest event that
    Kafka still has, or from offsets (partition:offset; a partition that is
    not named begins now):
      fanfold tail --from 2026-01-31T12:00+01:00
      fanfold tail --from beginning
      fanfold tail --from 0:120,3:57
    What ann and user 7 posted about Kafka in two hours, for a program:
      fanfold tail --from 2h --author ann --author 7 --type posted \\
        --grep kafka --json

    \b
    Events of one author come in their order; those of several authors are
    not sorted. A tweet that was deleted since has no text any more. Ctrl-C
    ends it. Nothing is moved or marked: everybody may look at any time.
    """
    settings = settings_of(context)
    begin, said = parse_start(start, _now_ms()) if start is not None else _default_start(follow=follow)
    wanted = parse_types(types or ())
    if said:
        say(f"fanfold: {said}")
    with stores(settings) as opened:
        only = Filter(wanted, _authors(opened.engine, author or ()), grep)
        options = StreamOptions(start=begin, only=only, follow=follow)
        with TweetStream(settings.need("kafka_bootstrap"), options, opened.bodies) as stream:
            interrupted = _stop_on_signals(stream)
            _print_all(stream.batches(), _json_line if as_json else event_line)
    if interrupted and not follow:  # with --follow there is no other end
        raise typer.Exit(EXIT_INTERRUPTED)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _default_start(*, follow: bool) -> tuple[Start, str]:
    return (Start.now(), "") if follow else parse_start(FROM_DEFAULT, _now_ms())


def _authors(engine: sa.Engine, names: Sequence[str]) -> frozenset[int]:
    """Raises `NotFound` for a user who does not exist."""
    return frozenset(social.user_named(engine, name).id for name in names)


def _json_line(event: Event) -> str:
    return json.dumps(event_json(event), separators=(",", ":"), ensure_ascii=False)


def _stop_on_signals(stream: TweetStream) -> list[int]:
    """Ctrl-C and SIGTERM end the stream; the list has their numbers then."""
    numbers: list[int] = []

    def stop(number: int, _: object) -> None:
        numbers.append(number)
        stream.stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    return numbers


def _print_all(batches: Iterable[Sequence[Event]], line: Callable[[Event], str]) -> None:
    """Returns also when nobody reads the output any more, as after `| head`."""
    try:
        for batch in batches:
            sys.stdout.write("".join(line(event) + "\n" for event in batch))
            sys.stdout.flush()
    except BrokenPipeError:
        # What is still buffered would be written at the end of the process, which complains.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
