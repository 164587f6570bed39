"""Commands of `fanfold bench`."""

import sys
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import psutil
import typer

from infra.cli import EXIT_INTERRUPTED, JsonFlag, print_json, say, settings_of
from infra.errors import CheckFailed, InvalidInput

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

    from benchmarks.stage import Ground
    from infra.settings import Settings

TWEETS_PER_S_MAX = 2_000  # that single posts can reach on any machine this runs on: only for the estimate of disk

group = typer.Typer(no_args_is_help=True, help="Measure this machine, on a stack that each benchmark starts and stops.")

Timelines = Annotated[int, typer.Option(min=100, max=2_000_000, help="Active users, each with a full home timeline.")]
Entries = Annotated[int, typer.Option(min=16, max=800, help="Entries of each timeline before the first run.")]
FanOut = Annotated[int, typer.Option(min=1, max=10_000, help="Mean number of followers of those who post.")]
Runs = Annotated[int, typer.Option(min=1, max=100, help="Runs of each form; the median counts.")]
Workers = Annotated[int, typer.Option(min=1, max=16, help="Worker processes.")]
Running = Annotated[
    bool,
    typer.Option(
        "--running",
        help="On the stack that runs (DATA_DIR's, or the one that FANFOLD_… names). What is written stays there.",
    ),
]
BesideOtherData = Annotated[
    bool, typer.Option("--beside-other-data", help="With --running: also when that stack holds users already.")
]
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
    entries: Entries = 480,
    fan_out: FanOut = 300,
    tweets: Annotated[int, typer.Option(min=1, max=1_000_000, help="Tweets of one run.")] = 20_000,
    form: Annotated[Forms, typer.Option(help="Backlog: all is in the log before the clock starts.")] = Forms.BOTH,
    runs: Runs = 3,
    workers: Workers = 1,
    running: Running = False,
    beside_other_data: BesideOtherData = False,
    seed: Seed = 7,
    as_json: JsonFlag = False,
) -> None:
    """Deliveries a second, each in three clusters, beside the limits of the same run.

    Every run ends with a comparison of all timelines with the database; without a clean one there is no figure.
    """
    from benchmarks.deliveries import DeliveriesBench, Form, Options
    from benchmarks.deliveries_report import print_deliveries
    from benchmarks.warm_state import Shape, refuse_too_large

    if running and form is not Forms.LIVE:
        raise InvalidInput("--running has no backlog form, which stops workers: add --form live")
    shape = Shape(timelines, entries, fan_out)
    forms = tuple(Form) if form is Forms.BOTH else (Form(form),)
    options = Options(shape, tweets, runs, forms, workers, seed)
    settings = settings_of(context)
    refuse_too_large(shape, tweets * runs * len(forms), *_free(settings.data_dir))
    ground = _ground(settings, workers, running=running, beside_other_data=beside_other_data)
    report = _measured(ground, lambda opened: DeliveriesBench(options, opened).run())
    _show(report, print_deliveries, as_json)
    if not report.clean:
        raise CheckFailed("an audit found differences, so there is no figure")


@group.command()
def latency(
    context: typer.Context,
    timelines: Timelines = 50_000,
    entries: Entries = 400,
    fan_out: FanOut = 300,
    idle_rate: Annotated[float, typer.Option(min=0.1, max=1_000, help="Tweets a second when idle.")] = 5.0,
    seconds: Annotated[float, typer.Option(min=1, max=3_600, help="Length of each phase.")] = 60.0,
    workers: Workers = 1,
    running: Running = False,
    beside_other_data: BesideOtherData = False,
    seed: Seed = 7,
    as_json: JsonFlag = False,
) -> None:
    """From the publish call to visible in all three clusters: percentiles when idle and at half of the maximum.

    Open loop: tweets come at random times whether the system keeps up or not. The maximum is measured in the same run.
    """
    from benchmarks.latency import LatencyBench, Options, print_latency
    from benchmarks.warm_state import Shape, refuse_too_large

    shape, settings = Shape(timelines, entries, fan_out), settings_of(context)
    refuse_too_large(shape, round(seconds * (idle_rate + TWEETS_PER_S_MAX)), *_free(settings.data_dir))
    options = Options(shape, idle_rate, seconds, workers, seed)
    ground = _ground(settings, workers, running=running, beside_other_data=beside_other_data)
    report = _measured(ground, lambda opened: LatencyBench(options, opened).run())
    _show(report, print_latency, as_json)
    if not report.audit.clean:
        raise CheckFailed("the audit found differences, so there is no figure")


@group.command()
def publish(
    context: typer.Context,
    tweets: Annotated[int, typer.Option(min=1_000, max=10_000_000, help="Tweets by post_many, each time.")] = 50_000,
    seconds: Annotated[float, typer.Option(min=1, max=3_600, help="Length of each phase of single posts.")] = 20.0,
    workers: Workers = 1,
    as_json: JsonFlag = False,
) -> None:
    """Tweets a second by post_many, by single posts and over HTTP, durable, beside the limits of the same run.

    For authors without followers and for authors with 100 each. A comparison of all timelines with the database ends
    it; without a clean one there is no figure.
    """
    from benchmarks.publish import Options, PublishBench, print_publish

    ground = _ground(settings_of(context), workers, running=False, beside_other_data=False)
    report = _measured(ground, lambda opened: PublishBench(Options(tweets, seconds, workers), opened).run())
    _show(report, print_publish, as_json)
    if not report.audit.clean:
        raise CheckFailed("the audit found differences, so there is no figure")


@group.command()
def read(
    context: typer.Context,
    timelines: Timelines = 50_000,
    entries: Entries = 480,
    fan_out: FanOut = 300,
    followees: Annotated[
        int, typer.Option(min=1, max=100_000, help="Authors of the reader who follows very many, of 100 tweets each.")
    ] = 10_000,
    seconds: Annotated[float, typer.Option(min=1, max=3_600, help="Length of each phase.")] = 10.0,
    runs: Runs = 3,
    workers: Workers = 1,
    seed: Seed = 7,
    as_json: JsonFlag = False,
) -> None:
    """Home reads of 20 tweets a second in one process, beside bare redis-py with the same commands in the same run.

    Then their latency at half of that rate while deliveries run at half speed, and first reads, which rebuild.
    """
    from benchmarks.read import Options, ReadBench
    from benchmarks.read_report import print_read
    from benchmarks.warm_state import Shape, refuse_too_large

    shape, settings = Shape(timelines, entries, fan_out), settings_of(context)
    refuse_too_large(shape, round(seconds * TWEETS_PER_S_MAX), *_free(settings.data_dir))
    options = Options(shape, seconds, runs, followees, workers, seed)
    ground = _ground(settings, workers, running=False, beside_other_data=False)
    report = _measured(ground, lambda opened: ReadBench(options, opened).run())
    _show(report, print_read, as_json)
    if not report.audit.clean:
        raise CheckFailed("the audit found differences, so there is no figure")


@group.command()
def repair(
    context: typer.Context,
    timelines: Timelines = 100_000,
    entries: Entries = 400,
    fan_out: FanOut = 300,
    runs: Annotated[int, typer.Option(min=1, max=100, help="Repairs from each source; the median counts.")] = 1,
    workers: Workers = 1,
    seed: Seed = 7,
    as_json: JsonFlag = False,
) -> None:
    """Entries restored a second into an emptied cluster while nothing else runs: from another cluster, and then from
    the database.

    Every repair ends with a comparison of all timelines with the database; without a clean one there is no figure.
    """
    from benchmarks.repair import Options, RepairBench
    from benchmarks.repair_report import print_repair
    from benchmarks.warm_state import Shape, refuse_too_large

    shape, settings = Shape(timelines, entries, fan_out), settings_of(context)
    refuse_too_large(shape, 0, *_free(settings.data_dir))
    ground = _ground(settings, workers, running=False, beside_other_data=False)

    def measure(opened: "Ground") -> Any:
        assert opened.stack is not None, "it kills nodes: on a stack of its own only"
        return RepairBench(Options(shape, runs, workers, seed), opened, opened.stack).run()

    report = _measured(ground, measure)
    _show(report, print_repair, as_json)
    if not report.clean:
        raise CheckFailed("an audit found differences, so there is no figure")


@group.command()
def index(
    context: typer.Context,
    users: Annotated[int, typer.Option(min=100, max=100_000_000, help="Users; many of them are followed.")] = 1_000_000,
    follows: Annotated[int, typer.Option(min=100, help="Follows in all.")] = 10_000_000,
    runs: Annotated[int, typer.Option(min=1, max=100, help="Fresh processes; the median counts.")] = 3,
    seed: Seed = 7,
    as_json: JsonFlag = False,
) -> None:
    """The follower index built from cold, and the memory that a worker has then."""
    from benchmarks.demo_report import Watcher
    from benchmarks.index import IndexOptions, run_index
    from infra.stack.progress import to_standard_error

    options, data_dir = IndexOptions(users, follows, runs, seed), settings_of(context).data_dir
    result = _interruptible(lambda: run_index(options, data_dir, Watcher(), to_standard_error))
    _show(result, lambda shown: print_pairs(shown.as_json()), as_json)


@group.command()
def tail(
    context: typer.Context,
    events: Annotated[int, typer.Option(min=1_000, max=100_000_000, help="Events in the log.")] = 1_000_000,
    runs: Annotated[int, typer.Option(min=1, max=100, help="Times to read it both ways; the median counts.")] = 3,
    as_json: JsonFlag = False,
) -> None:
    """The activity log read for one author of a hundred, beside a bare loop that only counts, in the same run."""
    from benchmarks.demo_report import Watcher
    from benchmarks.tail import TailOptions, run_tail
    from infra.stack.progress import to_standard_error

    options, data_dir = TailOptions(events, runs), settings_of(context).data_dir
    result = _interruptible(lambda: run_tail(options, data_dir, Watcher(), to_standard_error))
    _show(result, lambda shown: print_pairs(shown.as_json()), as_json)


@group.command()
def replay(
    context: typer.Context,
    timelines: Timelines = 50_000,
    entries: Entries = 480,
    fan_out: FanOut = 300,
    tweets: Annotated[int, typer.Option(min=1, max=1_000_000, help="Tweets to replay.")] = 10_000,
    workers: Workers = 1,
    seed: Seed = 7,
    as_json: JsonFlag = False,
) -> None:
    """Entries a second that a replay from the database brings into full timelines, each compared with the database.

    It ends with a comparison of all timelines; without a clean one there is no figure.
    """
    from benchmarks.replay import Options, ReplayBench, print_replay
    from benchmarks.warm_state import Shape, refuse_too_large

    shape, settings = Shape(timelines, entries, fan_out), settings_of(context)
    refuse_too_large(shape, tweets, *_free(settings.data_dir))
    options = Options(shape, tweets, workers, seed)
    ground = _ground(settings, workers, running=False, beside_other_data=False)
    report = _measured(ground, lambda opened: ReplayBench(options, opened).run())
    _show(report, print_replay, as_json)
    if not report.clean:
        raise CheckFailed("the audit found differences, so there is no figure")


def print_pairs(found: Mapping[str, Any]) -> None:
    """Names and values, for people."""
    for name, value in found.items():
        sys.stdout.write(f"{name:<20} {value:,}\n" if isinstance(value, int | float) else f"{name:<20} {value}\n")


def _free(folder: Path) -> tuple[int, int]:
    """Free memory and disk in bytes."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return psutil.virtual_memory().available, psutil.disk_usage(str(existing)).free


def _ground(
    settings: "Settings", workers: int, *, running: bool, beside_other_data: bool
) -> "AbstractContextManager[Ground]":
    from benchmarks.demo_report import Watcher
    from benchmarks.stage import own_ground, running_ground
    from infra.stack.progress import to_standard_error

    if running:
        return running_ground(settings, Watcher(), beside_other_data=beside_other_data)
    return own_ground(settings.data_dir / "bench", workers, Watcher(), to_standard_error)


def _measured(ground: "AbstractContextManager[Ground]", measure: "Callable[[Ground], Any]") -> Any:
    def run() -> Any:
        with ground as opened:
            return measure(opened)

    return _interruptible(run)


def _interruptible(run: Callable[[], Any]) -> Any:
    from benchmarks.stage import stop_once_on_signals

    stop_once_on_signals()
    try:
        return run()
    except KeyboardInterrupt:
        say("interrupted: everything that was started is stopped and removed")
        raise typer.Exit(EXIT_INTERRUPTED) from None


def _show(report: Any, for_people: Callable[[Any], None], as_json: bool) -> None:
    if as_json:
        print_json(report.as_json())
    else:
        for_people(report)
