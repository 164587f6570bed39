"""A ZooKeeper server of one test's own, which it may stop, freeze and start again."""

import os
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event

from infra.stack.child import Child
from infra.stack.zookeeper import zookeeper_part


class OwnZooKeeper:
    """Its `hosts` stay the same over a restart."""

    def __init__(self, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self._part = zookeeper_part(folder, port)
        self._folder = folder
        self._child: Child | None = None
        self.hosts = self._part.address

    def start(self) -> None:
        """Returns when it answers."""
        self._child = Child(self._part, self._folder)
        self._child.begin()
        assert self._child.wait_ready(time.monotonic() + self._part.ready_within_s, Event())

    def stop(self) -> None:
        """By SIGKILL: what was answered is on disk."""
        if self._child is not None and self._child.process is not None:
            self._child.process.kill()
            self._child.process.wait()
            self._child = None

    def wipe(self) -> None:
        """Everything that it ever wrote is lost; it must be stopped."""
        assert self._child is None
        shutil.rmtree(self._folder / "data")

    def signal(self, number: signal.Signals) -> None:
        """SIGSTOP freezes it, SIGCONT thaws it."""
        assert self._child is not None
        assert self._child.process is not None
        os.kill(self._child.process.pid, number)


@contextmanager
def own_zookeeper(folder: Path) -> Iterator[OwnZooKeeper]:
    """A running server, ended with the context."""
    server = OwnZooKeeper(folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()
