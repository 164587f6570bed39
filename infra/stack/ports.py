"""The stack's ports: free ones when a folder is new, then the same ones for as long as the folder lives.

They are remembered in ports.json, so that addresses survive a restart and a server can be started again alone.
"""

import errno
import itertools
import json
import random
import socket
from collections.abc import Iterable, Mapping
from pathlib import Path

import psutil

from infra.errors import StackError
from infra.readiness import write_atomically
from infra.settings import Settings
from infra.stack.part import LOOPBACK

PORTS_FILE = "ports.json"

# Below the ranges that systems hand to outgoing connections (Linux from 32768, macOS from 49152): a port from
# there, as bind to port 0 gives it, could be some connection's own end when its server is started again.
RANGE = range(20_000, 32_000)
PREFERRED = {"api": (Settings().api_port,)}  # the one that people type; another one when it is taken
TRIES_MAX = 1_000  # in a range that is nearly full, say so instead of looking for ever


def is_free(port: int) -> bool:
    """Whether a server could listen there now. A port that a closed connection still lingers on counts as free."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
            probe.listen(1)
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise
    return True


def choose_ports(
    names: Iterable[str], remembered: Mapping[str, int], wanted: Mapping[str, int], rng: random.Random
) -> dict[str, int]:
    """A port for every name: the wanted one, else the remembered one, else a free one that nobody else has."""
    chosen = {**remembered, **wanted}
    taken = set(chosen.values())
    for name in names:
        if name in chosen:
            continue
        tries = itertools.chain(PREFERRED.get(name, ()), (rng.choice(RANGE) for _ in range(TRIES_MAX)))
        port = next((p for p in tries if p not in taken and is_free(p)), None)
        if port is None:
            raise StackError(f"no free port was found between {RANGE.start} and {RANGE.stop}")
        chosen[name] = port
        taken.add(port)
    return chosen


def load_ports(data_dir: Path) -> dict[str, int]:
    """What the folder remembers; nothing when it is new."""
    path = data_dir / PORTS_FILE
    try:
        ports = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise StackError(f"{path} cannot be read ({error}): delete it, and new ports are chosen") from error
    if not isinstance(ports, dict) or not all(isinstance(port, int) for port in ports.values()):
        raise StackError(f"{path} must hold names and port numbers: delete it, and new ports are chosen")
    return ports


def remember_ports(
    data_dir: Path, names: Iterable[str], wanted: Mapping[str, int], rng: random.Random
) -> dict[str, int]:
    """The ports of this folder with all `names` among them, written down."""
    remembered = load_ports(data_dir)
    ports = choose_ports(names, remembered, wanted, rng)
    if ports != remembered:
        write_atomically(data_dir / PORTS_FILE, json.dumps(ports, indent=1) + "\n")
    return ports


def refuse_taken(data_dir: Path, ports: Mapping[str, int], names: Iterable[str]) -> None:
    """`StackError` when somebody else listens on one of the ports: which, whose, and what to do."""
    for name in names:
        if not is_free(ports[name]):
            raise StackError(
                f"port {ports[name]} of {name} is in use{_by_whom(ports[name])}: stop that process, or choose another "
                f"port by deleting the line of {name} in {data_dir / PORTS_FILE}"
            )


def _by_whom(port: int) -> str:
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
                return f" by {psutil.Process(connection.pid).name()} (pid {connection.pid})"
    except psutil.Error:  # another user's process: its name is a courtesy only
        pass
    return ""
