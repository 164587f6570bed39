"""`fanfold registrar` as a process of its own: one node by its options, what it says, and how it ends."""

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from infra.members import read_members
from infra.registrar import RIVAL_WAIT_S
from infra.settings import PREFIX, Settings
from infra.zookeeper import ZooKeeper
from tests.redis_server import RedisServer, free_port, redis_server
from tests.waiting import wait_until

Process = subprocess.Popen[str]
ENDED_WITHIN_S = 60.0


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path, requirepass="right-hush") as made:
        made.url = made.url.replace("://", "://:right-hush@")
        yield made


@contextmanager
def registrar(settings: Settings, folder: Path, *words: str, **environ: str) -> Iterator[Process]:
    """The command with these words, killed at the end if it still runs."""
    given = {key: value for key, value in os.environ.items() if not key.startswith(PREFIX)}
    given |= {"FANFOLD_ZOOKEEPER_HOSTS": settings.zookeeper_hosts, "FANFOLD_LOG_LEVEL": "debug"} | environ
    command = [sys.executable, "-m", "infra", "--data-dir", str(folder), "registrar", *words]
    with subprocess.Popen(command, env=given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def ended(process: Process) -> tuple[int, str]:
    """The exit code of a process that ends by itself, and what it said."""
    output, errors = process.communicate(timeout=ENDED_WITHIN_S)
    assert output == ""
    assert "Traceback" not in errors
    assert "hush" not in errors
    return process.returncode, errors


def readyz(port: int) -> dict[str, Any]:
    """What the process says of itself, ready or not."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=10) as answer:
            return dict(json.loads(answer.read()))
    except urllib.error.HTTPError as unready:
        with unready:
            return dict(json.loads(unready.read()))
    except OSError:
        return {"status": "it does not listen yet", "nodes_out": {"": ""}}


def test_one_node_by_its_options_from_the_first_look_to_the_signal(
    settings: Settings, zookeeper: ZooKeeper, server: RedisServer, tmp_path: Path
) -> None:
    port = free_port()
    words = ("--cluster", "a", "--name", "a3", "--redis", server.url, "--weight", "2")
    with registrar(settings, tmp_path, *words, FANFOLD_METRICS_PORT=str(port)) as process:
        wait_until(lambda: "a3" in read_members(zookeeper), "the member")
        wait_until(lambda: read_members(zookeeper)["a3"].fit, "the member to be fit")
        member = read_members(zookeeper)["a3"]
        assert (member.weight, member.pid) == (2, process.pid)
        wait_until(lambda: readyz(port)["status"] == "ready", "the registrar to say so")
        assert readyz(port)["nodes_out"] == {}

        with server.frozen():
            wait_until(lambda: bool(readyz(port)["nodes_out"]), "the node to be out")
            assert list(readyz(port)["nodes_out"]) == ["a3"]
            assert "does not answer" in readyz(port)["nodes_out"]["a3"]
            assert readyz(port)["status"] == "ready"
        wait_until(lambda: readyz(port)["nodes_out"] == {}, "the node to be back")

        process.send_signal(signal.SIGTERM)
        code, errors = ended(process)
    assert code == 0
    assert "node is out" in errors
    assert read_members(zookeeper) == {}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"appendonly": "yes"}, "has appendonly 'yes'; set it to 'no' (CONFIG SET appendonly …)"),
        ({"requirepass": "another-hush"}, "refuses user or password"),
    ],
)
def test_a_server_that_has_to_be_mended_first_ends_it_with_the_sentence(
    settings: Settings, zookeeper: ZooKeeper, tmp_path: Path, options: dict[str, str], sentence: str
) -> None:
    with redis_server(tmp_path, **{"requirepass": "right-hush"} | options) as server:
        url = server.url.replace("://", "://:right-hush@")
        with registrar(settings, tmp_path, "--cluster", "a", "--name", "a3", "--redis", url) as process:
            code, errors = ended(process)

    assert code == 2
    shown = url.replace("right-hush", "***")
    assert errors.splitlines()[-1].startswith(f"fanfold: Redis node a3 at {shown} {sentence}")
    assert read_members(zookeeper) == {}


def test_a_second_registrar_says_that_it_waits_and_then_who_holds_the_name(
    settings: Settings, zookeeper: ZooKeeper, server: RedisServer, tmp_path: Path
) -> None:
    words = ("--cluster", "a", "--name", "a3", "--redis", server.url)
    with registrar(settings, tmp_path, *words) as first:
        wait_until(lambda: "a3" in read_members(zookeeper) and read_members(zookeeper)["a3"].fit, "the first one")
        before = read_members(zookeeper)
        with registrar(settings, tmp_path, *words) as second:
            code, errors = ended(second)
        assert read_members(zookeeper) == before

    assert code == 2
    assert "waiting whether another registration ends" in errors
    assert f'"seconds_max": {RIVAL_WAIT_S}' in errors
    assert f"pid {first.pid}: one registrar looks after a node" in errors.splitlines()[-1]


def test_a_registrar_that_was_killed_is_followed_by_the_next_one_without_emptying(
    settings: Settings, zookeeper: ZooKeeper, server: RedisServer, tmp_path: Path
) -> None:
    """Its session is alive for a while, so the next one waits."""
    words = ("--cluster", "a", "--name", "a3", "--redis", server.url)
    with registrar(settings, tmp_path, *words) as first:
        wait_until(lambda: "a3" in read_members(zookeeper) and read_members(zookeeper)["a3"].fit, "the first one")
    before = read_members(zookeeper)["a3"]
    with registrar(settings, tmp_path, *words) as second:
        wait_until(lambda: read_members(zookeeper).get("a3", before).pid == second.pid, "the second one")
        after = read_members(zookeeper)["a3"]

    assert first.pid != second.pid
    assert after.fit
    assert (after.incarnation, after.run_id) == (before.incarnation, before.run_id)


def test_of_many_nodes_one_that_is_refused_keeps_the_others_in(
    settings: Settings, zookeeper: ZooKeeper, server: RedisServer, tmp_path: Path
) -> None:
    port, other = free_port(), tmp_path / "other"
    other.mkdir()
    with redis_server(other, appendonly="yes") as bad:
        environ = {
            "FANFOLD_REDIS_NODES": f"a3={server.url},a4={bad.url}",
            "FANFOLD_METRICS_PORT": str(port),
        }
        with registrar(settings, tmp_path, **environ) as process:
            wait_until(lambda: "a3" in read_members(zookeeper) and read_members(zookeeper)["a3"].fit, "the good one")
            wait_until(lambda: "appendonly" in readyz(port)["nodes_out"].get("a4", ""), "the other one's reason")
            assert list(read_members(zookeeper)) == ["a3"]
            bad.node("a4").command("CONFIG", "SET", "appendonly", "no")
            wait_until(lambda: "a4" in read_members(zookeeper) and read_members(zookeeper)["a4"].fit, "the other one")
            wait_until(lambda: readyz(port)["nodes_out"] == {}, "no node to be out")
            process.send_signal(signal.SIGTERM)
            assert ended(process)[0] == 0


@pytest.mark.parametrize(
    ("words", "environ", "sentence"),
    [
        (("--redis", "redis://h:1", "--name", "a3"), {}, "give it one --name, and its --cluster"),
        (("--redis", "redis://h:1", "--cluster", "a"), {}, "give it one --name, and its --cluster"),
        (("--cluster", "a", "--name", "a3"), {}, "--cluster and --weight belong to --redis"),
        (("--weight", "2", "--name", "a3"), {}, "--cluster and --weight belong to --redis"),
        (("--cluster", "d", "--name", "d1", "--redis", "redis://h:1"), {}, "cluster 'd' is none of a, b, c"),
        (("--cluster", "a", "--name", "b1", "--redis", "redis://h:1"), {}, "begins with its cluster's letter, a"),
        (("--cluster", "a", "--name", "a/1", "--redis", "redis://h:1"), {}, "node 'a/1' must have a name of"),
        (("--cluster", "a", "--name", "a1", "--redis", "http://:hush@h"), {}, "has the address 'http://***@h', but"),
        (
            ("--cluster", "a", "--name", "a1", "--redis", "redis://h:1", "--weight", "0"),
            {},
            "Invalid value for '--weight':",
        ),
        (("--name", "a9"), {"FANFOLD_REDIS_NODES": "a1=redis://h:1"}, "node a9 is not in FANFOLD_REDIS_NODES"),
        ((), {"FANFOLD_REDIS_NODES": "x1=redis://h:1"}, "node 'x1' must have a name that begins"),
    ],
)
def test_bad_options_are_one_sentence_before_anything_is_opened(
    settings: Settings, tmp_path: Path, words: tuple[str, ...], environ: dict[str, str], sentence: str
) -> None:
    with registrar(settings, tmp_path, *words, **environ, FANFOLD_LOG_FORMAT="json") as process:
        code, errors = ended(process)

    assert code == 2
    assert sentence in " ".join(errors.replace("│", " ").split())
