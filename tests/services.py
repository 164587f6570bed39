"""The real servers that tests run on: the embedded stack, or containers with FANFOLD_TEST_SERVICES=docker."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from infra.settings import Settings, load_settings
from infra.stack.progress import silent
from infra.stack.stop import stop_stack
from infra.stack.supervisor import Stack

# A fixed place for each of several test processes: what a killed run left there is ended and removed by the next one.
TEST_FOLDER = Path(__file__).parent.parent / ".fanfold" / "test" / os.environ.get("PYTEST_XDIST_WORKER", "main")


@dataclass(frozen=True, slots=True)
class Services:
    """Addresses of running servers; a test takes a database and a ZooKeeper folder of its own."""

    database_url: str
    kafka_bootstrap: str
    zookeeper: str
    redis_nodes: dict[str, str]


def fresh_folder(name: str) -> Path:
    """An empty data folder; whatever a killed run left in it is ended first."""
    folder = TEST_FOLDER / name
    stop_stack(folder, silent=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


@contextmanager
def running_services() -> Iterator[Services]:
    """The servers that FANFOLD_TEST_SERVICES asks for, for as long as the context lasts."""
    if load_settings(os.environ).test_services == "docker":
        from tests.docker_services import docker_services

        with docker_services() as services:
            yield services
        return
    with embedded_services() as services:
        yield services


@contextmanager
def embedded_services() -> Iterator[Services]:
    """The embedded stack's servers, without roles."""
    folder = fresh_folder("services")
    stack = Stack(folder, roles=(), prepare=False)
    stack.start(silent)
    try:
        yield services_of(stack.settings())
    finally:
        stack.stop(silent)
        shutil.rmtree(folder, ignore_errors=True)


def services_of(settings: Settings) -> Services:
    """A stack's servers."""
    return Services(
        settings.database_url,
        settings.kafka_bootstrap,
        settings.zookeeper_hosts.split("/")[0],
        dict(settings.redis_nodes),
    )
