"""Commands of `fanfold bench`."""

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer

from infra.cli import EXIT_INTERRUPTED, JsonFlag, print_json, say, settings_of
from infra.errors import CheckFailed

group = typer.Typer(no_args_is_help=True, help="Measure this machine, on a stack that each benchmark starts and stops.")

Timelines = Annotated[int, typer.Option(min=100, max=2_000_000, help="Active users, each with a full home timeline.")]
Entries = Annotated[int, typer.Option(min=16, max=800, help="Entries of each timeline before the first run.")]
FanOut = Annotated[int, typer.Option(min=1, max=10_000, help="Mean number of followers of those who post.")]
Runs = Annotated[int, typer.Option(min=1, max=100, help="Runs of each form; the median counts.")]
Workers = Annotated[int, typer.Option(min=1, max=16, help="Worker processes.")]
Seed = Annotated[int, typer.Option(help="Seed of everything that is made up.")]


class Forms(StrEnum):
    """Which forms to run."""

    BOTH = "both"
    BACKLOG = "backlog"
    LIVE = "live"


@group.command()
def deliveries(
    context: typer.Context,
    timelines: Timelines = 50_000,
    entries: Entries = 800,
    fan_out: FanOut = 300,
    tweets: Annotated[int, typer.Option(min=1, max=1_000_000, help="Tweets of one run.")] = 20_000,
    form: Annotated[Forms, typer.Option(help="Backlog: all is in the log before the clock starts.")] = Forms.BOTH,
    runs: Runs = 3,
    workers: Workers = 1,
    seed: Seed = 7,
    as_json: JsonFlag = False,
) -> None:
    """Deliveries a second, each in three clusters, beside the limits of the same run.

    Every run ends with a comparison of all timelines with the database; without a clean one there is no figure.
    """
    from benchmarks.deliveries import DeliveriesBench, Form, Options
    from benchmarks.deliveries_report import print_deliveries
    from benchmarks.demo_report import Watcher
    from benchmarks.stage import fresh_stack
    from benchmarks.warm_state import Shape, refuse_too_large
    from infra.composition import stores
    from infra.stack.progress import to_standard_error

    shape = Shape(timelines, entries, fan_out)
    forms = tuple(Form) if form is Forms.BOTH else (Form(form),)
    folder, watcher = settings_of(context).data_dir / "bench", Watcher()
    refuse_too_large(shape, tweets * runs * len(forms), *_free(folder))

    def measure() -> Any:
        with fresh_stack(folder, workers, watcher, to_standard_error) as stack, stores(stack.settings()) as opened:
            return DeliveriesBench(Options(shape, tweets, runs, forms, workers, seed), stack, opened, watcher).run()

    report = _interruptible(folder, measure)
    if as_json:
        print_json(report.as_json())
    else:
        print_deliveries(report)
    if not report.clean:
        raise CheckFailed("an audit found differences, so there is no figure; the logs are in " + str(folder / "logs"))


def _free(folder: Path) -> tuple[int, int]:
    """Free memory and disk in bytes."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return psutil.virtual_memory().available, psutil.disk_usage(str(existing)).free


def _interruptible(folder: Path, measure: Callable[[], Any]) -> Any:
    """Runs it; Ctrl-C and SIGTERM stop and remove everything that was started."""
    from benchmarks.stage import remove, stop_once_on_signals

    stop_once_on_signals()
    try:
        return measure()
    except KeyboardInterrupt:
        remove(folder)
        say("interrupted: everything is stopped and removed")
        raise typer.Exit(EXIT_INTERRUPTED) from None
