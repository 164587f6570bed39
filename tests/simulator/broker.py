"""Kafka in memory: both logs, transactions with claims and fencing, and the group of workers.

Messages of open and aborted transactions are read too, as Faust reads them. A transaction that stays open is ended by
the broker after its time-out.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from infra.errors import KafkaUnavailable, Superseded
from infra.kafka import TRANSACTION_TIMEOUT_MS, Claim, Message
from infra.topics import ACTIVITY, TOPICS, Topic
from tests.simulator.scheduler import Actor, Scheduler

Place = tuple[str, int]  # a topic and a partition


@dataclass(frozen=True, slots=True)
class Record:
    """A message in a log, as Faust hands it to an agent."""

    topic: str
    partition: int
    offset: int
    value: bytes
    timestamp: float
    generation_id: int = 0
    headers: Sequence[tuple[str, bytes]] = ()


@dataclass(eq=False, slots=True)
class Transaction:
    """An open transaction of a producer."""

    producer: "Producer"
    claim: Claim | None
    began_ms: int


@dataclass(slots=True)
class Broker:
    """Logs, producers and the group's state."""

    scheduler: Scheduler
    logs: dict[Place, list[Record]] = field(
        default_factory=lambda: {(topic.name, one): [] for topic in TOPICS for one in range(topic.partitions)}
    )
    committed: dict[Place, int] = field(default_factory=dict)
    generation: int = 0
    members: dict[str, frozenset[Place]] = field(default_factory=dict)
    open: list[Transaction] = field(default_factory=list)
    newest_of_id: dict[str, "Producer"] = field(default_factory=dict)
    waiting: list[Actor] = field(default_factory=list)  # parked until something comes
    appended: Callable[[Message], None] = lambda _: None
    acknowledged: Callable[[], None] = lambda: None

    def append(self, message: Message) -> None:
        """One message at the end of its log."""
        self.appended(message)
        partition = message.partition
        if partition is None:
            partition = int(message.key or b"0") % ACTIVITY.partitions
        log = self.logs[message.topic, partition]
        at_s = self.scheduler.now_ms / 1000
        log.append(Record(message.topic, partition, len(log), message.value or b"", at_s, headers=message.headers))
        self.wake_all()

    def wake_all(self) -> None:
        """Those who wait for messages look again."""
        for actor in self.waiting:
            self.scheduler.wake(actor)
        self.waiting.clear()

    def commit(self, member: str, generation: int, place: Place, offset: int) -> bool:
        """An acknowledgement; refused when the generation is over."""
        if generation != self.generation or place not in self.members.get(member, ()):
            return False
        self.committed[place] = offset
        self.acknowledged()
        return True

    def expire(self) -> None:
        """Ends transactions that are open for too long."""
        for one in list(self.open):
            if self.scheduler.now_ms - one.began_ms > TRANSACTION_TIMEOUT_MS:
                self.end(one, fence=True)

    def end(self, transaction: Transaction, *, fence: bool) -> None:
        """Aborts a transaction."""
        self.open.remove(transaction)
        transaction.producer.fenced |= fence

    def is_settled(self, topic: Topic, partitions: Sequence[int]) -> bool:
        """Whether no open transaction holds a claim to one of these."""
        self.expire()
        claims = [one.claim for one in self.open if one.claim is not None]
        return not any(one.topic == topic and partition in one.offsets for one in claims for partition in partitions)

    def is_empty(self) -> bool:
        """Whether everything was acknowledged."""
        return all(len(log) == self.committed.get(place, 0) for place, log in self.logs.items())


class Producer:
    """Stands for infra.kafka.TransactionalProducer."""

    def __init__(self, broker: Broker, transactional_id: str) -> None:
        self.fenced = False
        broker.scheduler.pause()
        old = broker.newest_of_id.get(transactional_id)
        if old is not None:
            old.fenced = True
            for transaction in [one for one in broker.open if one.producer is old]:
                broker.end(transaction, fence=True)
        broker.newest_of_id[transactional_id] = self
        self._broker = broker
        self._transaction: Transaction | None = None

    def send(self, messages: Iterable[Message], claim: Claim | None = None) -> None:
        """All of them in one transaction."""
        self.begin(claim)
        self.finish(messages)

    def begin(self, claim: Claim | None = None) -> None:
        """Opens a transaction; its claim is checked."""
        self._step()
        broker = self._broker
        if claim is not None and (claim.generation != broker.generation or claim.member not in broker.members):
            raise Superseded("the generation is over")
        self._transaction = Transaction(self, claim, broker.scheduler.now_ms)
        broker.open.append(self._transaction)

    def finish(self, messages: Iterable[Message]) -> None:
        """Sends and commits. At times the broker says nothing: then it is aborted, or was committed all the same."""
        rng = self._broker.scheduler.rng
        for message in messages:
            self._step()
            self._broker.append(message)
        self._step()
        if rng.random() < 0.02:
            self.abort()
            raise KafkaUnavailable("no answer to the commit, and nothing was committed")
        transaction, self._transaction = self._transaction, None
        assert transaction is not None
        if transaction.claim is not None:
            for partition, offset in transaction.claim.offsets.items():
                self._broker.committed[ACTIVITY.name, partition] = offset
            self._broker.acknowledged()
        self._broker.end(transaction, fence=False)
        if rng.random() < 0.02:
            raise KafkaUnavailable("no answer to the commit, and it was committed")

    def abort(self) -> None:
        """Ends the open transaction."""
        self._broker.scheduler.check_alive()
        if self._transaction in self._broker.open:
            self._broker.end(self._transaction, fence=False)
        self._transaction = None

    def close(self) -> None:
        """The broker aborts what is open."""
        self._broker.scheduler.check_alive()
        if not self.fenced:
            self.abort()

    def _step(self) -> None:
        self._broker.scheduler.pause()
        self._broker.expire()
        if self.fenced:
            raise Superseded("a newer producer has taken over, or the transaction took too long")


class LogEnds:
    """Stands for infra.kafka.LogEnds."""

    def __init__(self, broker: Broker, topic: Topic) -> None:
        broker.scheduler.pause()
        self._broker = broker
        self._ends = {place: len(log) for place, log in broker.logs.items() if place[0] == topic.name}

    def are_acknowledged(self) -> bool:
        """Whether the group has acknowledged all that was there."""
        self._broker.scheduler.pause()
        return all(self._broker.committed.get(place, 0) >= end for place, end in self._ends.items())
