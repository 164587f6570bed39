"""Redriving and dropping dead letters: reads those that are meant, sends what redrive.py plans, and writes down what
became of each in the same transaction.

A crash before the commit did nothing, one after it did all of a batch. A second process that begins fences the first.
"""

import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

from infra.errors import Conflict, Superseded
from infra.kafka import Message, TransactionalProducer
from infra.topics import REACTIONS
from streams.dead_letters_done import DoneLetters, Outcome
from streams.later_words import overtaken
from streams.letter_filter import Wanted
from streams.read_dead_letters import Buried, read_letters, read_range, reader
from streams.redrive import Refused, plan_redrive

# Of one transaction, which the broker ends after 10 s (infra/kafka.py): below a second.
BATCH_LETTERS_MAX = 100
BATCH_BYTES_MAX = 16 << 20
TRANSACTIONAL_ID = "fanfold-dead-letters"
REFUSED = "refused"  # the fate of a letter that cannot be redriven; it stays

Report = Callable[[Buried, "Fate"], None]


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of a letter, or would: the outcome's name or `refused`, why, and what is sent."""

    name: str
    why: str = ""
    message: Message | None = None


@dataclass(frozen=True, slots=True)
class Clearing:
    """What is to be done: `outcome` with those letters that are `wanted`; without `execute` nothing is."""

    bootstrap: str
    wanted: Wanted
    outcome: Outcome
    execute: bool


def clear(clearing: Clearing, topics: Sequence[str], report: Report) -> Counter[str]:
    """Does it topic by topic, each in the order of its letters, and reports each letter once it is done; how many met
    which fate. Raises `Conflict` when another process began to do the same, `KafkaUnavailable`."""
    # The producer comes first: what another process did is committed or aborted by then, and is read after it.
    producer = TransactionalProducer(clearing.bootstrap, TRANSACTIONAL_ID) if clearing.execute else None
    try:
        work = _Work(clearing, DoneLetters(clearing.bootstrap, topics), producer, report)
        for topic in topics:
            work.clear(topic)
    except Superseded as error:
        raise Conflict("another process began to redrive or drop dead letters: run one at a time") from error
    finally:
        if producer is not None:
            producer.close()
    return work.counts


class _Work:
    """One run over some topics."""

    def __init__(
        self, clearing: Clearing, done: DoneLetters, producer: TransactionalProducer | None, report: Report
    ) -> None:
        self.counts: Counter[str] = Counter(dict.fromkeys((*map(str, Outcome), REFUSED), 0))
        self._clearing = clearing
        self._done = done
        self._producer = producer
        self._report = report

    def clear(self, topic: str) -> None:
        """All letters of a topic that are wanted."""
        late = self._overtaken(topic)
        with reader(self._clearing.bootstrap) as consumer:
            start, end = read_range(consumer, topic)
            letters = read_letters(consumer, topic, start, end)
            for batch in _batches(filter(self._clearing.wanted.matches, self._open(topic, letters))):
                self._finish(topic, [(letter, self._fate(letter, late)) for letter in batch])
        if self._producer is not None and (forgotten := self._done.forget(topic, start)):
            self._producer.send(forgotten)

    def _overtaken(self, topic: str) -> Collection[int]:
        if topic != REACTIONS.dead_letters or self._clearing.outcome is not Outcome.REDRIVEN:
            return ()
        with reader(self._clearing.bootstrap) as consumer:
            letters = read_letters(consumer, topic, *read_range(consumer, topic))
            return overtaken(self._clearing.bootstrap, self._open(topic, letters))

    def _open(self, topic: str, letters: Iterable[Buried]) -> Iterator[Buried]:
        done = self._done.of(topic)
        return (letter for letter in letters if letter.offset not in done)

    def _fate(self, letter: Buried, late: Collection[int]) -> Fate:
        if self._clearing.outcome is Outcome.DROPPED:
            return Fate(Outcome.DROPPED)
        planned = plan_redrive(letter, late)
        if isinstance(planned, Refused):
            return Fate(REFUSED, planned.why)
        return Fate(Outcome.REDRIVEN, "", planned)

    def _finish(self, topic: str, fates: Sequence[tuple[Buried, Fate]]) -> None:
        """Sends what is to be sent, with a note for each letter; on a crash before the commit nothing happened."""
        now_ms = time.time_ns() // 1_000_000
        messages: list[Message] = []
        for letter, fate in fates:
            if fate.name != REFUSED:
                messages += [fate.message] if fate.message is not None else []
                messages.append(self._done.note(topic, letter.offset, Outcome(fate.name), now_ms))
        if self._producer is not None and messages:
            self._producer.send(messages)
        for letter, fate in fates:
            self.counts[fate.name] += 1
            self._report(letter, fate)


def _batches(letters: Iterable[Buried]) -> Iterator[list[Buried]]:
    batch: list[Buried] = []
    size = 0
    for letter in letters:
        bytes_ = len(letter.value or b"")
        if batch and (len(batch) == BATCH_LETTERS_MAX or size + bytes_ > BATCH_BYTES_MAX):
            yield batch
            batch, size = [], 0
        batch.append(letter)
        size += bytes_
    if batch:
        yield batch
