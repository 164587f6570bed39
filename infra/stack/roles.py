"""The roles of Fanfold as parts of the stack: one table, and the command line of each."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from infra.errors import InvalidInput
from infra.stack.part import LOOPBACK, Part

ROLE_READY_WITHIN_S = 60  # imports on a busy machine, and waiting for what an earlier role makes


@dataclass(frozen=True, slots=True)
class Role:
    """A process of Fanfold. A role starts when those of lower stages are ready; equal stages start together."""

    name: str
    stage: int
    serves: str  # what it does, for people


ROLES = (
    Role("registrar", 1, "prepares the Redis nodes and announces them"),
    Role("coordinator", 2, "keeps the shard map, repairs copies"),
    Role("relay", 3, "takes the outbox to Kafka"),
    Role("worker", 3, "runs both agents"),
    Role("counters", 3, "counts likes, retweets and replies"),
    Role("api", 3, "answers HTTP"),
)
ROLE_NAMES = tuple(role.name for role in ROLES)


def role_named(name: str) -> Role:
    """The role; `InvalidInput` when there is none of that name."""
    for role in ROLES:
        if role.name == name:
            return role
    raise InvalidInput(f"{name} is not a role; the roles are {', '.join(ROLE_NAMES)}")


def instance_name(role: str, instance: int) -> str:
    """`worker` for the first, then `worker-2`, `worker-3`, …"""
    return role if instance == 1 else f"{role}-{instance}"


def role_part(role: str, instance: int, data_dir: Path, metrics_port: int, api_port: int) -> Part:
    """The child process of one role, which says itself that it is ready (infra/readiness.py)."""
    name = instance_name(role_named(role).name, instance)
    ready_file = data_dir / "run" / f"{name}.ready"
    environ = {"FANFOLD_READY_FILE": str(ready_file), "FANFOLD_METRICS_PORT": str(metrics_port)}
    if role == "api":
        environ["FANFOLD_API_PORT"] = str(api_port)
    return Part(
        name=name,
        kind="role",
        command=fanfold_command(data_dir, role),
        address=f"http://{LOOPBACK}:{api_port}" if role == "api" else f"http://{LOOPBACK}:{metrics_port}/metrics",
        environ=environ,
        prepare=lambda: _forget(ready_file),
        probe=_announced(ready_file),
        ready_within_s=ROLE_READY_WITHIN_S,
    )


def fanfold_command(data_dir: Path, *words: str) -> tuple[str, ...]:
    """A command of Fanfold for this data folder, run by this interpreter."""
    return (sys.executable, "-m", "infra", "--data-dir", str(data_dir), *words)


def _forget(ready_file: Path) -> None:
    ready_file.parent.mkdir(parents=True, exist_ok=True)
    ready_file.unlink(missing_ok=True)


def _announced(ready_file: Path) -> Callable[[int], bool]:
    def probe(pid: int) -> bool:
        try:
            return ready_file.read_text(encoding="utf-8").strip() == str(pid)
        except FileNotFoundError:
            return False

    return probe
