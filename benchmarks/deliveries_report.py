"""What `bench deliveries` found: medians with their range, ratios to the limits of the same run."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from rich.console import Console

from benchmarks.warm_state import Shape
from consumers.audit_report import AuditResult, Counts


@dataclass(frozen=True, slots=True)
class Run:
    """One run of one form. `audit` is the comparison that followed it."""

    deliveries: int
    seconds: float
    copies: int
    out_of_order_share: float
    appends: int
    audit: AuditResult

    @property
    def per_s(self) -> float:
        """Deliveries a second."""
        return self.deliveries / self.seconds

    @property
    def per_append(self) -> float:
        """How many entries a list got at a time; those of the limits get one."""
        return self.copies * self.deliveries / self.appends if self.appends else 0.0


@dataclass(frozen=True, slots=True)
class DeliveriesReport:
    """All runs, by form, and the limits' rates; these are empty when an audit was not clean."""

    shape: Shape
    tweets: int
    workers: int
    runs: Mapping[str, Sequence[Run]]
    limits: Mapping[str, Sequence[float]]

    @property
    def clean(self) -> bool:
        """Whether every run's audit was."""
        return all(run.audit.clean for runs in self.runs.values() for run in runs)

    def as_json(self) -> dict[str, Any]:
        """The object that `--json` prints; the figures of the first form (backlog, if it was run) are at the top."""
        forms = {form: self._form(runs) for form, runs in self.runs.items()}
        return {
            **next(iter(forms.values())),
            **{f"{name}_per_s": round(median(rates)) for name, rates in self.limits.items()},
            "limits": {name: spread(rates) for name, rates in self.limits.items()},
            "workers": self.workers,
            "timelines": self.shape.timelines,
            "entries": self.shape.entries,
            "fan_out": self.shape.fan_out,
            "tweets": self.tweets,
            **forms,
        }

    def _form(self, runs: Sequence[Run]) -> dict[str, Any]:
        rates = [run.per_s for run in runs]
        clean = all(run.audit.clean for run in runs)
        limit = median(self.limits["limit"]) if self.limits else None
        return {
            "deliveries_per_s": round(median(rates)) if clean else None,
            "deliveries_per_s_min": round(min(rates)) if clean else None,
            "deliveries_per_s_max": round(max(rates)) if clean else None,
            "ratio": round(median(rates) / limit, 3) if clean and limit else None,
            "copies": min(run.copies for run in runs),
            "deliveries": sum(run.deliveries for run in runs),
            "out_of_order_share": round(median(run.out_of_order_share for run in runs), 4),
            "entries_per_append": round(median(run.per_append for run in runs), 3),
            "runs": len(runs),
            "audit": asdict(sum((run.audit.total for run in runs), Counts())),
        }


def spread(rates: Sequence[float]) -> dict[str, int]:
    """Median, minimum and maximum."""
    return {"median": round(median(rates)), "min": round(min(rates)), "max": round(max(rates))}


def print_deliveries(report: DeliveriesReport) -> None:
    """For people, on standard output."""
    console = Console(highlight=False, soft_wrap=True)
    found = report.as_json()
    console.print(
        f"\n{report.shape.timelines:,} timelines of {report.shape.entries} entries, mean fan-out "
        f"{report.shape.fan_out}, {report.tweets:,} tweets a run, {report.workers} worker(s)"
    )
    for form in report.runs:
        one = found[form]
        if one["deliveries_per_s"] is None:
            console.print(f"  {form:<12} no figure: the audit found differences")
            continue
        ratio = "" if one["ratio"] is None else f", {one['ratio']:.2f} of the limit"
        console.print(
            f"  {form:<12} {one['deliveries_per_s']:,} deliveries a second in {one['copies']} clusters "
            f"({one['deliveries_per_s_min']:,} to {one['deliveries_per_s_max']:,}){ratio}; "
            f"{one['entries_per_append']:.2f} entries an append"
        )
    for name, rates in found["limits"].items():
        console.print(f"  {name.replace('_', ' '):<12} {rates['median']:,} ({rates['min']:,} to {rates['max']:,})")
