"""How far a replay is, for whoever waits for it: a bar on a terminal, a line of JSON a time elsewhere."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from infra.cli import say
from infra.replay_jobs import Job

SAY_EVERY_S = 5.0

Progress = Callable[[Job], None]


@contextmanager
def progress(job: Job) -> Iterator[Progress]:
    """What is told of the job as it goes on."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _lines(job)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("looked at · {task.fields[sent]:,} sent · {task.fields[rate]:,.0f}/s"),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task(f"replay {job.id}", total=max(job.total, 1), sent=job.counts.sent, rate=0.0)
        rate = _Rate(job)

        def show(now: Job) -> None:
            total = max(now.total, now.counts.looked, 1)
            bar.update(task, completed=now.counts.looked, total=total, sent=now.counts.sent, rate=rate.of(now))

        yield show


def _lines(job: Job) -> Progress:
    rate, said_s = _Rate(job), time.monotonic()

    def show(now: Job) -> None:
        nonlocal said_s
        if time.monotonic() - said_s < SAY_EVERY_S:
            return
        said_s, events_per_s = time.monotonic(), rate.of(now)
        left = max(now.total - now.counts.looked, 0)
        looked_per_s = rate.looked_per_s(now)
        line = {
            "replay": now.id,
            "state": now.state.value,
            "sent": now.counts.sent,
            "looked": now.counts.looked,
            "total": now.total,
            "events_per_s": round(events_per_s, 1),
            "left_s": round(left / looked_per_s, 1) if looked_per_s else None,
        }
        say(json.dumps(line))

    return show


class _Rate:
    """Of this runner, since it began."""

    def __init__(self, job: Job) -> None:
        self._before = job.counts
        self._began_s = time.monotonic()

    def of(self, job: Job) -> float:
        return (job.counts.sent - self._before.sent) / self._took_s()

    def looked_per_s(self, job: Job) -> float:
        return (job.counts.looked - self._before.looked) / self._took_s()

    def _took_s(self) -> float:
        return max(time.monotonic() - self._began_s, 0.001)
