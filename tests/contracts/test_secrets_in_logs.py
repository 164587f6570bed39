"""What all roles log at their most talkative, in good times and bad ones, holds none of the secrets they were given."""

import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa

from infra.redis_node import RedisNode
from infra.settings import PREFIX, Settings
from infra.stack.roles import ROLE_NAMES
from infra.tokens import Tokens
from tests.http_client import bearing
from tests.waiting import wait_until

WITHIN_S = 90.0  # six processes start on a busy machine
PASSWORD = secrets.token_urlsafe(16)


@pytest.fixture
def nodes(settings: Settings) -> Iterator[list[RedisNode]]:
    """The Redis nodes, with a user of this password."""
    opened = [RedisNode(name, url) for name, url in settings.redis_nodes.items()]
    for node in opened:
        node.command("ACL", "SETUSER", "planted", "on", f">{PASSWORD}", "~*", "&*", "+@all")
    yield opened
    for node in opened:
        node.command("ACL", "DELUSER", "planted")
        node.close()


@pytest.fixture
def planted(settings: Settings, nodes: list[RedisNode]) -> Settings:
    """The settings with passwords in every address that can have one."""
    database = sa.make_url(settings.database_url)
    if database.password is None:
        database = database.set(password=PASSWORD)
    url = database.render_as_string(hide_password=False)
    with_user = {
        name: url.replace("redis://", f"redis://planted:{PASSWORD}@") for name, url in settings.redis_nodes.items()
    }
    return replace(settings, database_url=url, redis_nodes=with_user)


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture
def logs(planted: Settings, port: int, tmp_path: Path) -> Iterator[Callable[[], str]]:
    """All roles run; what they have said so far."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith(PREFIX)} | {
        "FANFOLD_DATABASE_URL": planted.database_url,
        "FANFOLD_ZOOKEEPER_HOSTS": planted.zookeeper_hosts,
        "FANFOLD_KAFKA_BOOTSTRAP": planted.kafka_bootstrap,
        "FANFOLD_REDIS_NODES": ",".join(f"{name}={url}" for name, url in planted.redis_nodes.items()),
        "FANFOLD_API_PORT": str(port),
        "FANFOLD_LOG_LEVEL": "debug",
    }
    with ExitStack() as running:
        for role in ROLE_NAMES:
            ready = {"FANFOLD_READY_FILE": str(tmp_path / f"{role}.ready")}
            output = running.enter_context((tmp_path / f"{role}.log").open("wb"))
            command = [sys.executable, "-m", "infra", "--data-dir", str(tmp_path), role]
            process = subprocess.Popen(command, env=environ | ready, stdout=output, stderr=subprocess.STDOUT)
            running.callback(process.wait)
            running.callback(process.kill)
        yield lambda: "\n".join(path.read_text(errors="replace") for path in tmp_path.glob("*.log"))


def test_no_role_logs_a_secret(
    planted: Settings, nodes: list[RedisNode], engine: sa.Engine, port: int, logs: Callable[[], str], tmp_path: Path
) -> None:
    ready = [tmp_path / f"{role}.ready" for role in ROLE_NAMES]
    wait_until(lambda: all(one.exists() for one in ready), "every role's start", WITHIN_S)
    tokens, given = Tokens(engine), []
    with httpx.Client(base_url=f"http://127.0.0.1:{port}/v1", timeout=30) as client:
        user_id = int(client.post("/users", json={"handle": "ada"}).json()["id"])
        valid, (revoked_id, revoked) = tokens.create(user_id)[1], tokens.create(user_id)
        tokens.revoke(revoked_id)
        wrong = valid[:-4] + "AAAA"
        given += [valid, revoked, wrong]
        assert client.post("/tweets", json={"text": "Hello"}, headers=bearing(valid)).status_code == 201
        for token in (revoked, wrong, f"{valid} {valid}"):
            assert client.get("/timelines/home", headers=bearing(token)).status_code == 401
        assert client.get("/timelines/home", headers={"Authorization": f"Basic {valid}"}).status_code == 401
        assert client.get(f"/users/{valid}", headers=bearing(valid)).status_code == 422
        _break(engine, nodes)
        wait_until(
            lambda: client.get("/timelines/home", headers=bearing(valid)).status_code == 503,
            "an error of Redis",
            WITHIN_S,
        )
        client.post("/tweets", json={"text": "Hello"}, headers=bearing(valid))
    wait_until(lambda: logs().count("node is out") >= len(nodes), "the loss of every node", WITHIN_S)
    said = logs()
    assert "request not served" in said
    assert [name for name in ("redis://planted:***@", "rate limits without a node") if name not in said] == []
    assert [
        line for line in said.splitlines() for secret in [PASSWORD, *given, *map(_secret, given)] if secret in line
    ] == []


def _break(engine: sa.Engine, nodes: list[RedisNode]) -> None:
    """Ends every connection to the database, and takes the user of the Redis nodes away."""
    with engine.connect() as connection:
        connection.execute(
            sa.text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )
    for node in nodes:
        node.command("ACL", "SETUSER", "planted", "off")
        node.command("CLIENT", "KILL", "USER", "planted")


def _secret(token: str) -> str:
    return token.split("_", 2)[2]
