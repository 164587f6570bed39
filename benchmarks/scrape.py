"""Reads a histogram off the workers' /metrics and turns it into percentiles."""

import urllib.request
from collections.abc import Iterable, Mapping

from prometheus_client.parser import text_string_to_metric_families

TIMEOUT_S = 5.0


def read_buckets(addresses: Iterable[str], histogram: str) -> dict[float, float]:
    """Cumulative counts by upper bound, added over all addresses."""
    total: dict[float, float] = {}
    for address in addresses:
        for family in text_string_to_metric_families(_read(address)):
            for sample in family.samples:
                if sample.name == f"{histogram}_bucket":
                    bound = float(sample.labels["le"])
                    total[bound] = total.get(bound, 0.0) + sample.value
    return total


def percentile(buckets: Mapping[float, float], share: float) -> float | None:
    """The value below which `share` of the observations lie, in the histogram's unit; linear inside a bucket.

    None without observations; the last finite bound when the value lies above it.
    """
    bounds = sorted(buckets)
    if not bounds or buckets[bounds[-1]] == 0:
        return None
    wanted = share * buckets[bounds[-1]]
    below, under = 0.0, 0.0
    for bound in bounds:
        if buckets[bound] >= wanted:
            if bound == float("inf"):
                return below
            inside = (wanted - under) / max(buckets[bound] - under, 1e-9)
            return below + (bound - below) * inside
        below, under = bound, buckets[bound]
    return below


def read_totals(addresses: Iterable[str]) -> dict[str, float]:
    """Every counter and gauge, added over all addresses and labels."""
    total: dict[str, float] = {}
    for address in addresses:
        for family in text_string_to_metric_families(_read(address)):
            for sample in family.samples:
                total[sample.name] = total.get(sample.name, 0.0) + sample.value
    return total


def _read(address: str) -> str:
    with urllib.request.urlopen(address, timeout=TIMEOUT_S) as answer:  # noqa: S310 - our own worker, http
        return str(answer.read().decode())
