"""A worker process: makes the parts, runs the Faust app until SIGTERM, with everything chosen on one screen."""

import logging
from concurrent.futures import ThreadPoolExecutor

import faust

from infra.composition import open_stores
from infra.malloc import share_arenas
from infra.metrics import serve_metrics
from infra.readiness import announce_ready
from infra.settings import Settings
from streams.app import DELIVERS_AT_ONCE, FAN_OUTS_AT_ONCE, Parts, create_app
from streams.dead_letters import DeadLetters

THREADS = FAN_OUTS_AT_ONCE + DELIVERS_AT_ONCE


def run_worker(settings: Settings) -> None:
    """Runs until the process is told to stop; ready when the first partitions are assigned."""
    share_arenas()
    bootstrap = settings.need("kafka_bootstrap")
    stores = open_stores(settings)
    threads = ThreadPoolExecutor(THREADS, thread_name_prefix="batch")
    letters, share_max = DeadLetters(bootstrap), settings.dead_letter_share_max
    app = create_app(Parts(stores.engine, stores.timelines, letters, bootstrap, threads, share_max))
    serve_metrics(settings)

    async def on_assigned(_: object, assigned: object, **__: object) -> None:
        if assigned:
            announce_ready(settings)

    app.on_partitions_assigned.connect(on_assigned)
    logging.getLogger("faust").setLevel(logging.WARNING)
    faust.Worker(app, loglevel="warn", redirect_stdouts=False, quiet=True).execute_from_commandline()
