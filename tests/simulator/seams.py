"""Where the product meets the world outside: what the simulation puts in its place. Everything else runs unchanged."""

import logging
import random
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from functools import partial
from types import SimpleNamespace
from typing import NoReturn
from unittest.mock import patch

import structlog

import consumers.timeline_source
import infra.ask_copies
import infra.coalescing
import infra.coordinator
import infra.copying
import infra.openings
import infra.redis_clusters
import infra.shard_map
import infra.shard_maps
import infra.shard_znodes
import producers.status_keeper
import streams.app
import streams.deliver
import streams.follower_index
import streams.handling
import streams.patience
from infra.copies import Copies
from infra.errors import KafkaUnavailable
from infra.topics import Topic
from streams.handling import until_done
from tests.simulator.broker import Broker, LogEnds, Producer
from tests.simulator.memo import remembered, remembered_replace
from tests.simulator.network import Network
from tests.simulator.nodes import SimulatedNode
from tests.simulator.scheduler import Killed, Scheduler
from tests.simulator.statements import Engine

WAIT_STEP_S = 0.01


class NoThread:
    """Instead of a thread that checks the shard map all the time: maps.py makes its checks up."""

    def __init__(self, **_: object) -> None:
        """Nothing."""

    def start(self) -> None:
        """Nothing."""


def _remembered() -> list[tuple[object, str, object]]:
    """Pure functions of the shard map, which would be most of a simulation's time."""
    decode = remembered(infra.shard_map.decode_shard_map)
    return [
        (infra.shard_znodes, "decode_shard_map", decode),
        (infra.shard_maps, "decode_shard_map", decode),
        (infra.shard_maps, "replace", remembered_replace()),
        (Copies, "decode", staticmethod(remembered(Copies.decode))),
    ]


Replaced = list[tuple[object, str, object]]  # where, what, and by what


def _time(scheduler: Scheduler) -> Replaced:
    time = SimpleNamespace(
        sleep=scheduler.sleep,
        monotonic=scheduler.monotonic,
        time=scheduler.monotonic,
        time_ns=lambda: scheduler.now_ms * 1_000_000,
    )

    def settle(seconds: float) -> None:
        if seconds > 0:
            scheduler.sleep(seconds)

    of_streams = streams.app, streams.deliver, streams.patience
    of_others = consumers.timeline_source, infra.ask_copies, infra.copying
    return [
        *((module, "time", time) for module in (*of_streams, *of_others)),
        (producers.status_keeper, "now_ms", scheduler.clock_ms),
        (streams.app, "until_done", partial(until_done, sleep=scheduler.sleep)),
        (infra.redis_clusters, "time", SimpleNamespace(sleep=settle, monotonic=scheduler.monotonic)),
    ]


def _kafka(scheduler: Scheduler, broker: Broker) -> Replaced:
    def settled(bootstrap: str, topic: Topic, partitions: Sequence[int]) -> None:
        scheduler.pause()
        if not broker.is_settled(topic, partitions):
            raise KafkaUnavailable("a transaction of the last owner is still open")

    return [
        (producers.status_keeper, "LogEnds", lambda _, topic: LogEnds(broker, topic)),
        (streams.app, "TransactionalProducer", lambda _, name: Producer(broker, name)),
        (streams.app, "await_settled", settled),
    ]


def _processes(scheduler: Scheduler) -> Replaced:
    def end_process(reason: str, code: int = 0) -> NoReturn:
        if scheduler.current is not None:
            scheduler.note(f"{scheduler.current.process.name} ends: {reason}")
            scheduler.current.process.alive = False
        raise Killed

    def wait(futures: Sequence[object], timeout: float) -> SimpleNamespace:
        while not all(future.done() for future in futures):  # type: ignore[attr-defined]
            scheduler.pause()
        return SimpleNamespace(done=futures)

    def await_all(futures: Sequence[Future[None]], within_s: float) -> None:
        until_s = scheduler.monotonic() + within_s
        while scheduler.monotonic() < until_s and not all(future.done() for future in futures):
            scheduler.sleep(WAIT_STEP_S)

    threads = SimpleNamespace(Lock=threading.Lock, Event=threading.Event, Thread=NoThread)
    return [
        (streams.app, "end_process", end_process),
        (streams.handling, "end_process", end_process),
        (streams.app, "wait", wait),
        (infra.coalescing, "await_all", await_all),
        (infra.shard_maps, "threading", threads),
    ]


@contextmanager
def in_memory(scheduler: Scheduler, broker: Broker, engine: Engine, network: Network) -> Iterator[None]:
    """Time, Kafka, the COPY of the follower index and a process's end are the simulation's."""
    replaced: Replaced = [
        *_time(scheduler),
        *_kafka(scheduler, broker),
        *_processes(scheduler),
        (infra.coordinator, "RedisNode", lambda name, *_, **__: SimulatedNode(name, network)),
        (infra.openings, "RedisNode", lambda name, *_, **__: SimulatedNode(name, network)),
        *_remembered(),
        (streams.follower_index, "read_followers", lambda _, authors: engine.followers(authors)),
    ]
    was_random, was_logged = random.getstate(), structlog.get_config()
    with ExitStack() as stack:
        for where, name, value in replaced:
            stack.enter_context(patch.object(where, name, value))
        random.seed(scheduler.rng.random())  # the product spreads its reads by the module's own generator
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
        try:
            yield
        finally:
            random.setstate(was_random)
            structlog.configure(**was_logged)
