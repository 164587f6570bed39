"""Fixtures of several contract tests."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from infra.composition import Stores
from infra.leases import COORDINATOR, lease
from infra.live_settings import set_live_settings
from infra.rebuild import rebuild
from infra.redis_clusters import RedisClusters
from infra.redis_node import RedisNode
from infra.registrar import Registration
from infra.replay_jobs import Jobs
from infra.settings import Settings
from infra.slots import SLOTS
from infra.timelines import Kind
from infra.zookeeper import ZooKeeper
from tests.contracts.deployment import LEAVE_AFTER_S, Deployment
from tests.contracts.outage import MakeUsers, Outage
from tests.fixed_maps import fixed_maps
from tests.redis_server import RedisServer, redis_server
from tests.replaying import Ground
from tests.services import Services

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def outage(stores: Stores) -> Outage:
    return Outage(stores)


@pytest.fixture
def user(stores: Stores, make_users: MakeUsers) -> int:
    """Somebody with an empty timeline in every copy."""
    [made] = make_users(1)
    rebuild(stores.engine, stores.timelines, Kind.HOME, [made])
    return made


@pytest.fixture
def cut_off(stores: Stores) -> Iterator[RedisClusters]:
    """The same nodes for a process that has not heard from ZooKeeper of late."""
    made = RedisClusters(fixed_maps(stores.clusters.shard_map, cut_off=True), 1.0)
    yield made
    made.close()


@pytest.fixture
def make_deployment(settings: Settings, engine: sa.Engine) -> Iterator[Callable[..., Deployment]]:
    zookeeper = ZooKeeper(settings.zookeeper_hosts)
    registrations = {}

    def make(without: str = "") -> Deployment:
        for name, url in settings.redis_nodes.items():
            node = RedisNode(name, url)
            node.command("FLUSHALL", "SYNC")
            node.close()
            registrations[name] = Registration(zookeeper, name, url)
            if name != without:
                registrations[name].look()
        made = Deployment(settings, zookeeper, held, engine)
        made.rest()
        set_live_settings(zookeeper, leave_after_s=LEAVE_AFTER_S, move_slots_max=SLOTS)
        return made

    with lease(zookeeper, COORDINATOR) as held:
        yield make
    for registration in registrations.values():
        registration.close()
    zookeeper.close()


@pytest.fixture
def deployment(make_deployment: Callable[..., Deployment]) -> Deployment:
    return make_deployment()


@pytest.fixture
def shards(settings: Settings, tmp_path: Path) -> Run:
    """Runs `fanfold shards` with these words, as a process of its own."""

    def run(*words: str, **environ: str) -> "subprocess.CompletedProcess[str]":
        given = {"FANFOLD_DATABASE_URL": settings.database_url, "FANFOLD_ZOOKEEPER_HOSTS": settings.zookeeper_hosts}
        command = [sys.executable, "-m", "infra", "--data-dir", str(tmp_path), "shards", *words]
        return subprocess.run(
            command, capture_output=True, text=True, check=False, env=os.environ | given | environ, timeout=60
        )

    return run


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server that is fit to be a node, and empty."""
    with redis_server(tmp_path) as made:
        yield made


@pytest.fixture
def ground(stores: Stores, services: Services) -> Iterator[Ground]:
    """Where a test replays."""
    made = Ground(stores, services.kafka_bootstrap)
    yield made
    made.close()


@pytest.fixture
def jobs(zookeeper: ZooKeeper) -> Jobs:
    """No replays yet."""
    return Jobs(zookeeper)
