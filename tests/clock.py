"""A clock for tests of what goes by time."""

from dataclasses import dataclass


@dataclass
class Clock:
    """It stands still until it is told to move. Seconds."""

    now_s: float = 100.0

    def __call__(self) -> float:
        return self.now_s
