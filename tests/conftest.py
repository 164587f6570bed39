"""Fixtures on real servers. A test has its own database, its own ZooKeeper folder and empty Redis nodes."""

import logging
import secrets
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
import sqlalchemy as sa
import structlog

from infra.composition import Stores, open_stores
from infra.coordinator import Coordinator
from infra.database import make_engine, upgrade
from infra.errors import StackError
from infra.redis_node import RedisNode
from infra.registrar import Registration
from infra.settings import Settings
from infra.timelines import Timelines
from infra.topics import create_topics
from infra.zookeeper import ZooKeeper
from producers.publish import Publisher
from tests.http_client import close_clients
from tests.services import Services, running_services

TEMPLATE = "fanfold_template"


@pytest.fixture(autouse=True)
def logs_of_this_test() -> Iterator[None]:
    """A command that a test runs sets up logs for its own standard error, which is closed afterwards."""
    handlers, level = logging.root.handlers, logging.root.level
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
def template_database(services: Services) -> str:
    """A migrated database that each test's own is copied from."""
    url = sa.make_url(services.database_url)
    _in_server(services, f"CREATE DATABASE {TEMPLATE}")
    upgrade(url.set(database=TEMPLATE).render_as_string(hide_password=False))
    return TEMPLATE


@pytest.fixture
def database_url(services: Services, template_database: str) -> Iterator[str]:
    """A migrated database of this test's own."""
    name = f"test_{secrets.token_hex(6)}"
    _in_server(services, f"CREATE DATABASE {name} TEMPLATE {template_database}")
    yield sa.make_url(services.database_url).set(database=name).render_as_string(hide_password=False)
    _in_server(services, f"DROP DATABASE {name} WITH (FORCE)")


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
def stores(settings: Settings) -> Iterator[Stores]:
    """Open stores over empty, registered Redis nodes and a shard map of epoch 1."""
    for name, url in settings.redis_nodes.items():
        node = RedisNode(name, url)
        node.command("FLUSHALL", "SYNC")
        node.close()
    zookeeper = ZooKeeper(settings.zookeeper_hosts)
    registrations = [Registration(zookeeper, name, url) for name, url in settings.redis_nodes.items()]
    for registration in registrations:
        registration.look()
    coordinator = Coordinator(zookeeper)
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


def _in_server(services: Services, statement: str) -> None:
    server = sa.create_engine(services.database_url, isolation_level="AUTOCOMMIT")
    try:
        with server.connect() as connection:
            connection.execute(sa.text(statement))
    finally:
        server.dispose()
