"""`fanfold up`, `down` and `status`."""

from typing import Annotated

import typer

from infra.cli import JsonFlag, print_json, say, settings_of
from infra.errors import InvalidInput
from infra.settings import Settings


def up(
    context: typer.Context,
    detach: Annotated[bool, typer.Option("--detach", help="Go on in the background once everything is ready.")] = False,
    without: Annotated[list[str] | None, typer.Option(help="Leave out a role; may be repeated.")] = None,
    workers: Annotated[int, typer.Option(min=1, max=64, help="How many workers to start.")] = 1,
    servers_only: Annotated[bool, typer.Option("--servers-only", help="No tables, no topics, no roles.")] = False,
) -> None:
    """Start the embedded stack and all roles; Ctrl-C, SIGTERM or `fanfold down` stops them."""
    from infra.stack import run
    from infra.stack.roles import ROLE_NAMES, role_named

    left_out = {role_named(name).name for name in without or ()}
    if workers > 1 and ("worker" in left_out or servers_only):
        raise InvalidInput("--workers says how many workers to start, and this leaves them out")
    roles = () if servers_only else tuple(name for name in ROLE_NAMES if name not in left_out)
    wish = run.Wish(
        roles=roles, workers=workers, prepare=not servers_only, wanted_ports=_wanted_ports(settings_of(context))
    )
    if detach:
        run.run_in_background(settings_of(context).data_dir, _same_words(without, workers, servers_only))
    else:
        run.run_in_foreground(settings_of(context).data_dir, wish)


def down(context: typer.Context) -> None:
    """Stop a stack that runs, or clean up after one that was killed."""
    from infra.stack.stop import stop_stack

    stop_stack(settings_of(context).data_dir)


def status(context: typer.Context, as_json: JsonFlag = False) -> None:
    """Show each part of the running stack, and the lag of both agents."""
    from infra.stack.status import read_status, table

    found = read_status(settings_of(context))
    if as_json:
        print_json(found.as_json())
    elif found.running:
        for line in table(found):
            print(line)  # noqa: T201 – the result of the command
    if not found.running:
        say(f"no stack is running in {settings_of(context).data_dir}: `fanfold up` starts one")
        raise typer.Exit(3)


def _wanted_ports(settings: Settings) -> dict[str, int]:
    """A port for the API that the person chose. The default of the setting is no choice: any free port will do."""
    return {} if settings.api_port == Settings().api_port else {"api": settings.api_port}


def _same_words(without: list[str] | None, workers: int, servers_only: bool) -> list[str]:
    words = [word for name in without or () for word in ("--without", name)]
    return [*words, "--workers", str(workers), *(["--servers-only"] if servers_only else [])]
