"""A worker process: makes the parts, runs the Faust app until SIGTERM, with everything chosen on one screen."""

from concurrent.futures import ThreadPoolExecutor

import faust

from infra.composition import open_stores
from infra.metrics import serve_metrics
from infra.readiness import announce_ready
from infra.settings import Settings
from infra.topics import ACTIVITY, DELIVERIES
from streams.app import Parts, create_app
from streams.dead_letters import DeadLetters

THREADS = ACTIVITY.partitions + DELIVERIES.partitions  # one batch of each partition at a time


def run_worker(settings: Settings) -> None:
    """Runs until the process is told to stop; ready when the first partitions are assigned."""
    bootstrap = settings.need("kafka_bootstrap")
    stores = open_stores(settings)
    threads = ThreadPoolExecutor(THREADS, thread_name_prefix="batch")
    app = create_app(Parts(stores.engine, stores.timelines, DeadLetters(bootstrap), bootstrap, threads))
    serve_metrics(settings)

    async def on_assigned(_: object, assigned: object, **__: object) -> None:
        if assigned:
            announce_ready(settings)

    app.on_partitions_assigned.connect(on_assigned)
    FaustWorker(app, redirect_stdouts=False, quiet=True).execute_from_commandline()


class FaustWorker(faust.Worker):  # type: ignore[misc]
    """Faust's process frame without its logging and its progress spinner, which would set the root logger to debug."""

    def _setup_logging(self) -> None:
        """infra/logs.py has done it."""
        self.spinner = None
