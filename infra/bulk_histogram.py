"""A Prometheus histogram that takes many values at once: one by one they would cost more than delivering them."""

import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from prometheus_client import REGISTRY
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector


class BulkHistogram(Collector):
    """A histogram without labels. Safe to share between threads."""

    def __init__(self, name: str, meaning: str, bounds: Sequence[float]) -> None:
        self._name, self._meaning = name, meaning
        self._bounds = np.array([*bounds, np.inf])
        self._counts = np.zeros(len(self._bounds), dtype=np.int64)
        self._sum = 0.0
        self._lock = threading.Lock()
        REGISTRY.register(self)

    def observe_all(self, values: npt.NDArray[Any]) -> None:
        """Takes values in the histogram's unit."""
        places = np.searchsorted(self._bounds, values, side="left")
        with self._lock:
            self._counts += np.bincount(places, minlength=len(self._bounds))
            self._sum += float(values.sum())

    def describe(self) -> Iterator[HistogramMetricFamily]:
        """Its name, without a look at the values."""
        yield HistogramMetricFamily(self._name, self._meaning)

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """What Prometheus reads: cumulative counts."""
        with self._lock:
            cumulative, total = np.cumsum(self._counts).tolist(), self._sum
        names = [*map(str, self._bounds[:-1].tolist()), "+Inf"]
        buckets = list(zip(names, map(float, cumulative), strict=True))
        yield HistogramMetricFamily(self._name, self._meaning, buckets=buckets, sum_value=total)
