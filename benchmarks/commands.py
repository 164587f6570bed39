"""Commands of the top layer: the demo."""

from pathlib import Path
from typing import Annotated

import typer

from infra.cli import EXIT_INTERRUPTED, JsonFlag, print_json, say, settings_of
from infra.errors import CheckFailed, InvalidInput
from infra.stack.progress import to_standard_error

MADE_THRESHOLD = 1_500  # of 20,000 users: several celebrities
GIVEN_THRESHOLD = 10_000


def demo(
    context: typer.Context,
    follows: Annotated[Path | None, typer.Option(help="Follows to use (TSV or CSV) instead of a made graph.")] = None,
    tweets: Annotated[Path | None, typer.Option(help="Tweets to use (JSON lines); needs --follows.")] = None,
    threshold: Annotated[
        int | None, typer.Option(min=1, max=100_000, help="Followers above which an author is a celebrity.")
    ] = None,
    active: Annotated[float, typer.Option(help="Share of users who read before the first tweet.")] = 1.0,
    made_tweets: Annotated[int, typer.Option("--count", min=1, max=1_000_000, help="Tweets to make up.")] = 5_000,
    mix: Annotated[bool, typer.Option(help="Mix deletes, follows and unfollows into made tweets.")] = True,
    churn: Annotated[
        float,
        typer.Option(
            min=0,
            help="Post the tweets over so many seconds, with deletes, unfollows, follows and changes of the threshold "
            "among them, and check every page that readers get meanwhile.",
        ),
    ] = 0.0,
    workers: Annotated[int, typer.Option(min=1, max=16, help="Worker processes.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of everything that is made up.")] = 7,
    as_json: JsonFlag = False,
) -> None:
    """Run the whole main job on real servers, check every timeline, and stop everything.

    Needs nothing that runs. State lives in DATA_DIR/demo meanwhile, and stays there, with the logs, when the demo is
    interrupted or fails.
    """
    from benchmarks.demo import Options, run_demo
    from benchmarks.demo_report import Watcher, print_summary
    from benchmarks.stage import stop_once_on_signals

    options = Options(
        threshold=_default_threshold(follows) if threshold is None else threshold,
        active_share=active,
        seed=seed,
        follows=follows,
        tweets=tweets,
        made_users=20_000,
        made_follows=402_000,
        made_tweets=made_tweets,
        mix=mix,
        churn_s=churn,
        workers=workers,
    )
    _check(options.active_share, follows, tweets)
    stop_once_on_signals()
    try:
        summary = run_demo(options, settings_of(context).data_dir, Watcher(), to_standard_error)
    except KeyboardInterrupt:
        say(f"interrupted: everything is stopped; the logs stay in {settings_of(context).data_dir / 'demo' / 'logs'}")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    if as_json:
        print_json(summary.as_json())
    else:
        print_summary(summary)
    if not summary.good:
        raise CheckFailed("the demo's result is not as the database says it must be")


def _default_threshold(follows: Path | None) -> int:
    return MADE_THRESHOLD if follows is None else GIVEN_THRESHOLD


def _check(active_share: float, follows: Path | None, tweets: Path | None) -> None:
    if not 0 < active_share <= 1:
        raise InvalidInput(f"--active is {active_share}, but must be above 0 and at most 1")
    if (follows is None) != (tweets is None):
        raise InvalidInput("--follows and --tweets belong together: give both, or neither")
    for path in (follows, tweets):
        if path is not None and not path.is_file():
            raise InvalidInput(f"{path} is not a file")
