"""Fixtures on real servers. A test has its own database, its own ZooKeeper folder and empty Redis nodes."""

import logging
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import sqlalchemy as sa
import structlog
from xdist.scheduler import LoadScopeScheduling

from infra.composition import Stores, open_stores
from infra.database import make_engine
from infra.errors import StackError
from infra.redis_node import RedisNode
from infra.registrar import Registration
from infra.settings import Settings
from infra.timelines import Timelines
from infra.topics import create_topics
from infra.zookeeper import ZooKeeper
from producers.publish import Publisher
from tests.coordinating import coordinating
from tests.databases import TestDatabases
from tests.http_client import close_clients
from tests.services import Services, running_services

# How long an example takes says more about the machine than about the code.
hypothesis.settings.register_profile("fanfold", deadline=None)
hypothesis.settings.load_profile("fanfold")

WHOLE_STACKS = ("stack", "drills", "benchmarks")  # folders


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    """With several processes: tests of whole stacks go to one of them, since a stack is large and some of its defaults
    (the API's port) are for one of a machine; the others go file by file."""
    return ByFileAndStacks(config, log)


class ByFileAndStacks(LoadScopeScheduling):  # type: ignore[misc]
    """What goes to one process as a whole."""

    def _split_scope(self, nodeid: str) -> str:
        path = nodeid.split("::")[0]
        return "stacks" if Path(path).parent.name in WHOLE_STACKS else path


def use_plain_tracebacks() -> None:
    """What structlog prints by itself shows every local variable, which can take a minute."""
    *others, _ = structlog.get_config()["processors"]
    plain = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    structlog.configure(processors=[*others, plain])


@pytest.fixture(autouse=True)
def logs_of_this_test() -> Iterator[None]:
    """A command that a test runs sets up logs for its own standard error, which is closed afterwards."""
    handlers, level = logging.root.handlers, logging.root.level
    use_plain_tracebacks()
    yield
    structlog.reset_defaults()
    logging.root.handlers = handlers
    logging.root.setLevel(level)


@pytest.fixture(autouse=True)
def clients_of_this_test() -> Iterator[None]:
    """Clients of the HTTP API are closed as its server would close them."""
    yield
    close_clients()


@pytest.fixture(scope="session")
def services() -> Iterator[Services]:
    """Running servers. Without them nothing can be tested: the run ends with the sentence that says why."""
    with ExitStack() as running:
        try:
            found = running.enter_context(running_services())
        except StackError as error:
            pytest.exit(str(error), returncode=error.exit_code)
        create_topics(found.kafka_bootstrap)
        yield found


@pytest.fixture(scope="session")
def databases(services: Services) -> Iterator[TestDatabases]:
    """Where tests get their databases."""
    made = TestDatabases(services.database_url)
    yield made
    made.close()


@pytest.fixture
def database_url(databases: TestDatabases) -> Iterator[str]:
    """A migrated database of this test's own."""
    lent = databases.lend()
    yield lent
    databases.take_back(lent)


@pytest.fixture
def engine(database_url: str) -> Iterator[sa.Engine]:
    """An engine on this test's database."""
    made = make_engine(database_url)
    yield made
    made.dispose()


@pytest.fixture
def settings(services: Services, database_url: str) -> Settings:
    """The settings of a process that uses this test's database and ZooKeeper folder."""
    return Settings(
        database_url=database_url,
        kafka_bootstrap=services.kafka_bootstrap,
        zookeeper_hosts=f"{services.zookeeper}/test_{secrets.token_hex(6)}",
        redis_nodes=services.redis_nodes,
    )


@pytest.fixture
def new_session(settings: Settings) -> Iterator[Callable[[], ZooKeeper]]:
    """Opens sessions in this test's ZooKeeper folder."""
    opened: list[ZooKeeper] = []

    def open_() -> ZooKeeper:
        opened.append(ZooKeeper(settings.zookeeper_hosts))
        return opened[-1]

    yield open_
    for session in opened:
        session.close()


@pytest.fixture
def zookeeper(new_session: Callable[[], ZooKeeper]) -> ZooKeeper:
    """A session in this test's ZooKeeper folder."""
    return new_session()


@pytest.fixture
def stores(settings: Settings, engine: sa.Engine) -> Iterator[Stores]:
    """Open stores over empty, registered Redis nodes and a shard map of epoch 1."""
    for name, url in settings.redis_nodes.items():
        node = RedisNode(name, url)
        node.command("FLUSHALL", "SYNC")
        node.close()
    zookeeper = ZooKeeper(settings.zookeeper_hosts)
    registrations = [Registration(zookeeper, name, url) for name, url in settings.redis_nodes.items()]
    with ThreadPoolExecutor(len(registrations)) as threads:
        list(threads.map(Registration.look, registrations))
    with coordinating(zookeeper, engine) as coordinator:
        while not coordinator.step():
            continue
    opened = open_stores(settings)
    yield opened
    opened.close()
    for registration in registrations:
        registration.close()
    zookeeper.close()


@pytest.fixture
def timelines(stores: Stores) -> Timelines:
    """The timelines over empty Redis nodes."""
    return stores.timelines


@pytest.fixture
def publisher(stores: Stores) -> Iterator[Publisher]:
    """The publishing calls on this test's database."""
    with Publisher(stores) as made:
        yield made


@pytest.fixture
def make_users(publisher: Publisher) -> Callable[[int], list[int]]:
    """Makes some users with random ids."""

    def make(count: int) -> list[int]:
        ids = [secrets.randbelow(1 << 62) + 1 for _ in range(count)]
        return [publisher.create_user(f"u{user_id}", user_id).id for user_id in ids]

    return make
