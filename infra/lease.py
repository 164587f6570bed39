"""A lease: the right to do a one-at-a-time job, for as long as its holder can be sure of it.

Whoever was frozen or cut off learns by its own clock that the lease may be another's by now, before it does anything:
each step of a job calls `check`. What is written to ZooKeeper does not rest on clocks at all: the transaction checks
the lease's znode, whose path no other holder ever has. Next: leases.py.
"""

import time
from collections.abc import Callable
from enum import StrEnum

from infra.errors import LeaseLost


class LeaseState(StrEnum):
    """What the holder knows of its lease."""

    HELD = "held"
    SILENT = "silent"  # ZooKeeper has not confirmed it for so long that another process may hold it
    LOST = "lost"  # its znode is gone, for good


def lease_state(now_s: float, valid_until_s: float, gone: bool) -> LeaseState:
    """The rule. A silent lease that is confirmed is held again: its znode was there all the time. A lost one never."""
    if gone:
        return LeaseState.LOST
    return LeaseState.HELD if now_s < valid_until_s else LeaseState.SILENT


class Lease:
    """One lease as its holder has it. `number` fences: every later holder of the name has a higher one.

    `valid_s` counts from the moment at which a confirmation was *sent*, since the session counts from when it arrived.
    Safe to share between threads.
    """

    def __init__(
        self,
        name: str,
        path: str,
        number: int,
        sent_s: float,
        valid_s: float,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.path = path
        self.number = number
        self.clock_s = clock_s
        self._valid_s = valid_s
        self._valid_until_s = sent_s + valid_s
        self._why_lost = ""

    @property
    def state(self) -> LeaseState:
        """What is known now."""
        return lease_state(self.clock_s(), self._valid_until_s, bool(self._why_lost))

    def check(self) -> None:
        """Call it before each step of the job. Raises `LeaseLost` unless the lease is certainly still ours."""
        match self.state:
            case LeaseState.SILENT:
                raise LeaseLost(
                    f"lease {self.name}: ZooKeeper has not confirmed it for {self._valid_s:.1f} s, so another process "
                    "may hold it by now; begin again once ZooKeeper answers"
                )
            case LeaseState.LOST:
                raise LeaseLost(f"lease {self.name} is lost: {self._why_lost}; another process may hold it by now")

    def confirm(self, sent_s: float) -> None:
        """ZooKeeper answered a check that was sent then: the znode was there."""
        self._valid_until_s = max(self._valid_until_s, sent_s + self._valid_s)

    def lose(self, why: str) -> None:
        """The znode is gone. Nothing brings the lease back."""
        self._why_lost = self._why_lost or why
