"""A relay that stops at one place and says so, for test_publishing.py and test_take_over.py.

It is the real relay in a process of its own, and only pauses. Over a pipe it tells each state that it enters, and that
it is held; then the test kills it there, or freezes it. Processes are forked from one that has the modules: 50 kills
would cost half a minute of imports.
"""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from multiprocessing.connection import Connection
from threading import Event

import sqlalchemy as sa

from infra import kafka
from infra.database import make_engine
from infra.health import Health, State
from infra.kafka import Claim, Message, TransactionalProducer
from infra.settings import Settings
from producers.relay import Relay

HELD = "held"
WORD_WITHIN_S = 30.0

FORKED = multiprocessing.get_context("forkserver")
FORKED.set_forkserver_preload([__name__, "producers.publish"])


class Place(StrEnum):
    """Where it holds."""

    OWNED = "owned"  # it has the outbox, and no producer yet
    READ = "read"  # rows are read; their transaction has not begun
    BUFFERED = "buffered"  # the producer has them all, and the commit will make them count
    SENT = "sent"  # Kafka has acknowledged the commit; the rows are still there
    REMOVED = "removed"  # PostgreSQL has executed their removal


class TellingHealth(Health):
    """Says each state that the role enters."""

    def __init__(self, pipe: Connection) -> None:
        super().__init__()
        self._pipe = pipe

    def enter(self, state: State, why: str = "") -> None:
        super().enter(state, why)
        self._pipe.send(state.value)


def run(settings: Settings, place: Place | None, passes: int, pipe: Connection) -> None:
    """The relay's process. It goes by its place `passes` times, and is held once."""
    left = passes

    def at(here: Place) -> None:
        nonlocal left
        if here is place:
            left -= 1
            if left == -1:
                pipe.send(HELD)
                pipe.recv()

    engine = make_engine(settings.database_url)
    hold_relay(engine, at)
    Relay(engine, settings.database_url, settings.kafka_bootstrap).run(Event(), TellingHealth(pipe))


def hold_relay(engine: sa.Engine, at: Callable[[Place], None]) -> None:
    send, relay_while_owned = TransactionalProducer.send, Relay._relay_while_owned

    def holding_send(
        self: TransactionalProducer, messages: Iterable[Message], claim: Claim | None = None
    ) -> dict[kafka.Place, int]:
        at(Place.READ)
        behind = send(self, then(messages, lambda: at(Place.BUFFERED)), claim)
        at(Place.SENT)
        return behind

    def holding_owner(self: Relay, stop: Event, health: Health) -> None:
        at(Place.OWNED)
        relay_while_owned(self, stop, health)

    def after_statement(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("DELETE FROM outbox"):
            at(Place.REMOVED)

    sa.event.listen(engine, "after_cursor_execute", after_statement)
    TransactionalProducer.send = holding_send  # type: ignore[method-assign]
    Relay._relay_while_owned = holding_owner  # type: ignore[method-assign]


def then(messages: Iterable[Message], held: Callable[[], None]) -> Iterator[Message]:
    """`send` asks for one message more after it has handed the last one to the producer."""
    yield from messages
    held()


class HoldingProcess:
    """The test's side of one such process: `run` is given its end of the pipe last."""

    def __init__(self, run: Callable[..., None], *given: object) -> None:
        self._pipe, theirs = FORKED.Pipe()
        self._process = FORKED.Process(target=run, args=(*given, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def wait_for(self, word: str) -> list[str]:
        """What it said until then."""
        words: list[str] = []
        deadline_s = time.monotonic() + WORD_WITHIN_S
        while self._pipe.poll(max(0.0, deadline_s - time.monotonic())):
            words.append(self._pipe.recv())
            if words[-1] == word:
                return words
        raise AssertionError(f"waited {WORD_WITHIN_S} s in vain for {word!r}; it said {words}")

    def freeze(self) -> None:
        """Until it is thawed."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on from where it was held."""
        self._pipe.send("go")
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """By SIGKILL."""
        self._process.kill()
        self._process.join()
        self._pipe.close()

    def _signal(self, number: signal.Signals) -> None:
        assert self._process.pid is not None
        os.kill(self._process.pid, number)


@contextmanager
def holding_relay(settings: Settings, place: Place | None = None, passes: int = 0) -> Iterator[HoldingProcess]:
    """A relay that is held at its `place`, if it has one; it is killed at the end."""
    relay = HoldingProcess(run, settings, place, passes)
    try:
        yield relay
    finally:
        relay.kill()
