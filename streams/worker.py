"""A worker process: makes the parts, runs the Faust app until SIGTERM, with everything chosen on one screen."""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import faust

from infra.composition import Stores, open_stores
from infra.dead_letters import DeadLetters
from infra.health import Health, State
from infra.kafka_logs import Overview, retentions_ms
from infra.malloc import share_arenas
from infra.role import show_health
from infra.settings import Settings
from infra.topics import LOGS_OF_WORKERS
from streams.app import THREADS, Parts, create_app
from streams.positions import Positions
from streams.progress import AGENT_OF, PROGRESS, Place
from streams.watch import Watch

BEAT_S = 1.0
LOOP_ROUND_S = 15.0  # no handler holds the event loop; what it waits for on a machine without time is well below


def run_worker(settings: Settings) -> None:
    """Runs until the process is told to stop; ready when the group has said which partitions are ours, if any."""
    share_arenas()
    bootstrap = settings.need("kafka_bootstrap")
    health = Health()
    show_health(settings, health)
    stores = open_stores(settings)
    threads = ThreadPoolExecutor(THREADS, thread_name_prefix="round")
    positions, kept_ms = _of_logs(stores, bootstrap)
    retentions = {AGENT_OF[topic]: ms for topic, ms in kept_ms.items()}
    letters, share_max = DeadLetters(bootstrap), settings.dead_letter_share_max
    parts = Parts(stores.engine, stores.timelines, letters, bootstrap, threads, share_max)
    app = create_app(parts, positions.find_offset)

    async def on_assigned(*_: object, **__: object) -> None:
        if health.state is State.STARTING:
            overview = Overview(bootstrap)
            ends, read = ends_of(overview), app.consumer.read_positions
            watch = Watch(PROGRESS, read, ends, overview.unowned, retentions)
            watch.watch(health)
            positions.keep_noting(watch.worked)
            health.enter(State.SERVING)

    app.on_partitions_assigned.connect(on_assigned)
    worker = FaustWorker(app, redirect_stdouts=False, quiet=True)
    beat_in(worker.loop, health.loop("the event loop", LOOP_ROUND_S))
    worker.execute_from_commandline()


def _of_logs(stores: Stores, bootstrap: str) -> tuple[Positions, Mapping[str, int | None]]:
    """Where to go on, and how long each log is kept. Raises `ConfigurationError` when something of the logs is missing:
    a person must look first."""
    try:
        return Positions(stores.engine, bootstrap), retentions_ms(bootstrap, LOGS_OF_WORKERS)
    except BaseException:
        stores.close()
        raise


def beat_in(loop: asyncio.AbstractEventLoop, beat: Callable[[], None]) -> None:
    """Beats for as long as the event loop runs."""
    beat()
    loop.call_later(BEAT_S, beat_in, loop, beat)


def ends_of(overview: Overview) -> Callable[[], dict[Place, int] | None]:
    """The ends of the logs by the agents that read them."""

    def read() -> dict[Place, int] | None:
        ends = overview.ends()
        return ends and {(AGENT_OF[topic], partition): end for (topic, partition), end in ends.items()}

    return read


class FaustWorker(faust.Worker):  # type: ignore[misc]
    """Faust's process frame without its logging and its progress spinner, which would set the root logger to debug."""

    def _setup_logging(self) -> None:
        """infra/logs.py has done it."""
        self.spinner = None
