"""A part of the stack: what the supervisor must know to start, watch and stop one server or role."""

import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from signal import SIGTERM, Signals
from typing import Literal

LOOPBACK = "127.0.0.1"
PROBE_TIMEOUT_S = 1.0  # a server on this machine that is ready answers in milliseconds

Kind = Literal["server", "role"]


def nothing_to_do() -> None:
    """The default of `prepare` and `complete`."""


@dataclass(frozen=True, slots=True)
class User:
    """The account a part runs as when that is not our own."""

    name: str
    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class Part:
    """One child process of the stack. `prepare` and `complete` are idempotent: they run at every start."""

    name: str
    kind: Kind
    command: tuple[str, ...]
    address: str
    probe: Callable[[int], bool]  # given the pid: whether it serves; answers within PROBE_TIMEOUT_S or so
    ready_within_s: float
    environ: Mapping[str, str] = field(default_factory=dict)
    folder: Path | None = None  # the working folder; the data folder when None
    user: User | None = None
    prepare: Callable[[], None] = nothing_to_do  # before the process starts: folders and configuration
    complete: Callable[[], None] = nothing_to_do  # once it serves: what can only be made through it
    stop_signal: Signals = SIGTERM
    stop_within_s: float = 15.0


def ask(port: int, request: bytes, enough: int = 1) -> bytes:
    """The first bytes of a local server's answer, or none if it does not answer in time."""
    answer = b""
    try:
        with socket.create_connection((LOOPBACK, port), PROBE_TIMEOUT_S) as connection:
            connection.settimeout(PROBE_TIMEOUT_S)
            connection.sendall(request)
            while len(answer) < enough and (received := connection.recv(4096)):
                answer += received
    except OSError:
        return b""
    return answer


def listens(port: int) -> bool:
    """Whether something accepts connections there."""
    try:
        socket.create_connection((LOOPBACK, port), PROBE_TIMEOUT_S).close()
    except OSError:
        return False
    return True
