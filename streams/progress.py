"""Progress: how far each partition got in this process, how far behind it is, and whether it still moves.

Agents say twice a batch what they work on, and a batch that waits for a server says so each time it tries again.
Deciding is pure: offsets, clocks and what was seen are parameters. Next: watch.py, which looks once a second.
"""

import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from infra.topics import ACTIVITY, DELIVERIES

AGENT_OF = {ACTIVITY.name: "fan_out", DELIVERIES.name: "deliver"}  # by the topic that it reads
TOPIC_OF = {agent: topic for topic, agent in AGENT_OF.items()}

# The longest silence of a healthy batch is a transaction that times out, then its abort: 2 × 20 s (infra/kafka.py).
STALLED_S = 45.0

Place = tuple[str, int]  # an agent and a partition of its log


@dataclass(frozen=True, slots=True)
class Run:
    """Messages of one partition that were fetched together: the offsets of the first and last, the first's time."""

    first: int
    last: int
    first_ms: int


@dataclass(frozen=True, slots=True)
class Fetched:
    """How far the consumer has read one partition: the next offset to fetch, and what it fetched, oldest first."""

    position: int | None  # None until it knows where to begin
    runs: deque[Run]


@dataclass(slots=True)
class Work:
    """What an agent has done in one partition since it was assigned."""

    done: int | None = None  # offset of the last message worked off
    batch: Run | None = None  # what is worked on now
    in_line: bool = False  # for its turn, behind batches of other partitions
    moved_s: float = 0.0  # when a batch began or ended, or tried again; seconds of the monotonic clock
    waits_for: str = ""


@dataclass(slots=True)
class Progress:
    """What all agents of this process have done. Safe to share between threads: each field is written whole."""

    clock: Callable[[], float] = time.monotonic
    _works: dict[Place, Work] = field(default_factory=dict)

    def of(self, place: Place) -> Work:
        """The work of one partition."""
        return self._works.setdefault(place, Work())

    def line_up(self, place: Place) -> None:
        """Messages wait for their turn. Standing in line is no standstill: who has the turns is looked at."""
        self.of(place).in_line = True

    def begin(self, place: Place, batch: Run) -> None:
        """A batch is worked on from now on."""
        work = self.of(place)
        work.batch, work.in_line, work.moved_s = batch, False, self.clock()

    def finish(self, place: Place) -> None:
        """The batch is worked off: its effect is there."""
        work = self.of(place)
        if work.batch is not None:
            work.done = work.batch.last
        work.batch, work.waits_for, work.moved_s = None, "", self.clock()

    def beat(self, place: Place, waits_for: str) -> None:
        """The batch at work is alive: it waits for a server that is away and tries again."""
        work = self.of(place)
        work.waits_for, work.moved_s = waits_for, self.clock()

    def forget(self) -> None:
        """The partitions were given back; what comes next may begin somewhere else."""
        self._works.clear()

    def waiting(self) -> list[str]:
        """What the batches at work wait for, a line for each."""
        works = sorted(self._works.items())
        return [f"{agent} {partition}: {one.waits_for}" for (agent, partition), one in works if one.waits_for]


PROGRESS = Progress()  # one process runs one worker; what it says is as global as its metrics


def oldest_open(fetched: Fetched, work: Work) -> Run | None:
    """The oldest messages that were fetched and are not worked off. Lets go of what is."""
    if work.batch is not None:
        return work.batch
    runs, done = fetched.runs, -1 if work.done is None else work.done
    while runs and runs[0].last <= done:
        runs.popleft()
    if not runs:
        return None
    return Run(max(runs[0].first, done + 1), runs[0].last, runs[0].first_ms)


def lag_offsets(end: int | None, position: int | None, open_: Run | None) -> int | None:
    """Offsets from the oldest message that is not worked off to the log's end; None when that is not known.

    Transaction markers take offsets and reach no agent, so the work's own offsets never meet the end. But when all
    that was fetched is worked off, what is left begins at the consumer's position, which is past the markers.
    """
    begin = open_.first if open_ is not None else position
    return None if end is None or begin is None else max(end - begin, 0)


def lag_s(lag: int, open_: Run | None, known_for_s: float, now_ms: int) -> float:
    """Age of the oldest waiting message; of one that was not fetched we know only for how long it has been there."""
    if lag == 0:
        return 0.0
    return known_for_s if open_ is None else max(now_ms - open_.first_ms, 0) / 1000


def stalled(quiet_since_s: Mapping[Place, float], now_s: float) -> list[str]:
    """A sentence for each partition that has messages to work off and has not moved for too long."""
    return [
        f"{agent} has messages in partition {partition} and has not moved for {now_s - since_s:.0f} s"
        for (agent, partition), since_s in sorted(quiet_since_s.items())
        if now_s - since_s > STALLED_S
    ]
