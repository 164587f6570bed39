"""Commands of the floor: migrations, topics, settings in force, the coordinator and the registrar, the stack."""

import signal
import threading
from dataclasses import fields
from typing import Annotated

import typer
from sqlalchemy.engine import make_url

from infra import api_command
from infra.cli import JsonFlag, print_json, say, settings_of
from infra.coordinator import Coordinator
from infra.database import upgrade
from infra.errors import ConfigurationError
from infra.readiness import announce_ready
from infra.registrar import Registration
from infra.settings import PREFIX, Settings
from infra.stack import commands as stack_commands
from infra.topics import create_topics
from infra.zookeeper import ZooKeeper


def register(app: typer.Typer) -> None:
    """Adds the commands of `infra`."""
    database = typer.Typer(no_args_is_help=True, help="The database's tables.")
    database.command("upgrade")(db_upgrade)
    app.add_typer(database, name="db")
    topics = typer.Typer(no_args_is_help=True, help="The Kafka topics.")
    topics.command("create")(topics_create)
    app.add_typer(topics, name="topics")
    config = typer.Typer(no_args_is_help=True, help="Settings.")
    config.command("show")(config_show)
    app.add_typer(config, name="config")
    app.command()(coordinator)
    app.command()(registrar)
    api_command.register(app)
    stack_commands.register(app)


def db_upgrade(context: typer.Context) -> None:
    """Create or upgrade the tables; safe to run again."""
    upgrade(settings_of(context).need("database_url"))
    say("the tables are up to date")


def topics_create(context: typer.Context) -> None:
    """Create the topics that are missing; safe to run again."""
    created = create_topics(settings_of(context).need("kafka_bootstrap"))
    say(f"created {', '.join(sorted(created))}" if created else "all topics are there")


def config_show(context: typer.Context, as_json: JsonFlag = False) -> None:
    """Show the process settings in force, secrets hidden."""
    shown = {PREFIX + field.name.upper(): _shown(settings_of(context), field.name) for field in fields(Settings)}
    if as_json:
        print_json(shown)
        return
    for key, value in shown.items():
        typer.echo(f"{key}={value if value is not None else ''}")


def coordinator(context: typer.Context) -> None:
    """Run the coordinator: it writes the shard map; a second one waits."""
    settings = settings_of(context)
    stop, ready = stop_on_signals(), threading.Event()
    zookeeper = ZooKeeper(settings.need("zookeeper_hosts"))
    try:
        if zookeeper.lead("coordinator", stop):
            announce_when(ready, settings)
            Coordinator(zookeeper).run(stop, ready)
    finally:
        zookeeper.close()


def registrar(
    context: typer.Context,
    name: Annotated[
        list[str] | None, typer.Option(help="A node of FANFOLD_REDIS_NODES; all of them by default.")
    ] = None,
) -> None:
    """Run the registrar of one or more Redis nodes: it makes them fit and says that they are there."""
    settings = settings_of(context)
    nodes = settings.need("redis_nodes")
    for unknown in set(name or ()) - set(nodes):
        raise ConfigurationError(f"node {unknown} is not in FANFOLD_REDIS_NODES, which has {', '.join(sorted(nodes))}")
    stop = stop_on_signals()
    zookeeper = ZooKeeper(settings.need("zookeeper_hosts"))
    kept = [Registration(zookeeper, one, url) for one, url in nodes.items() if not name or one in name]
    threads = [threading.Thread(target=one.keep, args=(stop,), daemon=True) for one in kept]
    for thread in threads:
        thread.start()
    for one in kept:
        while not one.ready.wait(0.1) and not stop.is_set():
            continue
    announce_ready(settings)
    stop.wait()
    for thread in threads:
        thread.join()
    zookeeper.close()


def stop_on_signals() -> threading.Event:
    """An event that SIGTERM and Ctrl-C set."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    return stop


def announce_when(ready: threading.Event, settings: Settings) -> None:
    """Announces this process when `ready` is set."""

    def wait() -> None:
        ready.wait()
        announce_ready(settings)

    threading.Thread(target=wait, daemon=True).start()


def _shown(settings: Settings, name: str) -> object:
    value = getattr(settings, name)
    if name == "database_url" and value:
        return make_url(value).render_as_string(hide_password=True)
    if name == "redis_nodes":
        return ",".join(
            f"{node}={make_url(url).render_as_string(hide_password=True)}" for node, url in dict(value).items()
        )
    return value if isinstance(value, int | str | None) else str(value)
