"""Commands of the streams."""

import typer

from infra.cli import settings_of


def worker(context: typer.Context) -> None:
    """Run a worker: fan-out and delivery. Start as many as there is work for; the partitions spread."""
    from streams.worker import run_worker  # Faust takes half a second to import, and only workers need it

    run_worker(settings_of(context))


def counters(context: typer.Context) -> None:
    """Run counters: likes into the database, retweets and replies counted; a second one waits."""
    from infra.composition import stores
    from infra.health import Health
    from infra.role import begin_role
    from streams.counters import Counters

    settings, health = settings_of(context), Health()
    url, bootstrap = settings.need("database_url"), settings.need("kafka_bootstrap")
    stop = begin_role(settings, health)
    with stores(settings) as opened:
        Counters(opened.engine, opened.brief, url, bootstrap, settings.dead_letter_share_max).run(stop, health)
