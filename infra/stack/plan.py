"""What a stack consists of: its servers in the order of their start, their ports, and their addresses for others."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from infra.stack.kafka_broker import kafka_part
from infra.stack.part import LOOPBACK, Part
from infra.stack.postgres import database_url, postgres_part
from infra.stack.roles import instance_name
from infra.stack.valkey import NODES, valkey_part
from infra.stack.zookeeper import ROOT, zookeeper_part

SERVER_PORTS = ("postgres", "zookeeper", *NODES, "kafka", "kafka-controller")


def metrics_port_name(role: str, instance: int = 1) -> str:
    """The name under which ports.json has a role's metrics."""
    return f"{instance_name(role, instance)}-metrics"


def port_names(roles: Iterable[tuple[str, int]]) -> list[str]:
    """The names of all ports that a stack with these (role, instance) pairs listens on."""
    return [*SERVER_PORTS, "api", *(metrics_port_name(*role) for role in roles)]


def server_parts(data_dir: Path, ports: Mapping[str, int]) -> list[Part]:
    """The servers, in the order in which they are started (and in reverse stopped)."""
    return [
        postgres_part(data_dir / "postgres", ports["postgres"]),
        zookeeper_part(data_dir / "zookeeper", ports["zookeeper"]),
        *(valkey_part(node, data_dir / "valkey" / node, ports[node]) for node in NODES),
        kafka_part(data_dir / "kafka", ports["kafka"], ports["kafka-controller"]),
    ]


def addresses(ports: Mapping[str, int]) -> dict[str, str]:
    """The settings by which every other process finds the servers."""
    nodes: Sequence[str] = [f"{node}=redis://{LOOPBACK}:{ports[node]}" for node in NODES]
    return {
        "FANFOLD_DATABASE_URL": database_url(ports["postgres"]),
        "FANFOLD_KAFKA_BOOTSTRAP": f"{LOOPBACK}:{ports['kafka']}",
        "FANFOLD_ZOOKEEPER_HOSTS": f"{LOOPBACK}:{ports['zookeeper']}{ROOT}",
        "FANFOLD_REDIS_NODES": ",".join(nodes),
        "FANFOLD_API_PORT": str(ports["api"]),
    }
