"""Commands of the floor's roles: the coordinator and the registrar."""

import threading
from collections.abc import Sequence
from typing import Annotated

import typer

from infra.cli import settings_of
from infra.coordinator import Coordinator
from infra.errors import ConfigurationError
from infra.health import Check, Health, State
from infra.registrar import ROUND_S, Registration
from infra.role import begin_role
from infra.zookeeper import ELECTION_TURN_S, SESSION_S, ZooKeeper

ELECTION_ROUND_S = ELECTION_TURN_S + SESSION_S + 10.0  # a turn, and what ZooKeeper may take to say that it is gone


def coordinator(context: typer.Context) -> None:
    """Run the coordinator: it writes the shard map; a second one waits."""
    settings, health = settings_of(context), Health()
    stop = begin_role(settings, health)
    zookeeper = ZooKeeper(settings.need("zookeeper_hosts"))
    health.also_ready_if(_answers(zookeeper))
    beat = health.loop("the election", ELECTION_ROUND_S, excused=zookeeper.suspended.is_set)

    def waiting(another_leads: bool) -> None:
        beat()
        if another_leads:
            health.enter(State.STANDBY)
        else:
            health.enter(State.WAITING, "ZooKeeper holds no election")

    try:
        if zookeeper.lead("coordinator", stop, waiting):
            health.end_loop("the election")
            health.enter(State.WAITING, "not every node of the shard map has the epoch yet")
            Coordinator(zookeeper).run(stop, health)
    finally:
        zookeeper.close()


def registrar(
    context: typer.Context,
    name: Annotated[
        list[str] | None, typer.Option(help="A node of FANFOLD_REDIS_NODES; all of them by default.")
    ] = None,
) -> None:
    """Run the registrar of one or more Redis nodes: it makes them fit and says that they are there."""
    settings, health = settings_of(context), Health()
    nodes = settings.need("redis_nodes")
    for unknown in set(name or ()) - set(nodes):
        raise ConfigurationError(f"node {unknown} is not in FANFOLD_REDIS_NODES, which has {', '.join(sorted(nodes))}")
    stop = begin_role(settings, health)
    zookeeper = ZooKeeper(settings.need("zookeeper_hosts"))
    health.also_ready_if(_answers(zookeeper))
    kept = [Registration(zookeeper, one, url) for one, url in nodes.items() if not name or one in name]
    health.describe_by(lambda: {"nodes_out": [one.name for one in kept if one.is_out]})
    threads = [_keep(one, stop, health, zookeeper) for one in kept]
    for one in kept:
        while not one.ready.wait(0.1) and not stop.is_set():
            health.enter(State.WAITING, f"node {one.name} is not registered yet")
    health.enter(State.SERVING)
    stop.wait()
    for thread in threads:
        thread.join()
    zookeeper.close()


def _keep(one: Registration, stop: threading.Event, health: Health, zookeeper: ZooKeeper) -> threading.Thread:
    beat = health.loop(f"the registration of {one.name}", ROUND_S, excused=zookeeper.suspended.is_set)
    thread = threading.Thread(target=one.keep, args=(stop, beat), daemon=True)
    thread.start()
    return thread


def _answers(zookeeper: ZooKeeper) -> Check:
    def check(_: float) -> Sequence[str]:
        return ["ZooKeeper does not answer"] if zookeeper.suspended.is_set() else []

    return check
