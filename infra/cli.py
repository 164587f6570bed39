"""The command line's frame: finds each folder's commands by entry points, turns errors into exit codes.

Exit 0 done, 1 the check failed, 2 bad use or configuration, 3 a dependency cannot be reached.
Results go to standard output, everything else to standard error.
"""

import json
import os
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any

import typer

from infra.errors import FanfoldError
from infra.logs import configure_logs
from infra.settings import Settings, load_settings

COMMAND_GROUP = "fanfold.commands"

JsonFlag = Annotated[bool, typer.Option("--json", help="Print exactly one JSON object on standard output.")]


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


def build_app() -> typer.Typer:
    """The whole command line: the frame and every folder's commands."""
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

    for point in sorted(entry_points(group=COMMAND_GROUP), key=lambda point: point.name):
        point.load()(app)
    return app


def main() -> None:
    """The `fanfold` command."""
    try:
        build_app()()
    except FanfoldError as error:
        say(f"fanfold: {error}")
        sys.exit(error.exit_code)
