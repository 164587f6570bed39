"""The warmer: repairs in the background, beside the coordinator that leads, at a bounded rate and behind live traffic.

It gives way to whoever waits for the lease `repair`, which is a person with `fanfold repair`. Next: repair_commands.py.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import structlog

from infra import metrics
from infra.applied_offsets import highest_applied
from infra.composition import Stores
from infra.copies import CopyState
from infra.errors import FanfoldError, LeaseHeld, ZooKeeperUnavailable
from infra.kafka_logs import MARKERS_MAX, Overview
from infra.leases import lease, read_lease
from infra.repair import REPAIR, Done, Plan, Repair
from infra.shard_map import CLUSTERS
from infra.topics import DELIVERIES

PERIOD_S = 1.0  # between looks, passes, and questions whether to go on
LAG_MAX_S = 2.0  # of deliveries; behind that repair waits
GIVE_WAY_S = 2.0  # then one batch all the same: deliveries that are behind all day must not keep copies empty
AWAY_S = 30.0  # a Kafka that does not answer is asked again after so long, since that takes five seconds
PROGRESS_S = 10.0
ENDS_WITHIN_S = 10.0  # a batch that waits for PostgreSQL; the coordinator does not wait longer for its end

Ends = Mapping[int, int]  # of each partition of deliveries: the offset after the last message
Clock = Callable[[], float]

log = structlog.get_logger()


class LiveLag:
    """Whether deliveries are behind: what the log had some time ago is not applied yet. Asks once a second at most."""

    def __init__(self, read_ends: Callable[[], Ends], read_applied: Callable[[], Ends], clock_s: Clock) -> None:
        self._read_ends = read_ends
        self._read_applied = read_applied
        self._clock_s = clock_s
        self._ends: deque[tuple[float, Ends]] = deque()
        self._ask_at_s = float("-inf")
        self._behind = False

    def is_behind(self) -> bool:
        """By the last look. While Kafka does not answer nothing is: nobody is delayed then."""
        now_s = self._clock_s()
        if now_s >= self._ask_at_s:
            newest = self._read_ends()
            self._ask_at_s = self._clock_s() + (PERIOD_S if newest else AWAY_S)
            self._ends.append((now_s, newest))
            while len(self._ends) > 1 and self._ends[1][0] <= now_s - LAG_MAX_S:
                self._ends.popleft()
            at_s, ends = self._ends[0]
            self._behind = at_s <= now_s - LAG_MAX_S and is_behind(ends, self._read_applied())
        return self._behind


def is_behind(ends: Ends, applied: Ends) -> bool:
    """Whether more than markers lie between what is applied and where the log ended. What no node knows is not."""
    return any(ends.get(partition, 0) - offset - 1 > MARKERS_MAX for partition, offset in applied.items())


def read_ends(overview: Overview) -> Ends:
    """Of deliveries; none while Kafka does not answer."""
    return {partition: end for (_, partition), end in (overview.ends() or {}).items()}


def read_applied(stores: Stores) -> Ends:
    """The highest offset that a node has applied of each partition; none while no node answers."""
    return highest_applied(stores.clusters) or {}


class Pace:
    """What is asked after each batch: it waits, and says whether to go on."""

    def __init__(
        self, users_per_s: Callable[[], int], lag: Callable[[], bool], ends: Callable[[float], bool], clock_s: Clock
    ) -> None:
        self._users_per_s = users_per_s
        self._lag = lag
        self._ends = ends  # waits for so many seconds; true when it is to stop
        self._clock_s = clock_s
        self._free_s = clock_s()  # until then what was built is paid for
        self._built = 0

    def go_on(self, done: Done) -> bool:
        """Waits until the next batch may begin; false when repair is to stop."""
        now_s = self._clock_s()
        built = done.built - (self._built if self._built <= done.built else 0)  # another pass counts anew
        self._built = done.built
        if built:
            self._free_s = max(self._free_s, now_s - PERIOD_S) + built / max(self._users_per_s(), 1)
        waits = False
        while not self._ends(0.0):
            paused = self._users_per_s() == 0
            if paused or (self._lag() and self._clock_s() - now_s < GIVE_WAY_S):
                metrics.REPAIR_WAITS.inc(not waits)
                waits = True
                self._ends(PERIOD_S)
            elif (left_s := self._free_s - self._clock_s()) > 0:
                self._ends(min(left_s, PERIOD_S))
            else:
                return True
        return False


class Warmer:
    """Repairs whatever is filling, until it is told to stop."""

    def __init__(self, stores: Stores, bootstrap: str, stop: threading.Event, clock_s: Clock = time.monotonic) -> None:
        self._stores = stores
        self._stop = stop
        self._clock_s = clock_s
        self._plan = Plan(bootstrap=bootstrap)
        ends = partial(read_ends, Overview(bootstrap, [DELIVERIES])) if bootstrap else dict
        self._lag = LiveLag(ends, partial(read_applied, stores), clock_s)
        self._asked_s = self._said_s = float("-inf")
        self._pace = self._new_pace()
        self._gives_way = False
        self._trouble = ""

    def run(self) -> None:
        """What cannot be reached is waited for; who holds the lease is not disturbed."""
        while not self._stop.wait(PERIOD_S):
            try:
                if self._filling() and self._stores.timelines.live.repair_users_per_s and self._is_free():
                    self._repair()
                self._trouble = ""
            except FanfoldError as error:
                if str(error) != self._trouble and not isinstance(error, LeaseHeld):
                    log.warning("repair waits", error=str(error))
                self._trouble = str(error)
            except Exception:  # whatever it is, copies that stay filling for ever would be worse
                log.exception("repair failed; it begins again")

    def _filling(self) -> int:
        """How many copies are, as far as this process knows: none before there is a shard map."""
        try:
            states = self._stores.shard_maps.value(timeout_s=0.0).copies.states
        except ZooKeeperUnavailable:
            return 0
        for cluster in CLUSTERS:
            metrics.FILLING.labels(cluster).set(states[cluster].count(CopyState.FILLING))
        return sum(letters.count(CopyState.FILLING) for letters in states.values())

    def _is_free(self) -> bool:
        """Whether nobody else repairs: taking the lease is a session of its own, and so is waiting for it."""
        return read_lease(self._stores.zookeeper, REPAIR) is None

    def _repair(self) -> None:
        with lease(self._stores.zookeeper, REPAIR) as held:
            self._gives_way = False
            work = Repair(self._stores, held, self._go_on, self._plan)  # for all passes: it counts those in vain
            while not self._ends(0.0) and self._filling():
                done = self._run_pass(work)
                if done is None or not done.promoted:
                    self._ends(PERIOD_S)

    def _run_pass(self, work: Repair) -> Done | None:
        self._pace = self._new_pace()
        self._said_s = self._clock_s()
        done = work.run_pass()
        if done is not None and (done.promoted or done.built):
            log.info(
                "repair pass done", users=done.looked, built=done.built, copied=done.copied, promoted=done.promoted
            )
        return done

    def _new_pace(self) -> Pace:
        return Pace(
            lambda: self._stores.timelines.live.repair_users_per_s, self._lag.is_behind, self._ends, self._clock_s
        )

    def _go_on(self, done: Done) -> bool:
        self._tell(done)
        return self._pace.go_on(done)

    def _tell(self, done: Done) -> None:
        if self._clock_s() - self._said_s >= PROGRESS_S:
            self._said_s = self._clock_s()
            log.info("repair", users=done.looked, in_all=done.in_all, built=done.built)

    def _ends(self, wait_s: float) -> bool:
        """Whether to stop, after so many seconds: it is told to, or somebody waits for the lease."""
        if self._stop.wait(wait_s) or self._gives_way:
            return True
        if self._clock_s() - self._asked_s >= PERIOD_S:
            self._asked_s = self._clock_s()
            standing = read_lease(self._stores.zookeeper, REPAIR)
            self._gives_way = standing is not None and bool(standing.waiting)
        return self._gives_way


@contextmanager
def warming(stores: Stores, bootstrap: str) -> Iterator[None]:
    """Repairs in the background while the context lasts."""
    stop = threading.Event()
    thread = threading.Thread(target=Warmer(stores, bootstrap, stop).run, name="repair", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(ENDS_WITHIN_S)
