"""The command line's frame: finds each folder's commands by entry points, turns errors into exit codes.

Exit 0 done, 1 the check failed, 2 bad use or configuration, 3 a dependency cannot be reached, 130 interrupted.
Results go to standard output, everything else to standard error.
"""

import json
import os
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any

import typer

from infra.errors import FanfoldError
from infra.hiding import hide_secrets
from infra.ids import ID_MAX
from infra.logs import configure_logs
from infra.settings import Settings, load_settings

EXIT_INTERRUPTED = 130  # as shells have it: 128 and SIGINT's number
COMMAND_GROUP = "fanfold.commands"
PANELS = {
    "infra": "1. Stack, set-up and roles",
    "producers": "2. Publishing",
    "streams": "3. Streams",
    "consumers": "4. Reading and checking",
    "benchmarks": "5. Demo and benchmarks",
}

JsonFlag = Annotated[bool, typer.Option("--json", help="Print exactly one JSON object on standard output.")]


def parse_id(text: str) -> int:
    """An id from the command line; the message names the value."""
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= ID_MAX):
        raise typer.BadParameter(f"{text!r} is not an id, which is a whole number from 1 to {ID_MAX}")
    return int(text)


UserId = Annotated[int, typer.Argument(parser=parse_id, metavar="USER", help="A user's id.")]
TweetId = Annotated[int, typer.Argument(parser=parse_id, metavar="TWEET", help="A tweet's id.")]


def settings_of(context: typer.Context) -> Settings:
    """The settings that this run of the command line loaded."""
    settings = context.find_root().obj
    assert isinstance(settings, Settings)
    return settings


def print_json(value: Any) -> None:
    """One JSON object on one line of standard output."""
    sys.stdout.write(json.dumps(value, separators=(",", ":"), ensure_ascii=False) + "\n")
    sys.stdout.flush()


def say(line: str = "") -> None:
    """One line for a person, on standard error."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def build_app(wanted: str | None = None) -> typer.Typer:
    """The command line. With the name of a command only that one is imported: some take a second."""
    app = typer.Typer(
        name="fanfold",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        help="Timeline delivery: tweets to home timelines in three Redis clusters.",
    )

    @app.callback()
    def frame(
        context: typer.Context,
        data_dir: Annotated[
            Path | None, typer.Option(help="Folder of the embedded stack's state (default .fanfold).")
        ] = None,
    ) -> None:
        context.obj = load_settings(os.environ, data_dir)
        configure_logs(context.obj)

    points = sorted(
        entry_points(group=COMMAND_GROUP), key=lambda point: (PANELS[point.module.split(".")[0]], point.name)
    )
    for point in [point for point in points if point.name == wanted] or points:
        command, panel = point.load(), PANELS[point.module.split(".")[0]]
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=point.name, rich_help_panel=panel)
        else:
            app.command(point.name, rich_help_panel=panel)(command)
    return app


def wanted_command(arguments: Sequence[str]) -> str | None:
    """The first word of the command line that is neither an option nor an option's value."""
    words = iter(arguments)
    for word in words:
        if word == "--data-dir":
            next(words, None)
        elif not word.startswith("-"):
            return word
    return None


def data_dir_first(arguments: Sequence[str]) -> list[str]:
    """The same words with `--data-dir`, which may stand anywhere, in front, where the frame takes it."""
    first: list[str] = []
    rest: list[str] = []
    words = iter(arguments)
    for word in words:
        if word == "--":
            return [*first, *rest, word, *words]
        if word == "--data-dir":
            first += [word, *[value for value in [next(words, None)] if value is not None]]
        else:
            (first if word.startswith("--data-dir=") else rest).append(word)
    return [*first, *rest]


def main() -> None:
    """The `fanfold` command."""
    arguments = data_dir_first(sys.argv[1:])
    try:
        build_app(wanted_command(arguments))(arguments, prog_name="fanfold")
    except KeyboardInterrupt:  # while a command was being imported; in one, it is its own to end
        sys.exit(EXIT_INTERRUPTED)
    except FanfoldError as error:
        say(f"fanfold: {hide_secrets(str(error))}")
        sys.exit(error.exit_code)
    except Exception as error:
        if os.environ.get("FANFOLD_LOG_LEVEL") == "debug":
            raise
        say(f"fanfold: something unforeseen went wrong: {type(error).__name__}: {hide_secrets(str(error))}")
        say("FANFOLD_LOG_LEVEL=debug shows where; please report it")
        sys.exit(1)
