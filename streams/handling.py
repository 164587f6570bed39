"""What happens when a batch fails: wait for a server that is away, bury what cannot be processed, or end the process.

Nothing is skipped: a message is either applied or in the dead letters before it is acknowledged.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import faust
import structlog

from infra import metrics
from infra.errors import DependencyError, Superseded, Undecodable
from streams.batches import end_process
from streams.dead_letters import DeadLetter, Mistakes
from streams.progress import AGENT_OF, PROGRESS

RETRY_S = 0.5

log = structlog.get_logger()
T = TypeVar("T")
Work = Callable[[Sequence[faust.EventT]], None]


class Burial(Protocol):
    """What takes dead letters."""

    def send(self, letters: Sequence[DeadLetter]) -> None:
        """Returns when they are safe."""


class HasBurial(Protocol):
    """Whatever holds the dead letters."""

    @property
    def dead_letters(self) -> Burial: ...


def run_all(parts: HasBurial, mistakes: Mistakes, work: Work, events: Sequence[faust.EventT]) -> None:
    """Runs a batch; when that fails for an unforeseen reason, each message alone, and those that fail again are
    buried. Too many of them, and the process ends: then the fault is not theirs."""
    try:
        work(events)
    except Exception:
        log.exception("batch failed", messages=len(events))
        for event in events:
            _run_alone(parts, mistakes, work, event)
    mistakes.handled += len(events)


def _run_alone(parts: HasBurial, mistakes: Mistakes, work: Work, event: faust.EventT) -> None:
    try:
        work([event])
    except Exception as error:  # noqa: BLE001 - whatever it is, one message must not stop the others
        if not mistakes.allow():
            end_process(f"{mistakes.made} messages failed for unforeseen reasons, the last one: {error!r}")
        bury(parts, [letter_of(event.message, error)])


def until_done(agent: str, partition: int, work: Callable[[], None], failed: Callable[[], None]) -> None:
    """Runs one batch's work, again while a server is away; ends the process when another worker has the partition."""
    while True:
        try:
            work()
        except Superseded as error:
            metrics.FENCED.labels(agent).inc()
            end_process(f"another worker has this partition: {error}")
        except DependencyError as error:
            log.warning("agent waits", agent=agent, partition=partition, error=str(error))
            PROGRESS.beat((agent, partition), type(error).__name__)
            failed()
            time.sleep(RETRY_S)
        except Exception:
            failed()
            raise
        else:
            return


def readable(parts: HasBurial, events: Sequence[faust.EventT], read: Callable[[Any], T]) -> list[T]:
    """What could be decoded; the rest is in the dead letters when this returns."""
    good: list[T] = []
    letters: list[DeadLetter] = []
    for event in events:
        try:
            good.append(read(event.message))
        except Undecodable as error:
            letters.append(letter_of(event.message, error))
    if letters:
        bury(parts, letters)
    return good


def bury(parts: HasBurial, letters: Sequence[DeadLetter]) -> None:
    """Returns when the broker has the dead letters."""
    while True:
        try:
            parts.dead_letters.send(letters)
        except DependencyError as error:
            log.warning("dead letters wait", error=str(error))
            PROGRESS.beat((AGENT_OF[letters[0].topic], letters[0].partition), "the dead letters' topic")
            time.sleep(RETRY_S)
        else:
            log.error("dead letters sent", topic=letters[0].topic, messages=len(letters), reason=str(letters[0].reason))
            return


def letter_of(message: Any, reason: Exception) -> DeadLetter:
    """A message and why it could not be processed."""
    headers = list(dict(message.headers or {}).items())
    return DeadLetter(message.topic, message.partition, message.offset, message.key, message.value, headers, reason)
