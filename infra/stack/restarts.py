"""When a part that ended is started again: soon at first, later and later, and not for ever."""

from collections.abc import Sequence

ENDS_MAX = 5  # within the window: a part that ends more often is broken, and its log says why
WINDOW_S = 60.0
FIRST_WAIT_S = 0.5
WAIT_S_MAX = 8.0  # the waits of five ends add up to 15.5 s, well inside the window


def wait_before_restart_s(ended_at_s: Sequence[float], now_s: float) -> float | None:
    """Seconds to wait after the last of these ends; None when the part is given up."""
    recent = sum(1 for ended_s in ended_at_s if now_s - ended_s < WINDOW_S)
    if recent > ENDS_MAX:
        return None
    return min(FIRST_WAIT_S * 2.0 ** max(0, recent - 1), WAIT_S_MAX)
