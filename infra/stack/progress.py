"""What the supervisor tells a person while it works, and how a terminal or a log shows it."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

NAME_WIDTH = 12


@dataclass(frozen=True, slots=True)
class Progress:
    """`waiting` is worth showing only until the next one comes; `done` stays."""

    name: str
    kind: Literal["waiting", "done"]
    text: str


Report = Callable[[Progress], None]


def silent(_: Progress) -> None:
    """Shows nothing."""


def render(progress: Progress, *, live: bool) -> str:
    """The characters to write: on a terminal a waiting line is overwritten by the next, elsewhere it is left out."""
    line = f"  {progress.name:<{NAME_WIDTH}} {progress.text}"
    if not live:
        return line + "\n" if progress.kind == "done" else ""
    return f"\r\x1b[K{line} …" if progress.kind == "waiting" else f"\r\x1b[K{line}\n"


def to_standard_error(progress: Progress) -> None:
    """Shows it to whoever ran the command."""
    sys.stderr.write(render(progress, live=sys.stderr.isatty()))
    sys.stderr.flush()
