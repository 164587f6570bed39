"""Commands of the floor's roles: the coordinator and the registrar."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Annotated

import structlog
import typer

from infra.adoption import Adopter
from infra.anti_entropy import comparing
from infra.cli import settings_of
from infra.composition import Stores, stores
from infra.coordinator import Coordinator
from infra.epoch_guard import EpochGuard
from infra.errors import ConfigurationError, LeaseLost, UseError, ZooKeeperUnavailable
from infra.hash_ring import WEIGHT_MAX
from infra.health import Check, Health, State
from infra.leases import COORDINATOR, lead
from infra.live_settings import watch_live_settings
from infra.node_options import NodeOptions, check_node_options
from infra.registrar import ROUND_S, Registration
from infra.repair_warmer import warming
from infra.replay_keeper import keeping_replays
from infra.role import begin_role
from infra.settings import Settings
from infra.zookeeper import ELECTION_TURN_S, SESSION_S, ZooKeeper

WATCH_PERIOD_S = 0.1
ELECTION = "the election"
ELECTION_ROUND_S = ELECTION_TURN_S + SESSION_S + 10.0  # a turn, and what ZooKeeper may take to say that it is gone

log = structlog.get_logger()


def coordinator(context: typer.Context) -> None:
    """Run the coordinator: it writes the shard map, repairs copies and ends replays that were left alone; a second one
    waits."""
    settings, health = settings_of(context), Health()
    stop = begin_role(settings, health)
    with stores(settings) as opened:
        health.also_ready_if(_answers(opened.zookeeper))
        beside = partial(_beside, opened, settings.kafka_bootstrap)
        lead_again(opened.zookeeper, EpochGuard(opened.engine), stop, health, beside)


@contextmanager
def _beside(opened: Stores, bootstrap: str) -> Iterator[None]:
    """What else the leader does, each on a thread of its own: repair, comparison, replays whose runner is gone."""
    with warming(opened, bootstrap), comparing(opened, bootstrap), keeping_replays(opened, bootstrap):
        yield


def lead_again(
    zookeeper: ZooKeeper,
    epochs: EpochGuard,
    stop: threading.Event,
    health: Health,
    beside: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> None:
    """Stands by and leads, again and again until `stop`, whatever happens to ZooKeeper."""
    while not stop.is_set():
        try:
            _lead(zookeeper, epochs, stop, health, beside)
        except ZooKeeperUnavailable as error:  # no session for the lease can be opened
            log.warning("election waits", error=str(error))
            health.enter(State.WAITING, str(error))
            stop.wait(WATCH_PERIOD_S)


def _lead(
    zookeeper: ZooKeeper,
    epochs: EpochGuard,
    stop: threading.Event,
    health: Health,
    beside: Callable[[], AbstractContextManager[None]],
) -> None:
    """Waits to lead, and leads until `stop`, or until the lease is lost: then the process stands by again. `beside` is
    what else is done while it leads."""
    beat = health.loop(ELECTION, ELECTION_ROUND_S, excused=zookeeper.suspended.is_set)

    def waiting(another_leads: bool) -> None:
        beat()
        if another_leads:
            health.enter(State.STANDBY)
        else:
            health.enter(State.WAITING, "ZooKeeper holds no election")

    with lead(zookeeper, COORDINATOR, stop, waiting) as lease:
        health.end_loop(ELECTION)
        if lease is None:
            return
        health.enter(State.WAITING, "not every node of the shard map has the epoch yet")
        try:
            with beside():
                Coordinator(zookeeper, lease, epochs).run(stop, health)
        except LeaseLost as error:
            log.error("the coordinator leads no longer", error=str(error))
            health.enter(State.WAITING, "it has lost the lead")


def registrar(
    context: typer.Context,
    name: Annotated[
        list[str] | None,
        typer.Option(help="The node's name: the cluster's letter, then up to 31 letters, digits, dots or dashes."),
    ] = None,
    redis: Annotated[
        str | None,
        typer.Option(metavar="URL", help="Where that node is, as redis://host:port; the node need not be set."),
    ] = None,
    cluster: Annotated[str | None, typer.Option(help="The cluster that it belongs to: a, b or c.")] = None,
    weight: Annotated[
        int, typer.Option(min=1, max=WEIGHT_MAX, help="How many slots it gets beside others of its cluster.")
    ] = 1,
) -> None:
    """Run the registrar of one or more Redis nodes: it makes them fit and says that they are there.

    \b
    One node, wherever it is:
      fanfold registrar --cluster a --name a3 --redis redis://10.0.0.7:6379
    Nodes of FANFOLD_REDIS_NODES, all of them without --name (a password
    stays out of the list of processes there):
      fanfold registrar --name a1 --name a2

    \b
    A node is a Redis from version 7, or a Valkey, of its own: no replica, no
    persistence (save "", appendonly no), maxmemory-policy volatile-lru. It
    is emptied when it restarted or may have missed a write; what it held is
    read from the database again. Looked at twice a second, it is out while
    it hangs or is set otherwise. Exit 2: something has to be mended first.
    Nodes that `fanfold shards add` named and nobody looks after are looked
    after by any registrar that runs.
    """
    settings, health = settings_of(context), Health()
    nodes = _nodes_to_keep(settings, name or [], redis, cluster, weight)
    stop = begin_role(settings, health)
    zookeeper = ZooKeeper(settings.need("zookeeper_hosts"))
    watch_live_settings(zookeeper)  # the metric says which version is in force
    health.also_ready_if(_answers(zookeeper))
    kept = [Registration(zookeeper, one.name, one.url, one.weight) for one in nodes]
    adopter = Adopter(zookeeper, {one.name for one in kept}, health)
    health.describe_by(lambda: {"nodes_out": {one.name: one.reason for one in kept if one.reason} | adopter.reasons()})
    threads = [_keep(one, stop, health, zookeeper) for one in kept]
    threads.append(threading.Thread(target=adopter.run, args=(stop,), name="adoption", daemon=True))
    threads[-1].start()
    refusal = _wait_for_end(kept, stop, health)
    stop.set()
    for thread in threads:
        thread.join()
    zookeeper.close()
    if refusal is not None:
        raise refusal


def _nodes_to_keep(
    settings: Settings, names: list[str], redis: str | None, cluster: str | None, weight: int
) -> list[NodeOptions]:
    """The nodes that the options name, checked. Raises `ConfigurationError`."""
    if redis is not None:
        if len(names) != 1 or cluster is None:
            raise ConfigurationError("--redis is the address of one node: give it one --name, and its --cluster")
        return [check_node_options(NodeOptions(names[0], redis, weight), cluster)]
    if cluster is not None or weight != 1:
        raise ConfigurationError("--cluster and --weight belong to --redis, which names the node's address")
    nodes = settings.need("redis_nodes")
    for unknown in set(names) - set(nodes):
        raise ConfigurationError(
            f"node {unknown} is not in FANFOLD_REDIS_NODES, which has {', '.join(sorted(nodes))}: add --redis with its "
            "address"
        )
    return [check_node_options(NodeOptions(one, url)) for one, url in nodes.items() if not names or one in names]


def _wait_for_end(kept: Sequence[Registration], stop: threading.Event, health: Health) -> UseError | None:
    """Returns when `stop` is set, or with what has to be mended when not one of the nodes can be registered before."""
    while not stop.wait(WATCH_PERIOD_S):
        if all(one.refusal for one in kept):
            return kept[0].refusal
        missing = [one for one in kept if not one.ready.is_set()]
        if missing:
            health.enter(State.WAITING, f"node {missing[0].name} is not registered yet: {missing[0].reason}")
        else:
            health.enter(State.SERVING)
    return None


def _keep(one: Registration, stop: threading.Event, health: Health, zookeeper: ZooKeeper) -> threading.Thread:
    beat = health.loop(f"the registration of {one.name}", ROUND_S, excused=zookeeper.suspended.is_set)
    thread = threading.Thread(target=one.keep, args=(stop, beat), daemon=True)
    thread.start()
    return thread


def _answers(zookeeper: ZooKeeper) -> Check:
    def check(_: float) -> Sequence[str]:
        return ["ZooKeeper does not answer"] if zookeeper.suspended.is_set() else []

    return check
