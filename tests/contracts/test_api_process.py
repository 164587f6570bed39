"""`fanfold api` as a process: ready when it listens, gone soon after a signal, with a sentence when it cannot start."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa

from infra.api_server import STOP_S
from infra.composition import Stores
from infra.settings import PREFIX, Settings
from infra.tokens import Tokens
from tests.http_client import bearing
from tests.waiting import wait_until

READY_WITHIN_S = 60.0  # imports on a busy machine
STOPPED_WITHIN_S = 5.0


@contextmanager
def started(settings: Settings, folder: Path, port: int, host: str = "127.0.0.1") -> Iterator["subprocess.Popen[str]"]:
    """`fanfold api` on these servers; killed at the end if it is still there."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith(PREFIX)} | {
        "FANFOLD_DATABASE_URL": settings.database_url,
        "FANFOLD_ZOOKEEPER_HOSTS": settings.zookeeper_hosts,
        "FANFOLD_API_HOST": host,
        "FANFOLD_API_PORT": str(port),
        "FANFOLD_READY_FILE": str(folder / "ready"),
    }
    if settings.kafka_bootstrap:
        environ["FANFOLD_KAFKA_BOOTSTRAP"] = settings.kafka_bootstrap
    command = [sys.executable, "-m", "infra", "--data-dir", str(folder), "api"]
    with subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def stopped(process: "subprocess.Popen[str]", number: signal.Signals) -> tuple[int, float]:
    """The exit code after a signal, and how long it took."""
    before = time.monotonic()
    process.send_signal(number)
    return process.wait(2 * STOPPED_WITHIN_S), time.monotonic() - before


@pytest.fixture
def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_once_it_says_so_and_ends_soon_after_a_signal(
    stores: Stores, settings: Settings, tmp_path: Path, free_port: int, number: signal.Signals
) -> None:
    with started(settings, tmp_path, free_port) as process:
        wait_until((tmp_path / "ready").exists, "the api", READY_WITHIN_S)
        assert (tmp_path / "ready").read_text().strip() == str(process.pid)
        with httpx.Client(base_url=f"http://127.0.0.1:{free_port}") as client:
            assert client.get("/readyz").status_code == 200
            assert client.post("/v1/users", json={"handle": "ada"}).status_code == 201
            assert client.post("/v1/users", content=b"x" * 10_000_000).status_code == 413
            code, took_s = stopped(process, number)
        assert code == 0
        assert took_s < STOPPED_WITHIN_S
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()


def test_a_request_that_hangs_does_not_keep_it_from_ending(
    stores: Stores, settings: Settings, tmp_path: Path, free_port: int, make_users: Callable[[int], list[int]]
) -> None:
    """The test holds the author's lock, and so the thread of the request."""
    author_id = make_users(1)[0]
    waiting = sa.text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
    with started(settings, tmp_path, free_port) as process:
        wait_until((tmp_path / "ready").exists, "the api", READY_WITHIN_S)
        with stores.engine.connect() as holder, socket.create_connection(("127.0.0.1", free_port)) as caller:
            holder.execute(sa.text("SELECT pg_advisory_xact_lock(:author)"), {"author": author_id})
            caller.sendall(post_request(Tokens(stores.engine).create(author_id)[1]))
            wait_until(lambda: bool(holder.execute(waiting).scalar_one()), "the lock", STOP_S)
            code, took_s = stopped(process, signal.SIGTERM)
        assert code == 0
        assert took_s < STOPPED_WITHIN_S
        assert process.stderr is not None
        assert "requests unanswered" in process.stderr.read()


def post_request(token: str) -> bytes:
    """The bytes of a request whose answer nobody awaits."""
    request = httpx.Request("POST", "http://localhost/v1/tweets", json={"text": "Hello"}, headers=bearing(token))
    head = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    return f"POST /v1/tweets HTTP/1.1\r\n{head}\r\n".encode() + request.content


@pytest.mark.parametrize(
    ("host", "code", "sentence"),
    [("127.0.0.1", 3, "port {port} on 127.0.0.1 is in use"), ("192.0.2.1", 2, "FANFOLD_API_HOST is '192.0.2.1'")],
)
def test_it_says_in_a_sentence_why_it_cannot_listen(tmp_path: Path, host: str, code: int, sentence: str) -> None:
    nowhere = Settings(database_url="postgresql://127.0.0.1:1/none", zookeeper_hosts="127.0.0.1:1")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with started(nowhere, tmp_path, port, host) as process:
            _, said = process.communicate(timeout=READY_WITHIN_S)
    assert process.returncode == code
    assert said.startswith("fanfold: " + sentence.format(port=port))
    assert said.count("\n") == 1
