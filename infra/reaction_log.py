"""The writing end of the topic reactions: a reaction is in the log of every in-sync broker when `send` returns.

Calls of many threads share one producer; another thread serves its reports. Next: counts.py, where a reader sees it.
"""

import threading
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NotInTime
from dataclasses import dataclass

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

    def send(self, reaction: Reaction) -> Placed:
        """Returns where it is, when the broker has it. Raises `KafkaUnavailable`: it may be there all the same, and
        sending it again is safe."""
        return self.send_all([reaction])[0]

    def send_all(self, reactions: Sequence[Reaction]) -> list[Placed]:
        """The same for at most `SEND_MAX`, in this order."""
        assert len(reactions) <= SEND_MAX, "split the batch: the producer's queue is everybody's"
        if not reactions:
            return []
        producer = self._opened()
        waiting = [_produce(producer, reaction) for reaction in reactions]
        try:
            return [one.result(TAKEN_WITHIN_S + REPORT_GRACE_S) for one in waiting]
        except NotInTime:
            raise KafkaUnavailable(f"topic {REACTIONS.name} took no reaction within {TAKEN_WITHIN_S:g} s") from None
        except KafkaException as error:
            self._replace_if_broken(producer, error.args[0])
            raise KafkaUnavailable(
                f"topic {REACTIONS.name} did not take a reaction: {error.args[0].str()}; is it there? "
                "`fanfold topics create` makes it"
            ) from error

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

    def _replace_if_broken(self, producer: Producer, error: KafkaError) -> None:
        """An idempotent producer that met a fatal error takes nothing any more: the next caller gets another one."""
        if error.fatal() or error.code() == KafkaError._FATAL:  # noqa: SLF001 - part of librdkafka's interface
            with self._lock:
                if self._producer is producer:
                    self._producer = None


def _produce(producer: Producer, reaction: Reaction) -> "Future[Placed]":
    placed: Future[Placed] = Future()

    def report(error: KafkaError | None, message: Message) -> None:
        if error is None:
            placed.set_result(Placed(message.partition(), message.offset()))
        else:
            placed.set_exception(KafkaException(error))

    try:
        producer.produce(
            REACTIONS.name,
            encode_reaction(reaction),
            reaction.key,
            headers=headers_of(reaction, uuid.uuid4().hex, trace.current()),
            on_delivery=report,
        )
    except BufferError:  # as many wait already as the producer holds: who comes now need not wait for them
        placed.set_exception(KafkaException(KafkaError(KafkaError._QUEUE_FULL)))  # noqa: SLF001
    except KafkaException as error:
        placed.set_exception(error)
    return placed
