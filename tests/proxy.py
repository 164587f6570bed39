"""A network path to one server of this machine that answers late, or that resets every connection."""

import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from infra.stack.part import LOOPBACK

CHUNK_BYTES = 65_536
RESET = struct.pack("ii", 1, 0)  # linger for no time: closing is a reset


class Proxy:
    """As if it were not there until it is told otherwise; either holds for connections that are open, too."""

    def __init__(self, far_port: int) -> None:
        self.answers_after_s = 0.0
        self._resets = False
        self._far_port = far_port
        self._near: set[socket.socket] = set()
        self._listener = socket.create_server((LOOPBACK, 0))
        self.url = f"redis://{LOOPBACK}:{self._listener.getsockname()[1]}"

    @contextmanager
    def open(self) -> Iterator["Proxy"]:
        """While the context lasts."""
        threading.Thread(target=self._accept, daemon=True).start()
        try:
            yield self
        finally:
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)  # whoever accepts wakes up
            self._listener.close()
            self._reset_all()

    @contextmanager
    def slow(self, answers_after_s: float) -> Iterator[None]:
        """Each answer takes so long meanwhile."""
        self.answers_after_s = answers_after_s
        try:
            yield
        finally:
            self.answers_after_s = 0.0

    @contextmanager
    def resetting(self) -> Iterator[None]:
        """Every connection is reset, also each new one."""
        self._resets = True
        self._reset_all()
        try:
            yield
        finally:
            self._resets = False

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._near.add(near)
            if self._resets:
                self._reset(near)
                continue
            try:
                far = socket.create_connection((LOOPBACK, self._far_port))
            except OSError:  # the server is away
                self._reset(near)
                continue
            far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._pump, args=(near, far, False), daemon=True).start()
            threading.Thread(target=self._pump, args=(far, near, True), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        with source, suppress(OSError):
            while data := source.recv(CHUNK_BYTES):
                if answers and self.answers_after_s:
                    time.sleep(self.answers_after_s)
                sink.sendall(data)
        self._near.discard(source)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_RDWR)  # the other direction ends, too, and closes it

    def _reset_all(self) -> None:
        for near in list(self._near):
            self._reset(near)

    def _reset(self, near: socket.socket) -> None:
        self._near.discard(near)
        with suppress(OSError):
            near.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            near.shutdown(socket.SHUT_RD)  # whoever reads it wakes up
            near.close()
