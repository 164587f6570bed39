"""Waiting in tests: for a condition, and never for longer than a limit."""

import threading
from collections.abc import Callable

PERIOD_S = 0.02


def wait_until(condition: Callable[[], bool], what: str = "it", limit_s: float = 20.0) -> None:
    """Returns once the condition holds; fails after `limit_s`."""
    pause = threading.Event()
    for _ in range(int(limit_s / PERIOD_S)):
        if condition():
            return
        pause.wait(PERIOD_S)
    raise AssertionError(f"waited {limit_s} s in vain for {what}")
