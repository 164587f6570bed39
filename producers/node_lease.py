"""The node number in a process's ids: random at first, leased in ZooKeeper as soon as that answers.

A lease is an ephemeral znode named by the number, there until it is closed or its session ends. Posting never waits for
it and goes on without it: two processes with one number can only collide in the primary key, which then takes the next
id.
"""

import random
import threading
from contextlib import suppress

import structlog

from infra.errors import ZooKeeperUnavailable
from infra.holder import this_process
from infra.zookeeper import SNOWFLAKES_PATH, ZooKeeper
from producers.snowflake import NODES

# Until the next look, a process that lost its session may have one number with another process.
LOOK_PERIOD_S = 5.0
CLOSE_WITHIN_S = 2.0  # a look takes milliseconds, and with ZooKeeper away as long as it is away

log = structlog.get_logger()


class NodeLease:
    """One process's number. `number` is for `Snowflakes`; it never waits. Looks happen in a thread of its own, never in
    a listener of ZooKeeper's."""

    def __init__(self, zookeeper: ZooKeeper, rng: random.Random | None = None) -> None:
        self._zookeeper = zookeeper
        self._rng = rng or random.SystemRandom()
        self._number = self._rng.randrange(NODES)
        self._stop = threading.Event()
        self._trouble = ""
        self._thread = threading.Thread(target=self._keep, name="node-lease", daemon=True)

    def number(self) -> int:
        """The number to use now: the leased one, or the last one, or a random one."""
        return self._number

    def begin(self) -> None:
        """Keeps a lease in the background until `close`."""
        self._thread.start()

    def close(self) -> None:
        """Ends the looks and gives the number back; call it before ZooKeeper's session is closed. While ZooKeeper is
        away it does not wait for that: the lease ends with the session."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(CLOSE_WITHIN_S)

    def look(self) -> None:
        """One look: leases a number unless this session has one. When somebody else is faster, the next look tries."""
        if self._zookeeper.owns(_path(self._number)):
            return
        taken = set(self._zookeeper.children(SNOWFLAKES_PATH))
        free = [number for number in range(NODES) if str(number) not in taken]
        if not free:
            self._say(f"all {NODES} numbers are taken")
            return
        number = self._number if self._number in free else self._rng.choice(free)
        if self._zookeeper.create(_path(number), this_process().encode(), ephemeral=True):
            log.info("node number leased", number=number, before=self._number)
            self._number, self._trouble = number, ""

    def _keep(self) -> None:
        while not self._stop.is_set():
            try:
                self.look()
            except ZooKeeperUnavailable as error:
                self._say(str(error))
            self._stop.wait(LOOK_PERIOD_S)
        with suppress(ZooKeeperUnavailable):
            self._give_back()

    def _give_back(self) -> None:
        """Between the two calls the session may end and somebody else have the number: as harmless as any collision."""
        if self._zookeeper.owns(_path(self._number)):
            self._zookeeper.delete(_path(self._number))

    def _say(self, trouble: str) -> None:
        """Once for each trouble: looks are many."""
        if trouble != self._trouble and not self._stop.is_set():
            log.warning("node number not leased", number=self._number, reason=trouble)
        self._trouble = trouble


def _path(number: int) -> str:
    return f"{SNOWFLAKES_PATH}/{number}"
