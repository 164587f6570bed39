"""The embedded servers under `fanfold up`, `down` and `status`, as a person uses them. No roles run here."""

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from confluent_kafka.admin import AdminClient, NewTopic

from infra.errors import StackError
from infra.settings import Settings, load_settings
from infra.stack.part import ask
from infra.stack.plan import SERVER_PORTS
from infra.stack.ports import load_ports
from infra.stack.processes import ProcessId, group_members, is_alive
from infra.stack.progress import Progress
from infra.stack.roles import fanfold_command
from infra.stack.state import PartState, is_held, load_record, record_of_holder
from infra.stack.stop import stop_stack
from infra.stack.supervisor import Stack
from tests.waiting import wait_until

COMMAND_WITHIN_S = 120
STARTED_WITHIN_S = 30.0
SERVERS = [name for name in SERVER_PORTS if name != "kafka-controller"]


def fanfold(data_dir: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        fanfold_command(data_dir, *words), capture_output=True, text=True, timeout=COMMAND_WITHIN_S, check=False
    )


def processes_of(data_dir: Path) -> list[ProcessId]:
    """Every process of the parts on record, their children too."""
    record = load_record(data_dir)
    assert record is not None
    leaders = [part.process for part in record.parts if part.process is not None]
    assert len(leaders) == len(SERVERS)
    return [member for leader in leaders for member in group_members(leader)]


def database(settings: Settings) -> psycopg.Connection[Any]:
    return psycopg.connect(settings.database_url.replace("+psycopg", ""), autocommit=True)


def abandoned_stack(data_dir: Path) -> list[ProcessId]:
    """The processes that a supervisor killed with SIGKILL has left."""
    program = f"""
import pathlib, signal
from infra.stack.supervisor import Stack
Stack(pathlib.Path({str(data_dir)!r}), roles=(), prepare=False).start()
signal.pause()
"""
    supervisor = subprocess.Popen([sys.executable, "-c", program])
    wait_until(lambda: is_ready(data_dir) or supervisor.poll() is not None, "the stack", STARTED_WITHIN_S)
    left = processes_of(data_dir)
    supervisor.kill()
    supervisor.wait()
    assert all(is_alive(process) for process in left)
    return left


def is_ready(data_dir: Path) -> bool:
    record = record_of_holder(data_dir)
    return record is not None and record.ready


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "data"
    yield folder
    stop_stack(folder)


def test_up_serves_status_shows_it_a_second_up_refuses_down_stops_it_and_the_data_stays(data_dir: Path) -> None:
    started = fanfold(data_dir, "up", "--servers-only", "--detach")
    assert started.returncode == 0, started.stderr
    for server in SERVERS:
        assert f"  {server:<12} ready after" in started.stderr
    settings, ports = load_settings({}, data_dir), load_ports(data_dir)
    with database(settings) as connection:
        connection.execute("CREATE TABLE kept (n int); INSERT INTO kept VALUES (41)")
        assert connection.execute("SHOW fsync").fetchone() == ("on",)
    admin = AdminClient({"bootstrap.servers": settings.kafka_bootstrap, "log_level": 0})
    admin.create_topics([NewTopic("kept", 1, 1)])["kept"].result()

    shown = fanfold(data_dir, "status", "--json")
    assert shown.returncode == 0, shown.stderr
    status = json.loads(shown.stdout)
    assert (status["running"], status["ready"]) == (True, True)
    assert [part["name"] for part in status["parts"]] == [*SERVERS, "supervisor"]
    assert all(part["state"] == "running" and part["memory_bytes"] > 0 for part in status["parts"])
    assert status["memory_bytes"] < 1 << 30
    assert set(status["lag"]) == {"fan_out", "deliver"}

    second = fanfold(data_dir, "up", "--servers-only")
    assert (second.returncode, second.stdout) == (3, "")
    assert f"is running in {data_dir} already" in second.stderr

    left = processes_of(data_dir)
    assert fanfold(data_dir, "down").returncode == 0
    assert not any(is_alive(process) for process in left)
    assert not (data_dir / "stack.env").exists()

    with Stack(data_dir, roles=(), prepare=False):
        assert load_ports(data_dir) == ports
        with database(settings) as connection:
            assert connection.execute("SELECT n FROM kept").fetchone() == (41,)
        assert "kept" in admin.list_topics(timeout=10).topics


def test_where_nothing_runs_down_says_so_and_is_done_and_status_says_so_with_exit_3(data_dir: Path) -> None:
    down = fanfold(data_dir, "down")
    assert down.returncode == 0
    assert "nothing runs" in down.stderr
    status = fanfold(data_dir, "status", "--json")
    assert status.returncode == 3
    assert json.loads(status.stdout)["running"] is False


def test_after_kill_9_of_the_supervisor_down_leaves_nothing(data_dir: Path) -> None:
    left = abandoned_stack(data_dir)
    cleaned = fanfold(data_dir, "down")
    assert cleaned.returncode == 0
    assert "cleaned up" in cleaned.stderr
    assert not any(is_alive(process) for process in left)


def test_after_kill_9_of_the_supervisor_the_next_up_ends_what_it_left_and_goes_on(data_dir: Path) -> None:
    left = abandoned_stack(data_dir)
    said: list[Progress] = []
    stack = Stack(data_dir, roles=(), prepare=False)
    stack.start(said.append)
    stack.stop()
    assert not any(is_alive(process) for process in left)
    results = [one for one in said if one.kind == "done"]
    assert [one.name for one in results if "was left of an earlier stack" in one.text] == SERVERS[::-1]
    assert [one.name for one in results if "ready after" in one.text] == SERVERS


def test_a_remembered_port_that_somebody_else_has_stops_the_start(data_dir: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as somebody:
        port = somebody.getsockname()[1]
        data_dir.mkdir()
        (data_dir / "ports.json").write_text(json.dumps({"b1": port}))
        with pytest.raises(StackError, match=rf"port {port} of b1 is in use by .*ports\.json") as refused:
            Stack(data_dir, roles=(), prepare=False).start()
    assert refused.value.exit_code == 3
    assert not is_held(data_dir)


def test_a_server_that_dies_at_start_is_shown_with_its_log_and_leaves_no_orphan(data_dir: Path) -> None:
    with Stack(data_dir, roles=(), prepare=False):
        pass
    broken = data_dir / "postgres" / "postgresql.conf"
    broken.write_text(broken.read_text() + "\ngarbage(\n")
    failed = fanfold(data_dir, "up", "--servers-only")
    assert failed.returncode == 3
    assert "postgres ended with exit code 1 while it started" in failed.stderr
    assert 'syntax error in file "' in failed.stderr
    assert not any(ask(port, b"PING\r\n") for port in load_ports(data_dir).values())
    assert not (data_dir / "stack.json").exists()


def test_ctrl_c_stops_a_stack_in_the_foreground_in_reverse_order(data_dir: Path, tmp_path: Path) -> None:
    said = tmp_path / "said"
    with said.open("w") as output:
        running = subprocess.Popen(fanfold_command(data_dir, "up", "--servers-only"), stderr=output)
    wait_until(lambda: "all ready" in said.read_text() or running.poll() is not None, "the stack", STARTED_WITHIN_S)
    left = processes_of(data_dir)
    running.send_signal(signal.SIGINT)
    assert running.wait(COMMAND_WITHIN_S) == 0
    stopped = [line.split()[0] for line in said.read_text().splitlines() if line.endswith(" stopped")]
    assert stopped == SERVERS[::-1]
    assert not any(is_alive(process) for process in left)


def test_a_request_to_stop_while_it_starts_leaves_nothing(data_dir: Path, tmp_path: Path) -> None:
    said = tmp_path / "said"
    with said.open("w") as output:
        running = subprocess.Popen(fanfold_command(data_dir, "up", "--servers-only"), stderr=output)
    wait_until(lambda: (data_dir / "stack.json").exists() or running.poll() is not None, "the stack", STARTED_WITHIN_S)
    running.terminate()
    assert running.wait(COMMAND_WITHIN_S) == 3
    assert "stopped before everything was ready" in said.read_text()
    assert not any(ask(port, b"PING\r\n") for port in load_ports(data_dir).values())


def test_servers_that_are_killed_serve_again_and_one_that_was_stopped_waits_to_be_started(data_dir: Path) -> None:
    with Stack(data_dir, roles=(), prepare=False) as stack:
        settings = stack.settings()
        with database(settings) as connection:
            connection.execute("CREATE TABLE kept (n int); INSERT INTO kept VALUES (42)")
        killed = {name: stack.kill(name) for name in ("postgres", "a1", "kafka")}
        for name, pid in killed.items():
            assert stack.wait_restarted(name, pid) != pid
        with database(settings) as connection:
            assert connection.execute("SELECT n FROM kept").fetchone() == (42,)

        stack.stop_part("c2")
        assert stack.state("c2") is PartState.STOPPED
        stack.start_part("c2")
        assert ask(load_ports(data_dir)["c2"], b"PING\r\n") == b"+PONG\r\n"
