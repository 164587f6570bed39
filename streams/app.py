"""The Faust app: two agents, one actor per partition, no tables. The only place that chooses what a worker is made of.

The rules that Faust imposes on us are in ARCHITECTURE.md, decision 6. Next: fan_out.py.
"""

import asyncio
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from random import Random, SystemRandom
from typing import Any, TypeVar

import faust
import sqlalchemy as sa

from infra import metrics
from infra.dead_letters import DeadLetters
from infra.errors import Undecodable
from infra.events import Activity, decode_activity, is_replayed
from infra.kafka import CALL_TIMEOUT_S, GROUP, TRANSACTION_TIMEOUT_MS, Claim, TransactionalProducer
from infra.kafka_logs import await_settled
from infra.settings import Settings
from infra.timelines import Timelines
from infra.topics import ACTIVITY, DELIVERIES, Topic
from streams.batches import work_in_batches
from streams.dead_letter_share import DeadLetterShare
from streams.deliver import Deliverer, Received, receive
from streams.deliver_together import apply_together
from streams.ending import end_process
from streams.fan_out import Chunk, FanOut, by_tweet_id, pack_messages, read_facts
from streams.handling import Handling, Part, Together, Work, until_done
from streams.in_order import FindOffset, InOrderConsumer
from streams.node_calls import partitions_of
from streams.progress import PROGRESS, Place, Run
from streams.rounds import Batch, Limits, Rounds

SESSION_S = 10
HEARTBEAT_S = 2
POLL_RECORDS_MAX = 20  # of one partition
# Of one partition, beside what waits for the next batch: at four fifths of it Faust polls the partition no more, so one
# poll more fits in, and a full queue never holds up the other partitions.
QUEUE_MESSAGES_MAX = 100
# One transaction for what all partitions have, up to some 1,000 events. With as many of one partition after the other,
# three fifths of a backlog's entries came out of order, and without keeping the partitions level one in six.
# Events that come together share a transaction and a call to each node: decision 115 in ARCHITECTURE.md has what that
# brings.
FAN_OUT_ROUNDS = Limits(
    at_once=1, partitions=ACTIVITY.partitions, messages_max=128, level_from=POLL_RECORDS_MAX, linger_s=0.02
)
# One computes while the nodes work for the other. A tweet's messages arrive one by one, in two fetches or three, so a
# round waits for them a moment, always. What comes during a round waits for the next one, unless it is more than 8,000
# follower ids.
DELIVER_ROUNDS = Limits(
    at_once=2, partitions=DELIVERIES.partitions, beside_bytes_min=65_536, linger_s=0.005, linger_from=0.0
)
# A thread for each round that may be at work, and one for the claim that is checked beside a fan-out round.
THREADS = FAN_OUT_ROUNDS.at_once * 2 + DELIVER_ROUNDS.at_once
# A transaction is open meanwhile: an index of millions of follows may take longer to load than the broker allows one.
CLAIM_AGE_MAX_S = TRANSACTION_TIMEOUT_MS / 1000 / 4
CLAIM_WITHIN_S = CALL_TIMEOUT_S * 2 + 5.0  # the check and the abort after it, each with its own time-out

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Parts:
    """What the agents work with; made once a process, in worker.py."""

    engine: sa.Engine
    timelines: Timelines
    dead_letters: DeadLetters
    bootstrap: str
    threads: ThreadPoolExecutor
    dead_letter_share_max: float = Settings().dead_letter_share_max
    rng: Random = field(default_factory=SystemRandom)


class Unmonitored(faust.Monitor):  # type: ignore[misc]
    """Faust's own statistics, less those of every message: they cost more than the message, and nobody reads them."""

    def on_message_in(self, *_: Any) -> None:
        """Nothing."""

    def on_message_out(self, *_: Any) -> None:
        """Nothing."""

    def on_stream_event_in(self, *_: Any) -> None:
        """Nothing."""

    def on_stream_event_out(self, *_: Any) -> None:
        """Nothing."""


def create_app(parts: Parts, find_offset: FindOffset) -> faust.App:
    """An app with the two agents. `find_offset` says where a partition goes on whose offset Kafka does not have.
    Importing this module makes none; a test makes its own."""
    app = faust.App(
        GROUP,
        broker=f"kafka://{parts.bootstrap}",
        store="memory://",
        autodiscover=False,
        web_enabled=False,
        topic_disable_leader=True,
        topic_allow_declare=False,
        table_standby_replicas=0,
        consumer_auto_offset_reset="none",  # an offset that is not there is looked at: find_offset
        broker_session_timeout=SESSION_S,
        broker_heartbeat_interval=HEARTBEAT_S,
        broker_max_poll_records=POLL_RECORDS_MAX,
        stream_buffer_maxsize=QUEUE_MESSAGES_MAX,
        broker_commit_interval=0.2,
        stream_publish_on_commit=False,
        worker_redirect_stdouts=False,
        monitor=Unmonitored(),
    )
    member = lambda: app.consumer.member_id()  # noqa: E731 - there is no consumer yet
    fan_out, deliver = FanOutWork(parts, member), DeliverWork(parts, member)
    rounds = [
        _add_agent(app, parts, ACTIVITY, _handling(parts, "fan_out", fan_out), FAN_OUT_ROUNDS, fan_out.together),
        _add_agent(
            app,
            parts,
            DELIVERIES,
            _handling(parts, "deliver", deliver),
            DELIVER_ROUNDS,
            deliver.together,
            deliver.unsettled_s,
        ),
    ]

    app.transport.Consumer = partial(InOrderConsumer, rounds=rounds, find_offset=find_offset)

    async def on_revoked(*_: object, **__: object) -> None:
        """Faust has waited for the batches at work: what was held for them belongs to an old generation now."""
        fan_out.release()
        deliver.release()
        PROGRESS.forget()

    app.on_partitions_revoked.connect(on_revoked)
    return app


def _handling(parts: Parts, name: str, work: Work[T]) -> Handling[T]:
    share = DeadLetterShare(parts.dead_letter_share_max)
    return Handling(name, work, parts.dead_letters, share, parts.rng)


def _add_agent(
    app: faust.App,
    parts: Parts,
    topic: Topic,
    handling: Handling[Any],
    limits: Limits,
    together: Together[Any] | None = None,
    unsettled_s: Callable[[int], float] = lambda _: 0.0,
) -> Rounds:
    channel = app.topic(topic.name, key_serializer="raw", value_serializer="raw")

    def handle(batches: Sequence[Batch]) -> None:
        for batch in batches:
            metrics.BATCH_EVENTS.labels(handling.agent).observe(len(batch))
        if len(batches) > 1 and together is not None and handle_together(batches, together):
            return
        until_s = handling.patience()
        for batch in batches:
            place = begin(batch)
            for _, group in groupby(batch, key=lambda event: event.message.generation_id):
                handling.handle(list(group), until_s)
            PROGRESS.finish(place)

    def handle_together(batches: Sequence[Batch], together: Together[Any]) -> bool:
        places = [begin(batch) for batch in batches]
        done = handling.handle_together(batches, together)
        for place in places:
            PROGRESS.finish(place) if done else PROGRESS.line_up(place)
        return done

    def begin(batch: Batch) -> Place:
        first, last = batch[0].message, batch[-1].message
        place = handling.agent, first.partition
        PROGRESS.begin(place, Run(first.offset, last.offset, int(first.timestamp * 1000)))
        return place

    def work(batches: Sequence[Batch]) -> Sequence[float]:
        handle(batches)
        return [unsettled_s(batch[0].message.partition) for batch in batches]

    async def process(batches: Sequence[Batch]) -> Sequence[float]:
        return await asyncio.get_running_loop().run_in_executor(parts.threads, work, batches)

    async def agent(stream: faust.StreamT) -> None:
        await work_in_batches(stream, rounds)

    rounds = Rounds(limits, process)
    app.agent(channel, name=handling.agent, isolated_partitions=True)(agent)
    return rounds


class FanOutWork:
    """fan_out's handling of batches, each of one partition and generation. For one round at a time.

    What is sent carries a claim to the batch's partition, so the broker refuses what a frozen worker still had; and the
    group's place moves with it, in the same transaction.
    """

    def __init__(self, parts: Parts, member: Callable[[], str]) -> None:
        self.parts = parts
        self._member = member
        self._transactional_id = f"fanfold-fan-out-{uuid.uuid4()}"
        self._producer: TransactionalProducer | None = None
        self._settled: set[tuple[int, int]] = set()  # partition and generation
        self._held: dict[int, tuple[int, FanOut]] = {}

    def read(self, message: Any) -> Activity:
        """One event of an author."""
        return decode_activity(message.value, replayed=is_replayed(message.headers))

    def run(self, part: Part[Activity]) -> None:
        """Returns when what the batch asks for is in the deliveries log."""
        send = partial(self._send, [part])
        until_done("fan_out", part.partition, send, self._start_anew, rng=self.parts.rng)

    def together(self, parts: Sequence[Part[Activity]]) -> bool:
        """Batches of several partitions in one transaction; False when they are of several generations."""
        if len({part.generation for part in parts}) > 1:
            return False
        try:
            self._send(parts)
        except BaseException:
            self._start_anew()
            raise
        return True

    def release(self) -> None:
        """Drops what is held for all partitions: an index kept over a revoke would be stale."""
        self._settled.clear()
        self._start_anew()

    def _start_anew(self) -> None:
        """After a failure: the producer may be in the middle of a transaction."""
        for _, fan_out in self._held.values():
            fan_out.close()
        self._held.clear()
        if self._producer is not None:
            self._producer.close()
            self._producer = None

    def _send(self, parts: Sequence[Part[Activity]]) -> None:
        """The broker checks the claim while the database is asked: both take some milliseconds."""
        self._settle([(part.partition, part.generation) for part in parts])
        claim = self._claim(parts)
        producer = self._producer = self._producer or TransactionalProducer(
            self.parts.bootstrap, self._transactional_id
        )
        began_s = time.monotonic()
        claimed = self.parts.threads.submit(producer.begin, claim)
        try:
            chunks = self._plan(parts)
        except BaseException:
            if _ended(claimed).exception() is None:
                producer.abort()
            raise
        _ended(claimed).result()  # a producer is one thread's at a time
        if time.monotonic() - began_s > CLAIM_AGE_MAX_S:
            producer.abort()
            _ended(self.parts.threads.submit(producer.begin, claim)).result()
        producer.finish(pack_messages(chunks))

    def _claim(self, parts: Sequence[Part[Activity]]) -> Claim:
        offsets = {part.partition: part.goes_on for part in parts}
        return Claim(ACTIVITY, offsets, parts[0].generation, self._member())

    def _plan(self, parts: Sequence[Part[Activity]]) -> list[Chunk]:
        length = self.parts.timelines.live.timeline_entries
        facts = read_facts(self.parts.engine, [event for part in parts for event in part.decoded], length)
        return by_tweet_id(
            [self._fan_out(part.partition, part.generation).plan(part.decoded, facts, length) for part in parts]
        )

    def _settle(self, places: Sequence[tuple[int, int]]) -> None:
        """Before the first event of a partition in a generation."""
        new = [place for place in places if place not in self._settled]
        if new:
            await_settled(self.parts.bootstrap, ACTIVITY, [partition for partition, _ in new])
            self._settled.update(new)

    def _fan_out(self, partition: int, generation: int) -> FanOut:
        """The partition's state, made anew in a new generation."""
        held = self._held.get(partition)
        if held is None or held[0] != generation:
            if held is not None:
                held[1].close()
            held = self._held[partition] = generation, FanOut(self.parts.engine)
        return held[1]


def _ended(claimed: "Future[None]") -> "Future[None]":
    """The claim's check, over. librdkafka does not look at its time-out (issue 5456) and may wait without end after a
    broker was killed. Nor can such a producer be closed: the process ends, unacknowledged, and is started again."""
    if not wait([claimed], CLAIM_WITHIN_S).done:
        end_process(f"Kafka's client did not end the check of a claim within {CLAIM_WITHIN_S:g} s")
    return claimed


class DeliverWork:
    """deliver's handling of a batch of one partition and generation."""

    def __init__(self, parts: Parts, member: Callable[[], str]) -> None:
        self.parts = parts
        self._member = member
        self._held: dict[int, tuple[int, Deliverer]] = {}

    def read(self, message: Any) -> Received:
        """One message of records, all of them for timelines of its partition: deliver's marks and numbers are a
        partition's, so what came in another one would pass them by."""
        received = receive(message.offset, message.value)
        if strays := [one for one in partitions_of(received.records) if one != message.partition]:
            raise Undecodable(
                f"it names timelines of partition {', '.join(map(str, strays))} and came in {message.partition}: a "
                "message of ours is where its timelines are; `fanfold dlq redrive` sends it there, if that is one place"
            )
        return received

    def run(self, part: Part[Received]) -> None:
        """Returns when the batch's records are in every copy that is not down."""

        def deliver() -> None:
            self._deliverer(part.partition, part.generation).apply(part.decoded)

        until_done("deliver", part.partition, deliver, lambda: None, rng=self.parts.rng)

    def together(self, parts: Sequence[Part[Received]]) -> bool:
        """Batches of several partitions, with one send to each node; False when it was not done for all of them."""
        work = [(self._deliverer(part.partition, part.generation), part.decoded) for part in parts]
        return apply_together(self.parts.timelines.clusters, work)

    def unsettled_s(self, partition: int) -> float:
        """For how long the partition's last batch must not be acknowledged: it may have left out a node that somebody
        still reads."""
        held = self._held.get(partition)
        return held[1].unsettled_s() if held is not None else 0.0

    def release(self) -> None:
        """Drops what is held for all partitions."""
        self._held.clear()

    def _deliverer(self, partition: int, generation: int) -> Deliverer:
        held = self._held.get(partition)
        if held is None or held[0] != generation:
            prove = partial(self._prove, partition, generation)
            made = Deliverer(self.parts.engine, self.parts.timelines, partition, generation, prove)
            if held is not None:
                made.leave_out(held[1].left_out)  # earlier messages of the same batch may be of the last generation
            held = self._held[partition] = (generation, made)
        return held[1]

    def _prove(self, partition: int, generation: int, offset: int) -> None:
        """Has the group's coordinator check a claim that is then not kept. Raises `Superseded` when the generation is
        over, `KafkaUnavailable`."""
        claim = Claim(DELIVERIES, {partition: offset}, generation, self._member())
        producer = TransactionalProducer(self.parts.bootstrap, f"fanfold-deliver-{uuid.uuid4()}")
        try:
            producer.begin(claim)
            producer.abort()
        finally:
            producer.close()
