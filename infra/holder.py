"""Who holds a lease, a node number or a lock: written beside it, for people who ask `fanfold locks` (locks.py)."""

import json
import os
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from infra.errors import Undecodable
from infra.hiding import hide_secrets

COMMAND_CHARACTERS_MAX = 200  # enough to know it by; the whole is in the process list
BRIEF_BYTES_MAX = 63  # PostgreSQL's NAMEDATALEN - 1
BRIEF_HOST_CHARACTERS_MAX = 20  # leaves some 20 for the command, beside a pid and a time


@dataclass(frozen=True, slots=True)
class Holder:
    """A process, and since when it holds what this is written beside: milliseconds since 1970 by its own clock."""

    host: str
    pid: int
    command: str
    since_ms: int

    def encode(self) -> bytes:
        """The bytes of a znode."""
        return json.dumps(asdict(self)).encode()

    def as_json(self) -> dict[str, object]:
        """What `--json` shows of it."""
        return {"host": self.host, "pid": self.pid, "command": self.command, "since": self.since.isoformat()}

    def brief(self) -> str:
        """The same in the few bytes that PostgreSQL keeps as the name of an application; the command may be cut."""
        text = f"{self.host[:BRIEF_HOST_CHARACTERS_MAX]} {self.pid} {self.since_ms // 1000} {self.command}"
        return text.encode("ascii", "replace")[:BRIEF_BYTES_MAX].decode()

    @property
    def since(self) -> datetime:
        """Since when, in UTC."""
        return datetime.fromtimestamp(self.since_ms / 1000, UTC)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} ({self.command})"


def decode_holder(data: bytes) -> Holder:
    """Raises `Undecodable` for bytes that `Holder.encode` did not make."""
    try:
        fields = json.loads(data)
        return Holder(str(fields["host"]), int(fields["pid"]), str(fields["command"]), int(fields["since_ms"]))
    except (ValueError, KeyError, TypeError) as error:
        raise Undecodable(f"{data[:100]!r} does not say who holds it") from error


def parse_brief(text: str) -> Holder | None:
    """None for what `Holder.brief` did not make."""
    words = text.split(" ", 3)
    if len(words) < 4 or not (words[1].isdigit() and words[2].isdigit()):
        return None
    return Holder(words[0], int(words[1]), words[3], int(words[2]) * 1000)


def this_process(about: str = "") -> Holder:
    """This process, from now on. `about` stands in front of its command: what it does with what it holds."""
    command = command_line(sys.argv)
    shown = f"{about}, {command}" if about else command
    return Holder(socket.gethostname(), os.getpid(), shown, time.time_ns() // 1_000_000)


def command_line(words: Sequence[str]) -> str:
    """A command as a person knows it: without the interpreter's path, the data folder and secrets, and bounded."""
    name = Path(words[0]).name if words else ""
    shown, rest = ["fanfold" if name == "__main__.py" else name], iter(words[1:])
    for word in rest:
        if word == "--data-dir":
            next(rest, None)
        elif not word.startswith("--data-dir="):
            shown.append(word)
    return hide_secrets(" ".join(shown))[:COMMAND_CHARACTERS_MAX]
