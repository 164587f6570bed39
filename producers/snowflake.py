"""Snowflake ids: 41 bits of milliseconds since 1998-01-01, 10 bits of node, 12 bits of sequence.

19 digits from mid-2005 to 2067, so that ids sort as strings, and fit Redis's integer encoding. The tweets' primary key
is what guarantees uniqueness: a collision takes the next id.
"""

import threading
from collections.abc import Callable
from datetime import UTC, datetime

EPOCH_MS = int(datetime(1998, 1, 1, tzinfo=UTC).timestamp() * 1000)
SEQUENCE_BITS = 12
NODE_BITS = 10
NODES = 1 << NODE_BITS
SEQUENCES = 1 << SEQUENCE_BITS
TIME_SHIFT = SEQUENCE_BITS + NODE_BITS
EARLIEST = datetime(2005, 8, 1, tzinfo=UTC)  # before it an id has 18 digits


def snowflake(time_ms: int, node: int, sequence: int) -> int:
    """The id of these three parts; `time_ms` is Unix time."""
    return ((time_ms - EPOCH_MS) << TIME_SHIFT) | (node << SEQUENCE_BITS) | sequence


def time_ms_of(tweet_id: int) -> int:
    """The Unix time inside an id."""
    return (tweet_id >> TIME_SHIFT) + EPOCH_MS


class Snowflakes:
    """Rising ids of one node. A clock that steps back is ridden out on the last millisecond seen."""

    def __init__(self, node: int, now_ms: Callable[[], int]) -> None:
        assert 0 <= node < NODES
        self._node = node
        self._now_ms = now_ms
        self._last_ms = 0
        self._sequence = 0
        self._lock = threading.Lock()

    def next(self) -> int:
        """An id above every earlier one of this object."""
        with self._lock:
            now_ms = max(self._now_ms(), self._last_ms)
            self._sequence = self._sequence + 1 if now_ms == self._last_ms else 0
            if self._sequence == SEQUENCES:
                now_ms, self._sequence = now_ms + 1, 0  # 4,096 ids in one millisecond: borrow the next one
            self._last_ms = now_ms
            return snowflake(now_ms, self._node, self._sequence)
