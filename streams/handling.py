"""What happens when a batch fails: wait for a server that is away, try again, bury what cannot be processed, or end.

Nothing is skipped: a message is either applied or in the dead letters before it is acknowledged.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import islice, takewhile
from random import Random, SystemRandom
from typing import Any, Generic, Protocol, TypeVar

import faust
import structlog

from infra import metrics
from infra.dead_letters import DeadLetter, Stage, brief, class_name
from infra.errors import DependencyError, Superseded, Undecodable
from infra.readiness import EXIT_NOT_AGAIN
from infra.retry import Backoff, retried
from infra.topics import MESSAGE_BYTES_MAX, dead_letters_of
from streams.dead_letter_share import DeadLetterShare
from streams.ending import end_process
from streams.progress import AGENT_OF, PROGRESS

# A server that is away: without end, since nothing may be skipped; on average a try a second.
AWAY = Backoff(first_s=0.1, max_s=2.0)
# An unforeseen failure: three tries, so two waits of at most 0.1 and 0.2 s, of the batch and of each message that still
# fails alone. However many those are, no further try begins 2 s after the first failure: with the tries themselves a
# batch stays well below the 8 s that a stop waits for it, and the 10 s of the session.
FAILED = Backoff(first_s=0.1, max_s=0.2)
FAILED_TRIES_MAX = 3
FAILED_WITHIN_S = 2.0

log = structlog.get_logger()
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Part(Generic[T]):
    """Decoded messages of one partition and one generation of the group.

    `goes_on` is the offset from which the group may read on once the effect of these is there: the one behind them, or
    the one where their batch begins, as long as something of that may have to be buried.
    """

    partition: int
    generation: int
    goes_on: int
    decoded: Sequence[T]


# Of several partitions: True when the effect of all of them is there.
Together = Callable[[Sequence[Part[T]]], bool]


class Burial(Protocol):
    """What takes dead letters."""

    def send(self, letters: Sequence[DeadLetter]) -> None:
        """Returns when they are safe."""


class Work(Protocol[T]):
    """An agent's work. Both may be called again with the same messages."""

    def read(self, message: Any) -> T:
        """The decoded message; raises `Undecodable`."""

    def run(self, part: Part[T]) -> None:
        """Returns when the effect of these is there, if there are any: behind what was buried only the group moves."""


@dataclass(frozen=True, slots=True)
class Handling(Generic[T]):
    """How one agent handles its batches. Safe to share between the threads of its partitions."""

    agent: str
    work: Work[T]
    burial: Burial
    share: DeadLetterShare
    rng: Random
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic

    def patience(self) -> Callable[[], float]:
        """The time after which nothing is tried again: first asked for, and thereby set, at the first failure, so a
        wait for a server that was away does not count. One for all batches of a round: a stop waits for the round."""
        return cache(lambda: self.clock() + FAILED_WITHIN_S)

    def handle(self, events: Sequence[faust.EventT], until_s: Callable[[], float]) -> None:
        """Returns when each of a batch's messages is applied or buried; or ends the process.

        Idempotent by the work; a crash in between brings the batch again, and doubles a dead letter at worst.
        """
        messages, decoded, letters = self._read([event.message for event in events])
        first, behind = events[0].message, events[-1].message.offset + 1
        if messages:  # a batch, and then each message that still fails alone, after a bounded number of tries
            goes_on = first.offset if letters else behind
            part = Part(first.partition, first.generation_id, goes_on, decoded)
            letters += self._run(part, messages, first.offset, until_s, retries=True)
        if refusal := self.share.refuses(len(events), len(letters)):
            self._end(refusal, letters[-1])
        if letters:
            bury(self.burial, sorted(letters, key=lambda letter: letter.offset), self.rng, self.sleep)
            self.work.run(Part(first.partition, first.generation_id, behind, ()))

    def handle_together(self, batches: Sequence[Sequence[faust.EventT]], together: Together[T]) -> bool:
        """Handles the batches of several partitions as one. False when something stood against it, whatever it was:
        `handle` each of them then, which meets it again where it can be told whose it is."""
        parts: list[Part[T]] = []
        for batch in batches:
            messages, decoded, letters = self._read([event.message for event in batch])
            if letters or len({message.generation_id for message in messages}) > 1:
                return False
            last = batch[-1].message
            parts.append(Part(last.partition, last.generation_id, last.offset + 1, decoded))
        try:
            done = together(parts)
        except Exception as error:  # noqa: BLE001 - the decision is to look at each for itself
            log.info("batches are handled one by one", agent=self.agent, error=brief(error))
            return False
        if done:
            for batch in batches:
                self.share.refuses(len(batch), 0)
        return done

    def _read(self, messages: Sequence[Any]) -> tuple[list[Any], list[T], list[DeadLetter]]:
        readable, decoded, letters = [], list[T](), list[DeadLetter]()
        for message in messages:
            try:
                refuse_unfit(message.value)
                decoded.append(self.work.read(message))
                readable.append(message)
            except Undecodable as error:
                letters.append(self._letter(message, error, Stage.DECODE))
        return readable, decoded, letters

    def _run(
        self, part: Part[T], messages: Sequence[Any], begin: int, until_s: Callable[[], float], *, retries: bool
    ) -> list[DeadLetter]:
        """Runs these; if that fails, their halves, in order: one bad message among 200 costs 16 calls, not 200. Until
        what is bad is buried, the group goes on where the batch begins."""
        waits_s = self._waits_s(until_s) if retries or len(messages) == 1 else iter(())
        try:
            retried(partial(self.work.run, part), waits_s, self._wait)
        except Exception as error:
            if len(messages) == 1:
                return [self._letter(messages[0], error, Stage.HANDLE)]
            if retries:
                log.exception("batch failed", agent=self.agent, messages=len(messages))
            half = len(messages) // 2
            parts = [replace(part, goes_on=begin, decoded=some) for some in (part.decoded[:half], part.decoded[half:])]
            letters = self._run(parts[0], messages[:half], begin, until_s, retries=False)
            return letters + self._run(parts[1], messages[half:], begin, until_s, retries=False)
        return []

    def _waits_s(self, until_s: Callable[[], float]) -> Iterator[float]:
        waits_s = islice(FAILED.waits_s(self.rng), FAILED_TRIES_MAX - 1)
        return takewhile(lambda _: self.clock() < until_s(), waits_s)

    def _wait(self, wait_s: float, error: Exception) -> None:
        log.warning("work failed and is tried again", agent=self.agent, wait_s=round(wait_s, 3), error=brief(error))
        self.sleep(wait_s)

    def _letter(self, message: Any, error: Exception, stage: Stage) -> DeadLetter:
        return letter_of(message, error, stage, self.agent, class_name(type(self.work)))

    def _end(self, refusal: str, last: DeadLetter) -> None:
        end_process(
            f"agent {self.agent} stops: {refusal}. The last error, at {last.place}: {class_name(type(last.reason))}: "
            f"{brief(last.reason)}. This batch is neither buried nor acknowledged. What to do: look at what fails "
            f"(`fanfold dlq list --topic {last.topic}` shows what was buried before), mend the cause and start the "
            "worker again; to bury the messages all the same, start it with a higher FANFOLD_DEAD_LETTER_SHARE_MAX",
            EXIT_NOT_AGAIN,
        )


def refuse_unfit(value: bytes | None) -> None:
    """Raises `Undecodable` for what no message of ours is, whatever its topic would take."""
    if value is None:
        raise Undecodable("the message has no value; each of ours has one")
    if len(value) > MESSAGE_BYTES_MAX:
        raise Undecodable(f"the message has {len(value):,} bytes; ours have at most {MESSAGE_BYTES_MAX:,}")


def until_done(
    agent: str,
    partition: int,
    work: Callable[[], None],
    failed: Callable[[], None],
    *,
    rng: Random | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Runs one batch's work, again while a server is away; ends the process when another worker has the partition."""

    def wait(wait_s: float, error: Exception) -> None:
        log.warning("agent waits", agent=agent, partition=partition, error=brief(error))
        PROGRESS.beat((agent, partition), type(error).__name__)
        failed()
        sleep(wait_s)

    try:
        retried(work, AWAY.waits_s(rng or SystemRandom()), wait, DependencyError)
    except Superseded as error:
        metrics.FENCED.labels(agent).inc()
        end_process(f"another worker has this partition: {error}")
    except Exception:
        failed()
        raise


def bury(burial: Burial, letters: Sequence[DeadLetter], rng: Random, sleep: Callable[[float], None]) -> None:
    """Returns when the broker has the dead letters; waits for it without end, since nothing may be skipped."""
    topic, last = dead_letters_of(letters[0].topic), letters[-1]

    def wait(wait_s: float, error: Exception) -> None:
        log.warning("dead letters wait", topic=topic, messages=len(letters), error=brief(error))
        PROGRESS.beat((AGENT_OF[last.topic], last.partition), "the dead letters' topic")
        sleep(wait_s)

    retried(partial(burial.send, letters), AWAY.waits_s(rng), wait, DependencyError)
    log.error("dead letters sent", topic=topic, messages=len(letters), last=last.place, reason=brief(last.reason))


def letter_of(message: Any, reason: Exception, stage: Stage, agent: str, executing_class: str) -> DeadLetter:
    """A message and why it could not be processed."""
    headers = message.headers.items() if isinstance(message.headers, Mapping) else message.headers or ()
    return DeadLetter(
        topic=message.topic,
        partition=message.partition,
        offset=message.offset,
        timestamp_ms=None if message.timestamp is None else round(message.timestamp * 1000),
        key=message.key,
        value=message.value,
        headers=list(headers),
        agent=agent,
        stage=stage,
        executing_class=executing_class,
        reason=reason,
    )
