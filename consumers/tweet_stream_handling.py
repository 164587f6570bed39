"""What `TweetStream.run` does with an event: its handler is called, again if that fails, and at last it is buried.

Nothing is skipped: an event is handled or in the dead letters before it counts as processed.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from random import Random, SystemRandom
from typing import Protocol

import structlog

from consumers.tweet_stream_events import Event
from consumers.tweet_stream_letters import GroupLetters
from consumers.tweet_stream_reading import Item
from infra.dead_letters import brief, class_name
from infra.errors import DependencyError, InvalidInput
from infra.retry import Backoff

AWAY = Backoff(first_s=0.1, max_s=2.0)  # a server that is away: without end, since nothing may be skipped
FAILED = Backoff(first_s=0.2, max_s=5.0)
TRIES_MAX = 100

Handle = Callable[[Event], object]

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Retries:
    """How often a handler that fails is called for one event in all, and the bounds of the waits between (each is drawn
    from 0 to a bound that doubles). By default five times within some three seconds."""

    tries_max: int = 5
    backoff: Backoff = FAILED

    def __post_init__(self) -> None:
        if not 1 <= self.tries_max <= TRIES_MAX:
            raise InvalidInput(f"{self.tries_max} tries are not between 1 and {TRIES_MAX}")


class Waiting(Protocol):
    """What of a stream is needed here."""

    @property
    def stopped(self) -> bool:
        """Whether to break off."""

    def wait(self, seconds: float, because: str) -> None:
        """Waits, and stays in the group."""

    def still_has(self, event: Event) -> bool:
        """Whether the event is still this member's."""

    def note_buried(self) -> None:
        """One more is in the dead letters."""


def handled(stream: Waiting, letters: GroupLetters, item: Item, handle: Handle, retries: Retries) -> bool:
    """True when the event is handled or buried; False when the stream was stopped, or somebody else has the event."""
    rng, event = SystemRandom(), item.event
    failure = _tried(stream, event, handle, retries, rng)
    if failure is None:
        return True
    if stream.stopped or not stream.still_has(event):
        return False
    for wait_s in AWAY.waits_s(rng):
        try:
            letters.bury_failed(item.message, failure, _name_of(handle))
        except DependencyError as error:
            stream.wait(wait_s, brief(error))
            if stream.stopped or not stream.still_has(event):
                return False
        else:
            stream.note_buried()
            break
    return True


def _tried(stream: Waiting, event: Event, handle: Handle, retries: Retries, rng: Random) -> Exception | None:
    """None when it is handled; the last failure when it is to be buried, or when trying was broken off."""
    bounded_s = islice(retries.backoff.waits_s(rng), retries.tries_max - 1)
    endless_s = AWAY.waits_s(rng)
    while True:
        try:
            handle(event)
        except Exception as error:  # noqa: BLE001 - the decision is another try, or the dead letters
            wait_s = next(endless_s if isinstance(error, DependencyError) else bounded_s, None)
            if wait_s is None:
                return error
            log.warning("handler failed", partition=event.partition, offset=event.offset, error=brief(error))
            stream.wait(wait_s, f"{class_name(type(error))}: {brief(error)}")
            if stream.stopped or not stream.still_has(event):
                return error
        else:
            return None


def _name_of(handle: Handle) -> str:
    """A function's name with its module, or the class of another callable."""
    named = handle if hasattr(handle, "__qualname__") else type(handle)
    return f"{named.__module__}.{named.__qualname__}"
