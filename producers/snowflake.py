"""Snowflake ids: 41 bits of milliseconds since 1998-01-01, 10 bits of node, 12 bits of sequence.

19 digits from mid-2005 to 2067, so that ids sort as strings, and fit Redis's integer encoding. The tweets' primary key
is what guarantees uniqueness: a collision takes the next id. Node numbers come from node_lease.py.
"""

import random
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

from infra.errors import ClockWentBack
from infra.tweet_ids import EPOCH_MS, TIME_SHIFT

SEQUENCE_BITS = 12
NODE_BITS = 10
NODES = 1 << NODE_BITS
SEQUENCES = 1 << SEQUENCE_BITS
assert TIME_SHIFT == SEQUENCE_BITS + NODE_BITS
EARLIEST = datetime(2005, 8, 1, tzinfo=UTC)  # before it an id has 18 digits
# What a time service corrects at once is below a second; more is a clock that was wrong, or is wrong now.
BACK_MAX_MS = 1_000
# A sleep may end early, and the clock may step back again. At most 3 s in all: a transaction may idle for 5.
WAITS_MAX = 3


def snowflake(time_ms: int, node: int, sequence: int) -> int:
    """The id of these three parts; `time_ms` is Unix time."""
    return ((time_ms - EPOCH_MS) << TIME_SHIFT) | (node << SEQUENCE_BITS) | sequence


def unleased_snowflakes() -> "Snowflakes":
    """For a process that makes a few ids and ends: a random number, which the primary key makes safe."""
    return Snowflakes(random.SystemRandom().randrange(NODES), lambda: time.time_ns() // 1_000_000)


class Snowflakes:
    """Rising ids, safe to share between threads. `node` is a fixed number, or is asked for each id: a lease may move.

    A clock that steps back by up to `BACK_MAX_MS` is waited out: the time inside an id is never ahead of the clock.
    """

    def __init__(
        self, node: int | Callable[[], int], now_ms: Callable[[], int], sleep: Callable[[float], object] = time.sleep
    ) -> None:
        self._node = node if callable(node) else lambda: node
        self._now_ms = now_ms
        self._sleep = sleep
        self._last = (0, 0, 0)  # millisecond, node, sequence
        self._lock = threading.Lock()

    def next(self) -> int:
        """An id above every earlier one of this object. Raises `ClockWentBack`, and goes on once the clock is right."""
        with self._lock:
            node, (last_ms, last_node, last_sequence) = self._node(), self._last
            assert 0 <= node < NODES
            full = last_sequence == SEQUENCES - 1 or node != last_node
            time_ms = self._clock_at(last_ms + full)
            self._last = (time_ms, node, last_sequence + 1 if time_ms == last_ms else 0)
            return snowflake(*self._last)

    def _clock_at(self, earliest_ms: int) -> int:
        """The time, once it is not before `earliest_ms`."""
        waits = 0
        while (behind_ms := earliest_ms - self._now_ms()) > 0:
            if behind_ms > BACK_MAX_MS or waits == WAITS_MAX:
                raise ClockWentBack(
                    f"the clock is {behind_ms} ms behind the last id; no ids are made until it has caught up: "
                    "set it right, or restart this process if it is right now and was ahead before"
                )
            self._sleep(behind_ms / 1000)
            waits += 1
        return earliest_ms - behind_ms
