"""Nodes that are near: what can be left out asks only those, so a node that is away costs few callers a time-out."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

AWAY_S = 1.0  # a node that did not answer is left out for so long

T = TypeVar("T")


@dataclass(slots=True)
class NearNodes:
    """Which nodes answered lately. Safe to share between threads."""

    clock_s: Callable[[], float] = time.monotonic
    away_until_s: dict[str, float] = field(default_factory=dict)

    def has(self, node: str) -> bool:
        """Whether a node is asked."""
        return self.away_until_s.get(node, 0.0) <= self.clock_s()

    def among(self, of_nodes: Mapping[str, T]) -> dict[str, T]:
        """What is for nodes that are asked."""
        return {node: one for node, one in of_nodes.items() if self.has(node)}

    def note(self, node: str, answer: object) -> None:
        """What came of asking it."""
        if isinstance(answer, Exception):
            self.away_until_s[node] = self.clock_s() + AWAY_S
