"""What `fanfold status` says: each part's process, address, memory, state and health, and how far the agents are
behind."""

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from infra.errors import DependencyError
from infra.settings import Settings
from infra.stack.processes import is_alive, memory_bytes
from infra.stack.state import PartRecord, PartState, holder_of, is_held, record_of_holder

AGENTS = ("fan_out", "deliver")
MIB = 1 << 20
HEALTH_TIMEOUT_S = 2.0  # of one question; a role that is well answers in milliseconds


@dataclass(frozen=True, slots=True)
class RoleHealth:
    """What a role says of itself. `status`: ready, standby, unready, unhealthy, or silent when it does not answer."""

    status: str
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PartStatus:
    """One line of the status. `memory_kind`: rss, or pss (uss) where processes share memory; see processes.py."""

    name: str
    kind: str
    state: str
    pid: int | None
    address: str
    memory_bytes: int
    memory_kind: str
    restarts: int
    health: RoleHealth | None = None  # of roles that run


@dataclass(frozen=True, slots=True)
class StackStatus:
    """The whole stack. A lag is in messages, None when nobody could be asked."""

    running: bool  # there is a supervisor
    ready: bool  # it has started everything
    parts: tuple[PartStatus, ...]
    lag: Mapping[str, int | None]

    def as_json(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        return {
            "running": self.running,
            "ready": self.ready,
            "parts": [asdict(part) for part in self.parts],
            "lag": dict(self.lag),
            "memory_bytes": sum(part.memory_bytes for part in self.parts),
        }


def read_status(settings: Settings) -> StackStatus:
    """Looks at stack.json, at the processes it names, and at Kafka."""
    data_dir = settings.data_dir.resolve()
    if not is_held(data_dir):
        return StackStatus(False, False, (), dict.fromkeys(AGENTS))
    record = record_of_holder(data_dir)
    with ThreadPoolExecutor(max(len(record.parts), 1) if record else 1) as threads:
        parts = tuple(threads.map(_part, record.parts)) if record else ()
    return StackStatus(True, bool(record and record.ready), (*parts, *_supervisor(data_dir)), _lags(settings))


def table(status: StackStatus) -> list[str]:
    """The status as lines for a person."""
    lines = [f"  {'part':<14}{'state':<12}{'pid':>8}{'memory':>10}  {'health':<10} address"]
    for part in status.parts:
        memory = f"{part.memory_bytes / MIB:.0f} MiB" if part.memory_bytes else ""
        health = part.health.status if part.health else ""
        lines.append(f"  {part.name:<14}{part.state:<12}{part.pid or '':>8}{memory:>10}  {health:<10} {part.address}")
        lines += [f"  {'':<14}{reason}" for reason in (part.health.reasons if part.health else ())]
    total = sum(part.memory_bytes for part in status.parts)
    lines.append(f"  {'all together':<14}{'':<12}{'':>8}{f'{total / MIB:.0f} MiB':>10}")
    lag = ", ".join(f"{agent} {'unknown' if value is None else value}" for agent, value in status.lag.items())
    return [*lines, f"  lag in messages: {lag}"]


def _part(part: PartRecord) -> PartStatus:
    alive = part.process is not None and is_alive(part.process)
    used, how = memory_bytes(part.process) if part.process is not None and alive else (0, "rss")
    # Between a process's end and the supervisor's next look the record still says that it runs.
    state = PartState.RESTARTING if part.state is PartState.RUNNING and not alive else part.state
    pid = part.process.pid if part.process is not None and alive else None
    health = read_health(part.address) if pid is not None and part.kind == "role" else None
    return PartStatus(part.name, part.kind, state, pid, part.address, used, how, part.restarts, health)


def read_health(address: str) -> RoleHealth:
    """Asks a role at its address: first whether it is alive, then whether it is ready."""
    base = address.removesuffix("/metrics")
    try:
        alive = _ask(f"{base}/healthz")
        return alive if alive.reasons else _ask(f"{base}/readyz")
    except (OSError, ValueError):
        return RoleHealth("silent", (f"{base} does not answer",))


def _ask(url: str) -> RoleHealth:
    try:
        with urllib.request.urlopen(url, timeout=HEALTH_TIMEOUT_S) as answer:  # noqa: S310 - our own role, http
            said = json.load(answer)
    except urllib.error.HTTPError as refused:
        said = json.load(refused)
        if "detail" in said:  # the api answers every error with a problem document
            return RoleHealth("unready", (said["detail"],))
    return RoleHealth(said["status"], tuple(said["reasons"]))


def _supervisor(data_dir: Path) -> list[PartStatus]:
    """The supervisor itself; its children have their own lines, so only its own memory counts."""
    holder = holder_of(data_dir)
    if holder is None or not is_alive(holder.process):
        return []
    used, how = memory_bytes(holder.process, children=False)
    return [PartStatus("supervisor", "supervisor", PartState.RUNNING, holder.process.pid, "", used, how, 0)]


def _lags(settings: Settings) -> Mapping[str, int | None]:
    from infra.kafka_logs import agent_lags  # loads librdkafka, which nothing else of this command needs

    try:
        return dict(agent_lags(settings.need("kafka_bootstrap")))
    except DependencyError:
        return dict.fromkeys(AGENTS)
