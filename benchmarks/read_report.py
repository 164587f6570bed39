"""What `bench read` found: medians with their range, ratios to bare redis-py of the same run, percentiles."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.warm_state import Shape
from consumers.audit_report import AuditResult


@dataclass(frozen=True, slots=True)
class ReadReport:
    """All that was found. `rates` are reads a second of each run, by name; `load` what ran beside the latency. A run
    whose audit is not clean has no figure."""

    shape: Shape
    followees: int
    rates: Mapping[str, Sequence[float]]
    latency_ms: Sequence[float]
    load: Mapping[str, float]
    rebuild_ms: Sequence[float]
    many_ms: Sequence[float]
    audit: AuditResult

    def as_json(self) -> dict[str, Any]:
        """The object that `--json` prints. Both ratios are to the limit of reads without celebrities."""
        clean = self.audit.clean
        return {
            **{name: value if clean else None for name, value in self._figures().items()},
            "timelines": self.shape.timelines,
            "entries": self.shape.entries,
            "fan_out": self.shape.fan_out,
            "followees": self.followees,
            "audit": asdict(self.audit.total),
        }

    def _figures(self) -> dict[str, Any]:
        rate = {name: median(rates) for name, rates in self.rates.items()}
        return {
            "reads_per_s": round(rate["reads"]),
            "reads_per_s_min": round(min(self.rates["reads"])),
            "reads_per_s_max": round(max(self.rates["reads"])),
            "limit_per_s": round(rate["limit"]),
            "ratio": round(rate["reads"] / rate["limit"], 3),
            "celebrity_reads_per_s": round(rate["celebrity_reads"]),
            "celebrity_limit_per_s": round(rate["celebrity_limit"]),
            "celebrity_ratio": round(rate["celebrity_reads"] / rate["limit"], 3),
            "latency_ms_p50": _percentile(self.latency_ms, 50),
            "latency_ms_p99": _percentile(self.latency_ms, 99),
            **{name: round(value) for name, value in self.load.items()},
            "rebuild_ms_p50": _percentile(self.rebuild_ms, 50),
            "rebuild_ms_p99": _percentile(self.rebuild_ms, 99),
            "many_followees_rebuild_ms_p50": _percentile(self.many_ms, 50),
        }


def _percentile(values: Sequence[float], share: float) -> float:
    return round(float(np.percentile(values, share)), 2)


def print_read(report: ReadReport) -> None:
    """For people, on standard output."""
    console = Console(highlight=False, soft_wrap=True)
    found = report.as_json()
    if not report.audit.clean:
        console.print("no figure: the audit found differences")
        return
    console.print(
        f"\nHome reads of 20 tweets: {found['reads_per_s']:,} a second in one process "
        f"({found['reads_per_s_min']:,} to {found['reads_per_s_max']:,}), {found['ratio']:.2f} of what bare redis-py "
        f"reaches with the same commands ({found['limit_per_s']:,})"
    )
    console.print(
        f"  with 10 celebrities  {found['celebrity_reads_per_s']:,} a second, {found['celebrity_ratio']:.2f} of it"
    )
    console.print(
        f"  under deliveries     p50 {found['latency_ms_p50']} ms, p99 {found['latency_ms_p99']} ms at "
        f"{found['latency_reads_per_s']:,} reads and {found['deliveries_per_s']:,} deliveries a second"
    )
    console.print(
        f"  first reads          p50 {found['rebuild_ms_p50']} ms with 200 followees, "
        f"{found['many_followees_rebuild_ms_p50']} ms with {report.followees:,} of 100 tweets each"
    )
