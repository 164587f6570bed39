"""Where the product meets the world outside: what the simulation puts in its place. Everything else runs unchanged."""

import logging
import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from types import SimpleNamespace
from typing import NoReturn
from unittest.mock import patch

import structlog

import consumers.timeline_source
import producers.status_keeper
import streams.app
import streams.deliver
import streams.follower_index
import streams.handling
from infra.errors import KafkaUnavailable
from infra.topics import Topic
from streams.handling import until_done
from tests.simulator.broker import Broker, LogEnds, Producer
from tests.simulator.scheduler import Killed, Scheduler
from tests.simulator.statements import Engine


@contextmanager
def in_memory(scheduler: Scheduler, broker: Broker, engine: Engine) -> Iterator[None]:
    """Time, Kafka, the COPY of the follower index and a process's end are the simulation's."""
    time = SimpleNamespace(
        sleep=scheduler.sleep,
        monotonic=scheduler.monotonic,
        time=scheduler.monotonic,
        time_ns=lambda: scheduler.now_ms * 1_000_000,
    )

    def settled(bootstrap: str, topic: Topic, partitions: Sequence[int]) -> None:
        scheduler.pause()
        if not broker.is_settled(topic, partitions):
            raise KafkaUnavailable("a transaction of the last owner is still open")

    def end_process(reason: str, code: int = 0) -> NoReturn:
        if scheduler.current is not None:
            scheduler.note(f"{scheduler.current.process.name} ends: {reason}")
            scheduler.current.process.alive = False
        raise Killed

    def wait(futures: Sequence[object], timeout: float) -> SimpleNamespace:
        while not all(future.done() for future in futures):  # type: ignore[attr-defined]
            scheduler.pause()
        return SimpleNamespace(done=futures)

    replaced = [
        *((module, "time", time) for module in (streams.app, streams.deliver, consumers.timeline_source)),
        (producers.status_keeper, "LogEnds", lambda _, topic: LogEnds(broker, topic)),
        (producers.status_keeper, "now_ms", scheduler.clock_ms),
        (streams.app, "TransactionalProducer", lambda _, name: Producer(broker, name)),
        (streams.app, "await_settled", settled),
        (streams.app, "until_done", partial(until_done, sleep=scheduler.sleep)),
        (streams.app, "end_process", end_process),
        (streams.app, "wait", wait),
        (streams.handling, "end_process", end_process),
        (streams.follower_index, "read_followers", lambda _, authors: engine.followers(authors)),
    ]
    was_random, was_logged = random.getstate(), structlog.get_config()
    with ExitStack() as stack:
        for module, name, value in replaced:
            stack.enter_context(patch.object(module, name, value))
        random.seed(scheduler.rng.random())  # the product spreads its reads by the module's own generator
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
        try:
            yield
        finally:
            random.setstate(was_random)
            structlog.configure(**was_logged)
