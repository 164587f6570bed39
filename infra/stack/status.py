"""What `fanfold status` says: each part's process, address, memory and state, and how far the agents are behind."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from infra.errors import DependencyError
from infra.settings import Settings
from infra.stack.processes import is_alive, memory_bytes
from infra.stack.state import PartRecord, PartState, holder_of, is_held, record_of_holder

AGENTS = ("fan_out", "deliver")
MIB = 1 << 20


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
    parts = tuple(_part(part) for part in record.parts) if record else ()
    return StackStatus(True, bool(record and record.ready), (*parts, *_supervisor(data_dir)), _lags(settings))


def table(status: StackStatus) -> list[str]:
    """The status as lines for a person."""
    lines = [f"  {'part':<14}{'state':<12}{'pid':>8}{'memory':>10}  address"]
    for part in status.parts:
        memory = f"{part.memory_bytes / MIB:.0f} MiB" if part.memory_bytes else ""
        lines.append(f"  {part.name:<14}{part.state:<12}{part.pid or '':>8}{memory:>10}  {part.address}")
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
    return PartStatus(part.name, part.kind, state, pid, part.address, used, how, part.restarts)


def _supervisor(data_dir: Path) -> list[PartStatus]:
    """The supervisor itself; its children have their own lines, so only its own memory counts."""
    holder = holder_of(data_dir)
    if holder is None or not is_alive(holder.process):
        return []
    used, how = memory_bytes(holder.process, children=False)
    return [PartStatus("supervisor", "supervisor", PartState.RUNNING, holder.process.pid, "", used, how, 0)]


def _lags(settings: Settings) -> Mapping[str, int | None]:
    from infra.kafka import agent_lags  # loads librdkafka, which nothing else of this command needs

    try:
        return dict(agent_lags(settings.need("kafka_bootstrap")))
    except DependencyError:
        return dict.fromkeys(AGENTS)
