"""The same servers as containers, where a Docker engine answers."""

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING

from infra.errors import StackError

if TYPE_CHECKING:
    from tests.services import Services

KAFKA_IMAGE = "apache/kafka:4.1.1"
ZOOKEEPER_IMAGE = "zookeeper:3.9"
REDIS_IMAGE = "valkey/valkey:9"
POSTGRES_IMAGE = "postgres:18"
NODE_NAMES = ("a1", "a2", "b1", "b2", "c1", "c2")


def need_docker() -> None:
    """Raises `StackError` with a sentence when no Docker engine answers."""
    import docker
    from docker.errors import DockerException

    try:
        with closing(docker.from_env()) as client:
            client.ping()
    except (DockerException, OSError) as error:
        raise StackError(
            f"FANFOLD_TEST_SERVICES is docker, but no Docker engine answers ({error}): "
            "start one, or unset the variable to test on the embedded stack"
        ) from error


@contextmanager
def docker_services() -> Iterator["Services"]:
    """Containers for as long as the context lasts. Raises `StackError` without a Docker engine."""
    need_docker()
    from testcontainers.core.container import DockerContainer
    from testcontainers.core.waiting_utils import wait_for_logs
    from testcontainers.kafka import KafkaContainer
    from testcontainers.postgres import PostgresContainer

    from tests.services import Services

    with ExitStack() as running:
        postgres = running.enter_context(PostgresContainer(POSTGRES_IMAGE, driver="psycopg"))
        kafka = running.enter_context(KafkaContainer(KAFKA_IMAGE).with_kraft())
        zookeeper = running.enter_context(DockerContainer(ZOOKEEPER_IMAGE).with_exposed_ports(2181))
        wait_for_logs(zookeeper, "Snapshot taken|binding to port")
        nodes = {}
        for name in NODE_NAMES:
            node = DockerContainer(REDIS_IMAGE).with_exposed_ports(6379)
            node.with_command(
                "valkey-server --save '' --appendonly no --rdbcompression no --maxmemory-policy volatile-lru"
            )
            running.enter_context(node)
            wait_for_logs(node, "Ready to accept connections")
            nodes[name] = f"redis://{node.get_container_host_ip()}:{node.get_exposed_port(6379)}"
        yield Services(
            postgres.get_connection_url(),
            kafka.get_bootstrap_server(),
            f"{zookeeper.get_container_host_ip()}:{zookeeper.get_exposed_port(2181)}",
            nodes,
        )
