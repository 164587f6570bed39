"""Commands of the streams."""

import typer

from infra.cli import settings_of


def worker(context: typer.Context) -> None:
    """Run a worker: fan-out and delivery. Start as many as there is work for; the partitions spread."""
    from streams.worker import run_worker  # Faust takes half a second to import, and only workers need it

    run_worker(settings_of(context))
