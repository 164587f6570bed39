"""How fast a replay sends: never above its rate, and never more than the agents apply in a moment.

What is sent waits in the same logs as live activity, so it must be little. One share is on the way at a time; how large
it is follows from how long the last one took until it was applied: what takes longer than the target, or than half as
long again as the smallest shares take anyway, makes the next one half as large. So live tweets wait for one share at
most, and for none while the agents are behind anyway: then it does not come back, and nothing is sent. Where nobody
waits a longer target is faster: the larger a share is, the more of its entries share a look at their list.
"""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Protocol

from infra import metrics

TARGET_S = 0.15  # from the sending of a share until it is applied, unless a replay says otherwise
TARGETS_S = (0.1, 60.0)
GROWTH = ((0.1, 4.0), (0.75, 1.5))  # below so much of the target: times so much
# How long the way takes anyway is what half of the smallest shares took: they are hardly any work. Were it not asked, a
# busy machine on which a single event takes longer than the target would crawl. It is forgotten after a while, so a
# machine that became faster is noticed, and what follows from it is bounded: live tweets wait behind it.
SMALLEST_REMEMBERED, REMEMBERED_S = 16, 60.0
TIMES_THE_WAY, TARGET_MAX_S = 1.5, 1.0
SHARE_FIRST = 64  # events
SHARE_MIN = 16  # events: with fewer the two transactions are most of the work
SHARE_MAX = 4_000  # events: 2 MB in one transaction
POLL_S = 0.02  # between looks at what is applied
STALLED_S = 2.0  # markers of transactions are never applied: so little that does not move for so long is nothing
LOOSE_MAX = 64  # offsets that may be markers only

Offsets = Mapping[int, int]


class Logs(Protocol):
    """How far both logs are worked off, by partition; each answer is a question to Kafka or to the nodes."""

    def fanned_out(self) -> Offsets:
        """Where fan_out goes on in activity. It says so in the transaction that has what it made of what is before."""

    def delivery_ends(self) -> Offsets:
        """Where deliveries end."""

    def delivered(self) -> Offsets:
        """Behind the last offset that the nodes have, in the partitions of deliveries that they know."""


@dataclass(slots=True)
class _Share:
    """What was sent together: when, whether it had to be as small as shares get, whether it was as large as it might
    be, the offsets behind it in activity, and once it is fanned out where deliveries end."""

    sent_s: float
    smallest: bool
    full: bool
    behind: Offsets
    deliveries: Offsets | None = None


def next_share(share: int, took_s: float, target_s: float, *, full: bool) -> int:
    """How large the next share may be, by how long the last one took. One that was smaller than it might have been says
    nothing about larger ones."""
    if took_s > target_s:
        return max(share // 2, SHARE_MIN)
    if not full:
        return share
    grows_by = next((times for below, times in GROWTH if took_s < target_s * below), None)
    return share if grows_by is None else min(round(share * grows_by) + 1, SHARE_MAX)


class _Way:
    """How long the way to the timelines takes anyway, as the smallest shares of the last minute show it."""

    def __init__(self) -> None:
        self._took_s: deque[tuple[float, float]] = deque(maxlen=SMALLEST_REMEMBERED)

    def took(self, share: _Share, now_s: float) -> None:
        """A share was applied just now."""
        if share.smallest:
            self._took_s.append((now_s, now_s - share.sent_s))

    def target_s(self, least_s: float, now_s: float) -> float:
        """What a share may take where at least so long is allowed."""
        known = [took_s for at_s, took_s in self._took_s if now_s - at_s < REMEMBERED_S]
        return max(least_s, min(TIMES_THE_WAY * median(known), TARGET_MAX_S)) if known else least_s


class Window:
    """What is on the way to the timelines. Time is a parameter of everything."""

    def __init__(self, logs: Logs, target_s: float = TARGET_S) -> None:
        self.share = SHARE_FIRST
        self._target_s = target_s
        self._logs = logs
        self._way = _Way()
        self._on_the_way: _Share | None = None
        self._left = _Left()

    def sent(self, events: int, behind: Offsets, now_s: float) -> None:
        """A share of so many events was sent, and the broker has it before these offsets."""
        self._on_the_way = _Share(now_s, self.share == SHARE_MIN, events >= self.share, behind)

    def is_open(self, now_s: float) -> bool:
        """Whether the next share may be sent; looks at the logs unless nothing is on the way."""
        share = self._on_the_way
        if share is None:
            return True
        if not self._is_applied(share, now_s):
            return False
        self._way.took(share, now_s)
        target_s = self._way.target_s(self._target_s, now_s)
        self.share = next_share(self.share, now_s - share.sent_s, target_s, full=share.full)
        self._on_the_way = None
        return True

    def _is_applied(self, share: _Share, now_s: float) -> bool:
        if share.deliveries is None:
            done = self._logs.fanned_out()
            if any(done[partition] < offset for partition, offset in share.behind.items()):
                return False
            share.deliveries, self._left = self._logs.delivery_ends(), _Left()
        return self._left.is_nothing(share.deliveries, self._logs.delivered(), now_s)


@dataclass(slots=True)
class _Left:
    """What lies between an end and how far a log is worked off, and since when it has not changed."""

    offsets: int = -1
    since_s: float = 0.0

    def is_nothing(self, ends: Offsets, done: Offsets, now_s: float) -> bool:
        """Markers count as nothing, once they are all there can be: one behind each partition's last message at once,
        more of them when they do not move."""
        left = {partition: end - done.get(partition, end) for partition, end in ends.items()}
        if all(one <= 1 for one in left.values()):
            return True
        total = sum(max(one, 0) for one in left.values())
        if total != self.offsets:
            self.offsets, self.since_s = total, now_s
        return all(one <= LOOSE_MAX for one in left.values()) and now_s - self.since_s >= STALLED_S


class Pace:
    """When the next share may be sent, and how large it is. `window` is None when no agent reads what is sent."""

    def __init__(self, rate: Callable[[], int], window: Window | None, clock_s: Callable[[], float]) -> None:
        self._rate = rate
        self._window = window
        self._clock_s = clock_s
        self._free_s = clock_s()  # until then what was sent is paid for

    @property
    def share(self) -> int:
        """How many events the next share may have: a second's at most."""
        most = SHARE_MAX if self._window is None else self._window.share
        return max(min(most, self._rate()), 1)

    def sent(self, events: int, behind: Offsets) -> None:
        """So many were sent, and are before these offsets of activity."""
        now_s = self._clock_s()
        self._free_s = max(self._free_s, now_s - 1.0) + events / self._rate()
        if self._window is not None:
            self._window.sent(events, behind, now_s)

    def wait_s(self) -> float:
        """How long to wait before asking again; 0: now is the time."""
        now_s = self._clock_s()
        if self._window is not None and not self._window.is_open(now_s):
            metrics.REPLAY_WAITS.inc()
            return POLL_S
        return max(min(self._free_s - now_s, 1.0), 0.0)
