"""The Faust app: two agents, one actor per partition, no tables. The only place that chooses what a worker is made of.

The rules that Faust imposes on us are in ARCHITECTURE.md, decision 6. Next: fan_out.py.
"""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby

import faust
import sqlalchemy as sa

from infra import metrics
from infra.events import decode_activity
from infra.kafka import GROUP
from infra.timelines import Timelines
from infra.topics import ACTIVITY, DELIVERIES, Topic
from streams.batches import work_in_batches
from streams.dead_letters import DeadLetters, Mistakes
from streams.deliver import Deliverer, receive
from streams.fan_out import FanOut
from streams.handling import readable, run_all, until_done
from streams.in_order import InOrderConsumer
from streams.progress import PROGRESS, Run

SESSION_S = 10
HEARTBEAT_S = 2
POLL_RECORDS_MAX = 500


@dataclass(frozen=True, slots=True)
class Parts:
    """What the agents work with; made once a process, in worker.py."""

    engine: sa.Engine
    timelines: Timelines
    dead_letters: DeadLetters
    bootstrap: str
    threads: ThreadPoolExecutor


def create_app(parts: Parts) -> faust.App:
    """An app with the two agents. Importing this module makes none; a test makes its own."""
    app = faust.App(
        GROUP,
        broker=f"kafka://{parts.bootstrap}",
        store="memory://",
        autodiscover=False,
        web_enabled=False,
        topic_disable_leader=True,
        topic_allow_declare=False,
        table_standby_replicas=0,
        consumer_auto_offset_reset="earliest",
        broker_session_timeout=SESSION_S,
        broker_heartbeat_interval=HEARTBEAT_S,
        broker_max_poll_records=POLL_RECORDS_MAX,
        broker_commit_interval=0.2,
        stream_publish_on_commit=False,
        worker_redirect_stdouts=False,
    )
    app.transport.Consumer = InOrderConsumer
    fan_out, deliver = FanOutWork(parts), DeliverWork(parts)
    _add_agent(app, ACTIVITY, "fan_out", fan_out)
    _add_agent(app, DELIVERIES, "deliver", deliver)

    async def on_revoked(*_: object, **__: object) -> None:
        """Faust has waited for the batches at work: what was held for them belongs to an old generation now."""
        fan_out.release()
        deliver.release()
        PROGRESS.forget()

    app.on_partitions_revoked.connect(on_revoked)
    return app


def _add_agent(app: faust.App, topic: Topic, name: str, work: "FanOutWork | DeliverWork") -> None:
    channel = app.topic(topic.name, key_serializer="raw", value_serializer="raw")

    mistakes = Mistakes()

    async def process(events: Sequence[faust.EventT]) -> None:
        metrics.BATCH_EVENTS.labels(name).observe(len(events))
        first, last = events[0].message, events[-1].message
        PROGRESS.begin((name, first.partition), Run(first.offset, last.offset, int(first.timestamp * 1000)))
        loop = asyncio.get_running_loop()
        for _, group in groupby(events, key=lambda event: event.message.generation_id):
            await loop.run_in_executor(work.parts.threads, run_all, work.parts, mistakes, work.run, list(group))
        PROGRESS.finish((name, first.partition))

    async def agent(stream: faust.StreamT) -> None:
        await work_in_batches(stream, process)

    app.agent(channel, name=name, isolated_partitions=True)(agent)


class FanOutWork:
    """fan_out's handling of a batch of one partition and generation."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self._held: dict[int, tuple[int, FanOut]] = {}

    def run(self, events: Sequence[faust.EventT]) -> None:
        """Returns when what the batch asks for is in the deliveries log."""
        activities = readable(self.parts, events, lambda message: decode_activity(message.value))
        message, length = events[0].message, self.parts.timelines.live.timeline_entries

        def fan_out() -> None:
            self._fan_out(message.partition, message.generation_id).process(activities, length)

        def failed() -> None:
            self._drop(message.partition)  # its producer may be in the middle of a transaction

        if activities:
            until_done("fan_out", message.partition, fan_out, failed)

    def release(self) -> None:
        """Drops what is held for all partitions."""
        for partition in list(self._held):
            self._drop(partition)

    def _fan_out(self, partition: int, generation: int) -> FanOut:
        """The partition's state, made anew in a new generation: an index kept over a revoke would be stale."""
        held = self._held.get(partition)
        if held is None or held[0] != generation:
            self._drop(partition)
            held = generation, FanOut(self.parts.engine, self.parts.bootstrap, partition)
            self._held[partition] = held
        return held[1]

    def _drop(self, partition: int) -> None:
        held = self._held.pop(partition, None)
        if held is not None:
            held[1].close()


class DeliverWork:
    """deliver's handling of a batch of one partition and generation."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self._held: dict[int, tuple[int, Deliverer]] = {}

    def run(self, events: Sequence[faust.EventT]) -> None:
        """Returns when the batch's records are in all three clusters."""
        messages = readable(self.parts, events, lambda message: receive(message.offset, message.value))
        message = events[0].message

        def deliver() -> None:
            self._deliverer(message.partition, message.generation_id).apply(messages)

        if messages:
            until_done("deliver", message.partition, deliver, lambda: None)

    def release(self) -> None:
        """Drops what is held for all partitions."""
        self._held.clear()

    def _deliverer(self, partition: int, generation: int) -> Deliverer:
        held = self._held.get(partition)
        if held is None or held[0] != generation:
            made = Deliverer(self.parts.engine, self.parts.timelines, partition, generation)
            held = self._held[partition] = (generation, made)
        return held[1]
