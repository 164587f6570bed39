"""Health and metrics of real roles: standby, a node away, a consumer that stops; and only labels that are declared."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from consumers.read_timeline import TimelineReader
from infra.composition import Stores, stores
from infra.metrics import CATALOGUE
from infra.stack.ports import load_ports
from infra.stack.status import read_status, table
from infra.stack.supervisor import Stack
from infra.tokens import Tokens
from infra.topics import ACTIVITY, DELIVERIES
from producers.importer import import_follows
from producers.publish import NewTweet, Publisher
from tests.http_client import bearing
from tests.services import fresh_folder

ROLES = ("registrar", "coordinator", "relay", "worker", "counters", "api")
PLACES = ACTIVITY.partitions + DELIVERIES.partitions  # partitions that one worker has alone
USERS = 50


def ask(stack: Stack, part: str, path: str) -> tuple[int, str]:
    """The status and text of one answer of a role."""
    ports = load_ports(stack.data_dir)
    port = ports["api"] if part == "api" else ports[f"{part}-metrics"]
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, refused.read().decode()


def said(stack: Stack, part: str, path: str) -> dict[str, Any]:
    return dict(json.loads(ask(stack, part, path)[1]))


def samples(stack: Stack, part: str) -> dict[str, list[tuple[dict[str, str], float]]]:
    """What a role serves under /metrics, by the name of the sample."""
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(ask(stack, part, "/metrics")[1]):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def total(stack: Stack, part: str, name: str) -> float:
    return sum(value for _, value in samples(stack, part).get(name, []))


def wait_for(condition: Callable[[], bool], what: str, limit_s: float = 30.0) -> None:
    pause = threading.Event()
    for _ in range(int(limit_s / 0.2)):
        if condition():
            return
        pause.wait(0.2)
    raise AssertionError(f"waited {limit_s} s in vain for {what}")


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    folder = fresh_folder("health")
    made = Stack(folder, roles=ROLES)
    made.start()
    try:
        yield made
    finally:
        made.stop()
    shutil.rmtree(folder)  # kept when a test failed in it: its logs say why


@pytest.fixture(scope="module")
def opened(stack: Stack) -> Iterator[Stores]:
    """Users who all follow user 1, and are active."""
    with stores(stack.settings()) as found:
        follows = Path(stack.data_dir) / "follows.tsv"
        follows.write_text("".join(f"{user}\t1\n" for user in range(2, USERS + 1)))
        import_follows(found.engine, follows, threshold=10_000)
        TimelineReader(found).warm(range(1, USERS + 1))
        yield found


def publish(opened: Stores, count: int = 20) -> None:
    Publisher(opened).post_many([NewTweet(1, f"tweet {number}") for number in range(count)])


@pytest.mark.parametrize("role", ROLES)
def test_every_role_is_alive_and_ready_and_serves_its_metrics(stack: Stack, role: str) -> None:
    assert said(stack, role, "/healthz") == {"status": "alive", "reasons": []}
    ready = said(stack, role, "/readyz")
    assert (ready["status"], ready["reasons"]) == ("ready", [])
    assert "process_resident_memory_bytes" in ask(stack, role, "/metrics")[1]


def test_the_status_of_the_stack_shows_the_health_of_every_role(stack: Stack) -> None:
    status = read_status(stack.settings())
    shown = {part.name: part.health.status for part in status.parts if part.health is not None}
    assert shown == dict.fromkeys(ROLES, "ready")
    assert any("worker" in line and " ready " in line for line in table(status))


def lags(stack: Stack, unit: str) -> list[float]:
    """The lag of each partition that the worker shows: none while Kafka has not answered."""
    return [value for _, value in samples(stack, "worker").get(f"fanfold_lag_{unit}", [])]


def test_what_was_delivered_is_counted_and_no_lag_is_left(stack: Stack, opened: Stores) -> None:
    """A transaction's marker is behind the last message of every partition, and yet the lag is zero."""
    before = total(stack, "worker", "fanfold_deliveries_total")
    publish(opened)

    wait_for(
        lambda: total(stack, "worker", "fanfold_deliveries_total") - before == 3 * 20 * (USERS - 1), "every delivery"
    )
    wait_for(lambda: lags(stack, "offsets") == [0.0] * PLACES, "no lag in any partition")
    wait_for(lambda: lags(stack, "seconds") == [0.0] * PLACES, "no lag in any partition")
    assert total(stack, "relay", "fanfold_relayed_total") >= 20
    wait_for(lambda: total(stack, "relay", "fanfold_outbox_unsent_events") == 0, "an empty outbox")
    assert total(stack, "relay", "fanfold_outbox_age_seconds") == 0


def test_a_read_that_misses_is_counted(stack: Stack, opened: Stores) -> None:
    node = opened.clusters.node
    for name in opened.clusters.shard_map.nodes:
        node(name).command("UNLINK", b"h:" + (7).to_bytes(8, "big"))
    port = load_ports(stack.data_dir)["api"]
    _, token = Tokens(opened.engine).create(7)
    request = urllib.request.Request(f"http://127.0.0.1:{port}/v1/timelines/home", headers=bearing(token))
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status == 200

    assert ({"kind": "home"}, 1.0) in samples(stack, "api")["fanfold_misses_total"]
    assert ({"kind": "home", "result": "rebuilt"}, 1.0) in samples(stack, "api")["fanfold_rebuilds_total"]
    assert total(stack, "api", "fanfold_pages_total") >= 1


def test_every_label_that_is_served_has_a_declared_name_and_value(stack: Stack) -> None:
    declared = {metric.name: metric for metric in CATALOGUE}
    for role in ROLES:
        for name, found in samples(stack, role).items():
            if not name.startswith("fanfold"):
                continue
            metric = declared[name.removesuffix("_bucket").removesuffix("_count").removesuffix("_sum")]
            for labels, _ in found:
                labels.pop("le", None)
                assert labels.keys() == metric.labels.keys(), name
                assert all(labels[one] in metric.labels[one] for one in labels), (name, labels)


@pytest.mark.parametrize("role", ["relay", "coordinator", "counters"])
def test_a_second_one_stands_by_and_takes_over(stack: Stack, role: str) -> None:
    second = stack.start_role(role, 2)
    assert said(stack, second, "/readyz")["status"] == "standby"
    assert ask(stack, second, "/healthz")[0] == 200

    stack.stop_part(role)
    wait_for(lambda: said(stack, second, "/readyz")["status"] == "ready", f"the second {role} to take over")

    stack.start_part(role)
    assert said(stack, role, "/readyz")["status"] == "standby"
    stack.stop_part(second)
    wait_for(lambda: said(stack, role, "/readyz")["status"] == "ready", f"the first {role} to lead again")


def test_a_worker_that_waits_for_a_node_is_alive_and_ready_and_its_lag_grows(stack: Stack, opened: Stores) -> None:
    """One of the two is marked down; without the other too few copies would be left."""
    for name in ("b1", "c1"):
        stack.kill(name, signal.SIGSTOP)
    try:
        publish(opened)
        wait_for(lambda: bool(said(stack, "worker", "/readyz")["waiting"]), "the worker to say what it waits for")
        wait_for(lambda: total(stack, "worker", "fanfold_lag_seconds") > 5, "the lag to grow")
        assert ask(stack, "worker", "/healthz")[0] == 200
        ready = said(stack, "worker", "/readyz")
        assert (ready["status"], ready["reasons"]) == ("ready", [])
        assert all("b1" in one or "c1" in one for one in ready["waiting"])
        assert said(stack, "api", "/readyz")["clusters"] == ["a"]
    finally:
        for name in ("b1", "c1"):
            stack.kill(name, signal.SIGCONT)
    wait_for(lambda: total(stack, "worker", "fanfold_lag_offsets") == 0, "no lag")
    assert said(stack, "worker", "/readyz")["waiting"] == []


def test_partitions_spread_and_both_workers_are_ready(stack: Stack) -> None:
    stack.start_role("worker", 2)
    wait_for(
        lambda: len(samples(stack, "worker").get("fanfold_lag_offsets", [])) == PLACES / 2, "half of the partitions"
    )
    partitions = said(stack, "worker-2", "/readyz")["partitions"]
    assert sum(partitions.values()) == PLACES / 2

    stack.stop_part("worker-2")

    wait_for(lambda: len(samples(stack, "worker")["fanfold_lag_offsets"]) == PLACES, "all partitions")
    assert ask(stack, "worker", "/readyz")[0] == 200


def test_while_kafka_is_away_the_worker_is_alive_and_not_ready(stack: Stack) -> None:
    stack.kill("kafka", signal.SIGSTOP)
    try:
        wait_for(lambda: ask(stack, "worker", "/readyz")[0] == 503, "the worker to miss Kafka")
        assert said(stack, "worker", "/readyz")["reasons"] == ["Kafka does not answer"]
        assert ask(stack, "worker", "/healthz")[0] == 200
    finally:
        stack.kill("kafka", signal.SIGCONT)
    wait_for(lambda: ask(stack, "worker", "/readyz")[0] == 200, "the worker to be ready again", limit_s=60)


# A worker whose consumer sleeps for ever once a file is there. The limit is shorter, so that the test is.
SABOTAGED = """
import asyncio, pathlib, sys
from infra.cli import main
from streams import in_order, progress

fetch, sign = in_order.NotingThread._fetch_records, pathlib.Path(sys.argv[1])

async def fetch_or_sleep(self, *given, **named):
    while sign.exists():
        await asyncio.sleep(1)
    return await fetch(self, *given, **named)

in_order.NotingThread._fetch_records = fetch_or_sleep
progress.STALLED_S = 4.0
sys.argv = ["fanfold", "--data-dir", sys.argv[2], "worker"]
main()
"""


def test_a_worker_whose_consumer_silently_stopped_is_unhealthy_until_it_goes_on(stack: Stack, opened: Stores) -> None:
    stack.stop_part("worker")
    sign = stack.data_dir / "sleep"
    environ = os.environ | {"FANFOLD_METRICS_PORT": str(load_ports(stack.data_dir)["worker-metrics"])}
    command = [sys.executable, "-c", SABOTAGED, str(sign), str(stack.data_dir)]
    with (
        (stack.data_dir / "logs" / "sabotaged.log").open("w") as log,
        subprocess.Popen(command, env=environ, stderr=log) as worker,
    ):
        try:
            wait_for(lambda: answers(stack, "worker", 200), "the worker to be ready")
            sign.touch()
            publish(opened)
            wait_for(lambda: ask(stack, "worker", "/healthz")[0] == 503, "the worker to be unhealthy")
            answer = said(stack, "worker", "/healthz")
            assert answer["status"] == "unhealthy"
            assert "has messages in partition" in answer["reasons"][0]
            assert total(stack, "worker", "fanfold_lag_offsets") > 0
            assert total(stack, "worker", "fanfold_lag_seconds") > 4
            sign.unlink()
            wait_for(lambda: ask(stack, "worker", "/healthz")[0] == 200, "the worker to be healthy again")
            wait_for(lambda: total(stack, "worker", "fanfold_lag_offsets") == 0, "no lag")
        finally:
            worker.terminate()
    stack.start_part("worker")


def answers(stack: Stack, part: str, status: int) -> bool:
    try:
        return ask(stack, part, "/readyz")[0] == status
    except OSError:
        return False


def test_every_line_of_a_role_is_an_event_in_json(stack: Stack) -> None:
    """The last test looks at what all before it made the roles say."""
    for role in ("registrar", "coordinator", "relay", "worker", "counters"):
        for line in (stack.data_dir / "logs" / f"{role}.log").read_text().splitlines():
            if line.startswith("%"):
                continue  # librdkafka's own
            assert {"event", "level", "timestamp"} <= json.loads(line).keys(), line
