"""Commands of the floor's roles: the coordinator and the registrar."""

import threading
from typing import Annotated

import typer

from infra.cli import settings_of
from infra.coordinator import Coordinator
from infra.errors import ConfigurationError
from infra.readiness import announce_ready
from infra.registrar import Registration
from infra.role import announce_when, begin_role
from infra.zookeeper import ZooKeeper


def coordinator(context: typer.Context) -> None:
    """Run the coordinator: it writes the shard map; a second one waits."""
    settings = settings_of(context)
    stop, ready = begin_role(settings), threading.Event()
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
    stop = begin_role(settings)
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
