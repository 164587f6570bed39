"""What `bench repair` found: entries restored a second, from copies and from the database, medians with their range."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from rich.console import Console

from benchmarks.warm_state import Shape
from consumers.audit_report import AuditResult
from infra.copying import Source
from infra.shard_map import CLUSTERS

PREFIXES: Mapping[Source, str] = {Source.COPY: "", Source.DATABASE: "database_"}


@dataclass(frozen=True, slots=True)
class Restored:
    """One repair of an emptied cluster: users, how many of them from copies, and the entries that are there then."""

    users: int
    copied: int
    entries: int
    took_s: float
    audit: AuditResult

    @property
    def entries_per_s(self) -> float:
        """Of home and user timelines."""
        return self.entries / self.took_s


@dataclass(frozen=True, slots=True)
class RepairReport:
    """All runs. One whose audit is not clean takes the figure from all of its source."""

    shape: Shape
    runs: Mapping[Source, Sequence[Restored]]

    @property
    def clean(self) -> bool:
        """Whether all audits are."""
        return all(one.audit.clean for of_source in self.runs.values() for one in of_source)

    def as_json(self) -> dict[str, Any]:
        """The object that `--json` prints: figures of repair from copies, and with `database_` from the database."""
        figures = {
            f"{PREFIXES[source]}{name}": value
            for source, of_source in self.runs.items()
            for name, value in _figures(of_source).items()
        }
        first, last = self.runs[Source.COPY][-1], self.runs[Source.DATABASE][-1]
        return {
            **figures,
            "timelines": self.shape.timelines,
            "entries": self.shape.entries,
            "runs": len(self.runs[Source.COPY]),
            "copies": len(CLUSTERS),
            "audit": asdict(first.audit.total),
            "database_audit": asdict(last.audit.total),
        }


def _figures(runs: Sequence[Restored]) -> dict[str, Any]:
    rates = [one.entries_per_s for one in runs]
    found = {
        "entries_per_s": round(median(rates)),
        "entries_per_s_min": round(min(rates)),
        "entries_per_s_max": round(max(rates)),
        "timelines_per_s": round(median(one.users / one.took_s for one in runs)),
        "took_s": round(median(one.took_s for one in runs), 2),
        "restored_entries": runs[-1].entries,
        "users_copied": runs[-1].copied,
    }
    return found if all(one.audit.clean for one in runs) else dict.fromkeys(found)


def print_repair(report: RepairReport) -> None:
    """For people, on standard output."""
    console, found = Console(highlight=False, soft_wrap=True), report.as_json()
    for source, prefix in PREFIXES.items():
        if found[f"{prefix}entries_per_s"] is None:
            console.print(f"from {source}: no figure, the audit found differences")
            continue
        console.print(
            f"from {source:<9} {found[f'{prefix}entries_per_s']:>10,} entries a second "
            f"({found[f'{prefix}entries_per_s_min']:,} to {found[f'{prefix}entries_per_s_max']:,}), "
            f"{found[f'{prefix}timelines_per_s']:,} users a second: {found['timelines']:,} users in "
            f"{found[f'{prefix}took_s']} s"
        )
