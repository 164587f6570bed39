"""Processes of the simulation: workers with the product's two agents, and relays. Each can freeze and die.

What stands between a log and an agent's work is modelled on streams/batches.py and rounds.py: what waits is taken in
batches, a partition is in one of them at a time, and a batch is acknowledged after its effect, when it has settled.
"""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from random import Random
from threading import Event
from typing import Any, TypeVar, cast

import sqlalchemy as sa

from infra.dead_letters import DeadLetters
from infra.errors import DatabaseUnavailable, DependencyError, Superseded
from infra.timelines import Timelines
from infra.topics import ACTIVITY, DELIVERIES, Topic
from producers.relay import Relay, Row
from producers.status_keeper import StatusKeeper
from streams.app import DeliverWork, FanOutWork, Parts
from streams.handling import Part
from tests.simulator.broker import Broker, Place, Producer, Record
from tests.simulator.database import Database
from tests.simulator.scheduler import Actor, Process, Scheduler

T = TypeVar("T")

BATCH_MESSAGES_MAX = 12
DELIVER_ROUNDS = 2
RELAY_ROWS_MAX = 12
RELAY_POLL_S = 0.3


@dataclass(frozen=True, slots=True)
class Ground:
    """What processes stand on."""

    scheduler: Scheduler
    broker: Broker
    database: Database
    engine: sa.Engine
    timelines: Timelines
    threshold: int  # followers above which an author is a celebrity


class Threads:
    """Stands for a worker's thread pool: each call is an actor of the process."""

    def __init__(self, scheduler: Scheduler, process: Process) -> None:
        self._scheduler = scheduler
        self._process = process

    def submit(self, call: Callable[..., T], *given: Any) -> "Future[T]":
        """Runs beside the caller."""
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(call(*given))
            except Exception as error:  # noqa: BLE001 - it is in the future
                future.set_exception(error)

        self._scheduler.spawn(self._process, f"{self._process.name} claim", run)
        return future

    def as_pool(self) -> ThreadPoolExecutor:
        """For the product's eyes."""
        return cast(ThreadPoolExecutor, self)


class Worker:
    """A worker process: one fan-out round and two deliver rounds at a time."""

    def __init__(self, ground: Ground, name: str, pace: float) -> None:
        self.process = Process(name, pace=pace)
        self.name = name
        self.generation = 0
        self.positions: dict[Place, int] = {}
        self.busy: set[Place] = set()
        self._settling: dict[Place, deque[tuple[float, Record]]] = {}  # and when each may be acknowledged
        self.revoking = False
        self._ground = ground
        self._scheduler = ground.scheduler
        self._rng = ground.scheduler.rng
        parts = Parts(
            engine=ground.engine,
            timelines=ground.timelines,
            dead_letters=cast(DeadLetters, None),
            bootstrap="in memory",
            threads=Threads(ground.scheduler, self.process).as_pool(),
            rng=Random(self._rng.random()),
        )
        self._fan_out = FanOutWork(parts, lambda: name)
        self._deliver = DeliverWork(parts, lambda: name)
        self._spawn("fan_out", ACTIVITY, self._fan_out)
        for _ in range(DELIVER_ROUNDS):
            self._spawn("deliver", DELIVERIES, self._deliver)

    @property
    def idle(self) -> bool:
        """Whether no batch is at work, and all that is done was acknowledged."""
        return not self.busy and not any(self._settling.values())

    def assign(self, generation: int, places: frozenset[Place]) -> None:
        """Partitions of a new generation; what was held for the old one is dropped."""
        self._fan_out.release()
        self._deliver.release()
        self.generation, self.revoking = generation, False
        self.positions = {place: self._ground.broker.committed.get(place, 0) for place in sorted(places)}

    def _spawn(self, agent: str, topic: Topic, work: Any) -> None:
        self._scheduler.spawn(self.process, f"{self.name} {agent}", lambda: self._loop(topic, work))

    def _loop(self, topic: Topic, work: Any) -> None:
        while True:
            waiting = [place for place in self.positions if place[0] == topic.name and self._has_more(place)]
            # One that was frozen works on with what it had fetched until it hears of the new generation.
            if not waiting or self.revoking or (self._is_old() and self._rng.random() < 0.7):
                self._ground.broker.waiting.append(self._scheduler.current)  # type: ignore[arg-type]
                self._scheduler.park()
                continue
            chosen = self._rng.sample(waiting, self._rng.randint(1, len(waiting)))
            batches = [self._take(place) for place in chosen]
            self._handle(work, batches)
            waits_s = [work.unsettled_s(place[1]) if work is self._deliver else 0.0 for place in chosen]
            for place, batch, after_s in zip(chosen, batches, waits_s, strict=True):
                self._scheduler.pause()
                self._acknowledge(place, batch[-1], after_s)
                self.busy.discard(place)
            self._ground.broker.wake_all()

    def _acknowledge(self, place: Place, last: Record, after_s: float) -> None:
        """In order: at once, or when all that is before it has settled."""
        settling = self._settling.setdefault(place, deque())
        if after_s <= 0 and not settling:
            self._commit(place, last)
            return
        settling.append((self._scheduler.monotonic() + after_s, last))
        if len(settling) == 1:
            self._scheduler.spawn(self.process, f"{self.name} settles", lambda: self._settle(place, settling))

    def _settle(self, place: Place, settling: deque[tuple[float, Record]]) -> None:
        while settling:
            due_s, last = settling[0]
            if (left_s := due_s - self._scheduler.monotonic()) > 0:
                self._scheduler.sleep(left_s)
            self._commit(place, last)
            settling.popleft()
        self._ground.broker.wake_all()

    def _commit(self, place: Place, last: Record) -> None:
        if place[0] == ACTIVITY.name:
            return  # there the group moves in fan_out's transactions
        self._ground.broker.commit(self.name, last.generation_id, place, last.offset + 1)

    def _is_old(self) -> bool:
        return self.generation != self._ground.broker.generation

    def _has_more(self, place: Place) -> bool:
        return place not in self.busy and self.positions[place] < len(self._ground.broker.logs[place])

    def _take(self, place: Place) -> Sequence[Record]:
        start = self.positions[place]
        batch = self._ground.broker.logs[place][start : start + self._rng.randint(1, BATCH_MESSAGES_MAX)]
        self.positions[place] = start + len(batch)
        self.busy.add(place)
        return [replace(one, generation_id=self.generation) for one in batch]

    def _handle(self, work: Any, batches: Sequence[Sequence[Record]]) -> None:
        parts = [_part(work, batch) for batch in batches]
        if len(parts) > 1 and self._rng.random() < 0.7:
            try:
                if work.together(parts):
                    return
            except (DependencyError, Superseded):
                pass  # as in handling.py: each for itself then
        for part in parts:
            work.run(part)


def _part(work: Any, batch: Sequence[Record]) -> Part[Any]:
    last = batch[-1]
    return Part(last.partition, last.generation_id, last.offset + 1, [work.read(one) for one in batch])


class RelayProcess:
    """A relay: waits for the outbox, sends and removes, and starts again when something is away. Beside it the status
    keeper, in both relays at the same time."""

    def __init__(self, ground: Ground, name: str, owner: "Owner") -> None:
        self.process = Process(name)
        self._ground = ground
        self._owner = owner
        self._relay = Relay(ground.engine, "postgresql://in-memory", "in memory")
        self._relay._ownership = self  # type: ignore[assignment]  # its session, which would be a real connection
        keeper = StatusKeeper(ground.engine, "in memory", lambda: ground.threshold, cast(Event, self))
        ground.scheduler.spawn(self.process, name, self._run)
        ground.scheduler.spawn(self.process, f"{name} keeper", lambda: self._keep(keeper))

    def is_set(self) -> bool:
        """For the keeper, whose `stop` this is."""
        return False

    def wait(self, seconds: float) -> bool:
        """The same."""
        self._ground.scheduler.sleep(seconds)
        return False

    def unsent(self) -> list[Row]:
        """The next rows, while the session lasts."""
        self._ground.scheduler.pause()
        if self._owner.relay is not self:
            raise DatabaseUnavailable("the session was ended")
        return self._ground.database.outbox[: self._ground.scheduler.rng.randint(1, RELAY_ROWS_MAX)]

    def _keep(self, keeper: StatusKeeper) -> None:
        while True:
            try:
                keeper.run()
            except DependencyError:
                self._ground.scheduler.sleep(RELAY_POLL_S)

    def _run(self) -> None:
        while True:
            try:
                if self._owner.relay is None:
                    self._owner.relay = self
                if self._owner.relay is self:
                    producer = Producer(self._ground.broker, "fanfold-relay-0")
                    while True:
                        if not self._relay.step(producer):  # type: ignore[arg-type]
                            self._owner.wait()
            except (DependencyError, Superseded):
                if self._owner.relay is self:
                    self._owner.relay = None
            self._ground.scheduler.sleep(RELAY_POLL_S)


@dataclass(slots=True)
class Owner:
    """Who holds the relay's advisory lock, and is woken when something was published."""

    scheduler: Scheduler
    relay: RelayProcess | None = None
    waiting: list[Actor] = field(default_factory=list)

    def wait(self) -> None:
        """Until something comes, or the session is ended."""
        assert self.scheduler.current is not None
        self.waiting.append(self.scheduler.current)
        self.scheduler.park()

    def wake(self) -> None:
        """Something came."""
        for actor in self.waiting:
            self.scheduler.wake(actor)
        self.waiting.clear()

    def end_session(self, relay: RelayProcess) -> None:
        """He has the lock no more."""
        if self.relay is relay:
            self.relay = None
        self.wake()
