"""The writing end of the topic reactions: a reaction is in the log of every in-sync broker once its place is known.

Calls of many threads share one producer; another thread serves its reports. Next: counts.py, where a reader sees it.
"""

import threading
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotInTime
from dataclasses import dataclass
from functools import partial

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from infra import trace
from infra.errors import Closed, KafkaUnavailable
from infra.kafka import producer_config
from infra.reactions import Reaction, encode_reaction, headers_of
from infra.topics import REACTIONS

# A caller waits for no longer. A broker that restarts is back within it; what it reports as too late may be in the log
# all the same, and saying it again does no harm.
TAKEN_WITHIN_S = 5.0
REPORT_GRACE_S = 2.0  # the report of a message that was given up comes a little after its time
SERVE_POLL_S = 0.1  # how soon the serving thread sees that it may end; reports wake it at once
SEND_MAX = 1_000  # reactions that one caller has under way: 0.5 MB, far below the producer's own queue


@dataclass(frozen=True, slots=True)
class Placed:
    """Where a reaction is in the log."""

    partition: int
    offset: int


class ReactionLog:
    """Sends reactions. Connects at the first one. Safe to share between threads; close it once.

    `bootstrap` gives the broker's address; what it raises when there is none reaches the caller.
    """

    def __init__(self, bootstrap: Callable[[], str]) -> None:
        self._bootstrap = bootstrap
        self._producer: Producer | None = None
        self._server: threading.Thread | None = None
        self._closed = threading.Event()
        self._lock = threading.Lock()

    def submit(self, reaction: Reaction) -> "Future[Placed]":
        """Where it is, or `KafkaUnavailable`, by `TAKEN_WITHIN_S`; nobody can take it out again. After the error it may
        be there all the same, and sending it again is safe. Raises `Closed`."""
        producer = self._opened()
        return _produce(producer, reaction, partial(self._refused, producer))

    def send(self, reaction: Reaction) -> Placed:
        """The same, and waits for it."""
        return self.send_all([reaction])[0]

    def send_all(self, reactions: Sequence[Reaction]) -> list[Placed]:
        """The same for at most `SEND_MAX`, in this order."""
        assert len(reactions) <= SEND_MAX, "split the batch: the producer's queue is everybody's"
        return list(map(await_placed, [self.submit(reaction) for reaction in reactions]))

    def close(self) -> None:
        """Nothing is sent any more; who still waits is told so within `TAKEN_WITHIN_S`."""
        with self._lock:
            self._closed.set()
            producer, server, self._producer = self._producer, self._server, None
        if producer is not None and server is not None:
            server.join()
            producer.flush(TAKEN_WITHIN_S)

    def _opened(self) -> Producer:
        with self._lock:
            if self._closed.is_set():
                raise Closed("the log of reactions is closed: nothing new is taken; open another one")
            if self._producer is None:
                within = {"message.timeout.ms": int(TAKEN_WITHIN_S * 1000)}
                self._producer = Producer(producer_config(self._bootstrap()) | within)
            if self._server is None:
                self._server = threading.Thread(target=self._serve, name="reactions", daemon=True)
                self._server.start()
            return self._producer

    def _serve(self) -> None:
        while not self._closed.is_set():
            producer = self._producer
            if producer is None:
                self._closed.wait(SERVE_POLL_S)
            else:
                producer.poll(SERVE_POLL_S)

    def _refused(self, producer: Producer, error: KafkaError) -> KafkaUnavailable:
        """What the caller gets. An idempotent producer that met a fatal error takes nothing any more: the next caller
        gets another one."""
        if error.fatal() or error.code() == KafkaError._FATAL:  # noqa: SLF001 - part of librdkafka's interface
            with self._lock:
                if self._producer is producer:
                    self._producer = None
        hint = "is it there? `fanfold topics create` makes it"
        return KafkaUnavailable(f"topic {REACTIONS.name} did not take a reaction: {error.str()}; {hint}")


def await_placed(placed: "Future[Placed]") -> Placed:
    """The place, in bounded time. Raises `KafkaUnavailable`."""
    try:
        return placed.result(TAKEN_WITHIN_S + REPORT_GRACE_S)
    except NotInTime:
        raise KafkaUnavailable(f"topic {REACTIONS.name} took no reaction within {TAKEN_WITHIN_S:g} s") from None


def _produce(
    producer: Producer, reaction: Reaction, refused: Callable[[KafkaError], KafkaUnavailable]
) -> "Future[Placed]":
    placed: Future[Placed] = Future()
    placed.set_running_or_notify_cancel()  # so whoever goes away cannot cancel it, and the report finds it open

    def report(error: KafkaError | None, message: Message) -> None:
        if error is None:
            placed.set_result(Placed(message.partition(), message.offset()))
        else:
            placed.set_exception(refused(error))

    try:
        producer.produce(
            REACTIONS.name,
            encode_reaction(reaction),
            reaction.key,
            headers=headers_of(reaction, uuid.uuid4().hex, trace.current()),
            on_delivery=report,
        )
    except BufferError:  # as many wait already as the producer holds: who comes now need not wait for them
        placed.set_exception(refused(KafkaError(KafkaError._QUEUE_FULL)))  # noqa: SLF001
    except KafkaException as error:
        placed.set_exception(refused(error.args[0]))
    return placed
