"""Kafka 4.1: one KRaft node that is broker and controller; both logs of the design live in it."""

import functools
import subprocess
import uuid
from base64 import urlsafe_b64encode
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from infra.errors import StackError
from infra.stack.java import FIRST_COMPILER, java_command, write_logging
from infra.stack.part import LOOPBACK, PROBE_TIMEOUT_S, Part, listens

MAIN_CLASS = "kafka.Kafka"
FORMAT_CLASS = "kafka.tools.StorageTool"
# Both compilers: once the second one is through, after a minute under load, a tweet costs the broker 2.0 ms instead of
# 2.4 (two cores, 163 tweets a second), and it answers sooner. What was learned before (training.py) shortens that.
OPTIONS = ("-Xms256m", "-Xmx512m")
FORMAT_OPTIONS = ("-Xmx128m", FIRST_COMPILER)
FORMAT_WITHIN_S = 60

# One broker, so every internal topic has one replica. Few partitions in them: each costs files and memory,
# and there are a handful of groups and transactional producers.
INTERNAL_TOPICS = {
    "offsets.topic.replication.factor": 1,
    "offsets.topic.num.partitions": 8,
    "transaction.state.log.replication.factor": 1,
    "transaction.state.log.min.isr": 1,
    "transaction.state.log.num.partitions": 10,
    "share.coordinator.state.topic.replication.factor": 1,
    "share.coordinator.state.topic.min.isr": 1,
    "share.coordinator.state.topic.num.partitions": 1,
}
BEHAVIOUR = {
    # A killed broker's successor is let in only when the dead one's session is over: after 9 s by default.
    "broker.session.timeout.ms": 4_000,
    "broker.heartbeat.interval.ms": 1_000,
    "auto.create.topics.enable": "false",  # infra/topics.py is the only place that makes topics
    # An open transaction of a killed worker ends a second after its time, not ten: its partitions' new owner waits.
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": 1_000,
    "group.initial.rebalance.delay.ms": 0,  # nobody else is about to join
    "log.cleaner.dedupe.buffer.size": 16 << 20,  # bytes; the default takes a quarter of this heap
    "log.retention.check.interval.ms": 60_000,
    "log.segment.delete.delay.ms": 10_000,  # readers of a deleted segment have ended by then
    "num.network.threads": 2,
    "num.io.threads": 4,
}


def kafka_part(folder: Path, port: int, controller_port: int) -> Part:
    """The broker whose data is in `folder`. Its replication to disk is the page cache's, as Kafka's default is."""
    return Part(
        name="kafka",
        kind="server",
        command=java_command(folder, OPTIONS, MAIN_CLASS, str(folder / "server.properties")),
        address=f"{LOOPBACK}:{port}",
        folder=folder,
        prepare=functools.partial(_prepare, folder, port, controller_port),
        probe=lambda _pid: _lists_topics(port),
        ready_within_s=90,
        stop_within_s=30,  # it closes its logs; after a KILL it must read them again
    )


def configuration(folder: Path, port: int, controller_port: int) -> str:
    """server.properties."""
    settings = {
        "process.roles": "broker,controller",
        "node.id": 1,
        "controller.quorum.voters": f"1@{LOOPBACK}:{controller_port}",
        "listeners": f"PLAINTEXT://{LOOPBACK}:{port},CONTROLLER://{LOOPBACK}:{controller_port}",
        "advertised.listeners": f"PLAINTEXT://{LOOPBACK}:{port}",
        "controller.listener.names": "CONTROLLER",
        "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
        "log.dirs": folder / "log",
        **INTERNAL_TOPICS,
        **BEHAVIOUR,
    }
    return "".join(f"{key}={value}\n" for key, value in settings.items())


def _prepare(folder: Path, port: int, controller_port: int) -> None:
    """Writes the configuration and formats the log folder once."""
    write_logging(folder)
    properties = folder / "server.properties"
    properties.write_text(configuration(folder, port, controller_port), encoding="utf-8")
    if (folder / "log" / "meta.properties").exists():
        return
    cluster_id = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    arguments = (
        "format",
        "--ignore-formatted",
        f"--cluster-id={cluster_id}",
        "-c",
        str(properties),
    )  # it may begin with "-"
    command = java_command(folder, FORMAT_OPTIONS, FORMAT_CLASS, *arguments)
    done = subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=FORMAT_WITHIN_S,
        start_new_session=True,
    )
    if done.returncode != 0:
        raise StackError(f"kafka's log folder could not be formatted:\n{(done.stdout + done.stderr).strip()}")


def _lists_topics(port: int) -> bool:
    """Whether the broker answers a metadata request. The connection comes first: librdkafka logs a refusal."""
    if not listens(port):
        return False
    try:
        admin = AdminClient({"bootstrap.servers": f"{LOOPBACK}:{port}", "log_level": 0})
        return bool(admin.list_topics(timeout=PROBE_TIMEOUT_S).brokers)
    except KafkaException:
        return False
