"""Health: what is alive and ready, decided from beats and states; and the HTTP answers of a role."""

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.errors import DependencyError
from infra.health import Beat, Health, State, say_ready, silent_loops
from infra.health_server import HealthServer
from infra.role import show_health
from infra.settings import Settings
from infra.stack.ports import is_free
from infra.stack.status import RoleHealth, read_health
from tests.clock import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def health(clock: Clock) -> Health:
    return Health(clock)


@pytest.fixture
def server(health: Health) -> Iterator[str]:
    port = next(port for port in range(21_000, 22_000) if is_free(port))
    served = HealthServer(port, health)
    yield f"http://127.0.0.1:{port}"
    served.stop()


def ask(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, refused.read().decode()


@pytest.mark.parametrize(
    ("beats", "silent"),
    [
        ({}, []),
        ({"relay": Beat(100.0, 10.0)}, []),
        ({"relay": Beat(90.0, 10.0)}, []),
        ({"relay": Beat(89.0, 10.0)}, ["relay has not gone round for 11 s; 10 s are the most it takes"]),
        (
            {"relay": Beat(100.0, 10.0), "a1": Beat(10.0, 30.0)},
            ["a1 has not gone round for 90 s; 30 s are the most it takes"],
        ),
    ],
)
def test_a_loop_that_has_not_gone_round_in_time_is_named(beats: dict[str, Beat], silent: list[str]) -> None:
    assert silent_loops(beats, 100.0) == silent


@pytest.mark.parametrize(
    ("state", "why", "lacking", "status", "reasons"),
    [
        (State.STARTING, "", [], "unready", ("it is starting",)),
        (State.WAITING, "ZooKeeper is away", [], "unready", ("ZooKeeper is away",)),
        (State.WAITING, "no map", ["Kafka is away"], "unready", ("no map", "Kafka is away")),
        (State.STANDBY, "", [], "standby", ()),
        (State.STANDBY, "", ["ZooKeeper is away"], "unready", ("ZooKeeper is away",)),
        (State.SERVING, "", [], "ready", ()),
        (State.SERVING, "", ["Kafka is away"], "unready", ("Kafka is away",)),
    ],
)
def test_ready_is_who_works_or_waits_to_take_over(
    state: State, why: str, lacking: list[str], status: str, reasons: tuple[str, ...]
) -> None:
    answer = say_ready(state, why, lacking, {"partitions": 3})
    assert (answer.status, answer.reasons, answer.http_status) == (status, reasons, 503 if reasons else 200)
    assert answer.as_json() == {"status": status, "reasons": list(reasons), "partitions": 3}


def test_a_process_is_alive_while_each_of_its_loops_beats(health: Health, clock: Clock) -> None:
    beat, _ = health.loop("first", 10.0), health.loop("second", 60.0)
    clock.now_s += 30
    assert health.alive().status == "unhealthy"
    beat()
    assert health.alive().status == "alive"
    health.end_loop("second")
    clock.now_s += 9
    assert health.alive().status == "alive"


def test_a_loop_that_may_stand_still_is_not_blamed_for_that_time(health: Health, clock: Clock) -> None:
    away = [True]
    health.loop("coordinator", 10.0, excused=lambda: away[0])
    clock.now_s += 300
    assert health.alive().status == "alive"
    away[0] = False
    assert health.alive().status == "alive", "it has had no time yet to go round"
    clock.now_s += 11
    assert health.alive().status == "unhealthy"


def test_a_check_that_fails_is_a_reason(health: Health) -> None:
    def broken(_: float) -> list[str]:
        raise ValueError("five")

    health.also_alive_if(broken)
    assert health.alive().reasons == ("a check failed: ValueError('five')",)


@pytest.mark.parametrize("state", [State.STANDBY, State.SERVING])
def test_who_is_ready_is_announced_if_only_as_standby(tmp_path: Path, state: State) -> None:
    health = Health()
    announced = tmp_path / "ready"
    show_health(Settings(ready_file=announced), health)
    health.enter(State.WAITING)
    assert not announced.exists()
    health.enter(state)
    for _ in range(200):
        if announced.exists():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it was not announced")


def test_answers_are_json_with_status_and_reasons(health: Health, clock: Clock, server: str) -> None:
    health.enter(State.STANDBY)
    assert ask(f"{server}/healthz") == (200, '{"status": "alive", "reasons": []}\n')
    assert ask(f"{server}/readyz?now") == (200, '{"status": "standby", "reasons": []}\n')
    health.loop("relay", 1.0)
    clock.now_s += 5
    status, text = ask(f"{server}/healthz")
    assert (status, json.loads(text)["status"]) == (503, "unhealthy")
    assert ask(f"{server}/else")[0] == 404


def test_metrics_are_served_beside_health(server: str) -> None:
    status, text = ask(f"{server}/metrics")
    assert status == 200
    assert "# TYPE fanfold_deliveries_total counter" in text


def test_a_port_that_is_taken_is_one_sentence(health: Health, server: str) -> None:
    with pytest.raises(DependencyError, match=r"for metrics cannot be had .* FANFOLD_METRICS_PORT"):
        HealthServer(int(server.rpartition(":")[2]), health)


def test_the_status_of_a_stack_says_how_a_role_is_and_why(health: Health, clock: Clock, server: str) -> None:
    health.enter(State.STANDBY)
    assert read_health(f"{server}/metrics") == RoleHealth("standby")
    health.enter(State.WAITING, "no database")
    assert read_health(f"{server}/metrics") == RoleHealth("unready", ("no database",))
    health.loop("relay", 1.0)
    clock.now_s += 5
    assert read_health(f"{server}/metrics").status == "unhealthy"


def test_a_role_that_does_not_answer_is_silent() -> None:
    assert read_health("http://127.0.0.1:1/metrics").status == "silent"
