"""What breaks around the nodes: they die, hang and run short of memory, calls time out, somebody cannot reach one of
them or ZooKeeper, and those who keep the shard map die and freeze.
"""

from collections.abc import Callable, Sequence
from random import Random

from infra.redis_keys import BODY
from infra.tweet_bodies import TOMBSTONE
from tests.simulator.keepers import Keepers
from tests.simulator.later import Later
from tests.simulator.maps import SimulatedMaps
from tests.simulator.network import NAMES, Network
from tests.simulator.scheduler import Process

RESTART_STEPS_MAX = (200, 1_500)
HANG_STEPS_MAX = 600
WEIGHTS = (1, 2, 4)
AWAY_STEPS_MAX = 600
CUT_OFF_STEPS_MAX = 1_500
SESSION_STEPS = 150  # after so many ZooKeeper takes a silent process for dead
FREEZE_STEPS_MAX = 1_000
ARRIVES_LATE = 0.6  # of the calls that time out; the others are lost
DRAINED, PROMOTED_TOGETHER = 0.5, 0.7
RETRACTED = b"x:"


class NodeFaults:
    """Breaks and mends. `users` are the processes that have the shard map in mind: workers and APIs."""

    def __init__(
        self,
        network: Network,
        keepers: Keepers,
        maps: SimulatedMaps,
        later: Later,
        users: Callable[[], Sequence[Process]],
    ) -> None:
        self._network = network
        self._keepers = keepers
        self._maps = maps
        self._later = later
        self._users = users
        self._rng: Random = network.scheduler.rng

    def stop_node(self) -> None:
        """It restarts, empty."""
        name = self._rng.choice(NAMES)
        if self._network.up[name]:
            self._network.stop(name)
            self._later.after(self._rng.choice(RESTART_STEPS_MAX), lambda: self._network.start(name))

    def hang_node(self) -> None:
        """It answers nobody for a while, and goes on with all that it was sent meanwhile."""
        name = self._rng.choice(NAMES)
        if self._network.up[name]:
            self._network.hung[name] = True
            self._later.after(HANG_STEPS_MAX, lambda: self._network.hung.update({name: False}))

    def evict(self) -> None:
        """Memory runs short on a node. Not of tombstones and marks, which would have to be the least recently used:
        ARCHITECTURE.md, decision 34."""
        server = self._network.servers[self._rng.choice(NAMES)]
        keys = [key for key in server.volatile_keys() if not key.startswith(RETRACTED)]
        keys = [key for key in keys if not (key.startswith(BODY) and server.value(key) == TOMBSTONE)]
        if keys:
            server.execute("DEL", self._rng.choice(keys))

    def time_out(self) -> None:
        """A call's caller gives up."""
        if self._network.flight:
            place = self._rng.randrange(len(self._network.flight))
            self._network.give_up(place, arrives=self._rng.random() < ARRIVES_LATE)

    def part(self) -> None:
        """One process cannot reach one node, which is well."""
        pair = self._rng.choice(self._users()), self._rng.choice(NAMES)
        self._network.parted.add(pair)
        self._later.after(AWAY_STEPS_MAX, lambda: self._network.parted.discard(pair))

    def cut_off(self) -> None:
        """One process cannot reach ZooKeeper: what it knows stands still. Workers and APIs not at the same time: a
        worker who does not know that a node missed an entry brings it level again in a reader's eyes (ARCHITECTURE.md,
        known limits)."""
        users = [self._maps.of(one) for one in self._users()]
        kinds = {one.kind for one in users if one.session.cut} or {self._rng.choice(users).kind}
        users = [one for one in users if one.kind in kinds]
        knowing = [one for one in users if one.last.down_nodes]
        session = self._rng.choice(self._rng.choice((knowing, users)) or users).session
        session.cut = True

        def mend() -> None:
            session.cut = False

        self._later.after(CUT_OFF_STEPS_MAX, mend)

    def join(self) -> None:
        """A node that has no registrar gets one; so slots move to it if it holds none."""
        free = [name for name in NAMES if name not in self._keepers.registrars]
        if free:
            self._keepers.start_registrar(self._rng.choice(free))

    def reweigh(self) -> None:
        """A node has another weight from now on, so slots move between nodes that are in use."""
        registrars = list(self._keepers.registrars.values())
        if registrars:
            self._rng.choice(registrars).weight = self._rng.choice(WEIGHTS)

    def crash_keeper(self) -> None:
        """A registrar dies; or the coordinator, and a standby leads."""
        names = list(self._keepers.registrars)
        place = self._rng.randint(0, len(names))
        if place < len(names):
            self._keepers.end_registrar(names[place])
            self._later.after(self._rng.choice(RESTART_STEPS_MAX), self.join)
        else:
            self._network.scheduler.kill(self._keepers.coordinator.process)
            self._keepers.replace_coordinator()

    def freeze_keeper(self) -> None:
        """A registrar or the coordinator stands still; then its session ends, and it goes on."""
        process = self._rng.choice(self._keepers.processes())
        process.frozen = True
        if process is self._keepers.coordinator.process:
            self._later.after(SESSION_STEPS, lambda: self._succeed(process), exactly=True)

        def thaw() -> None:
            process.frozen = False

        self._later.after(FREEZE_STEPS_MAX, thaw)

    def _succeed(self, process: Process) -> None:
        if process is self._keepers.coordinator.process and process.frozen:
            self._keepers.replace_coordinator()

    def drain(self) -> None:
        """Somebody wants a node to hold nothing, or takes that back."""
        self._keepers.drain(self._rng.choice(NAMES), drained=self._rng.random() < DRAINED)

    def promote(self) -> None:
        """Copies that were filling are serving; often all, since what serves moves only when its whole cluster does."""
        if self._rng.random() < PROMOTED_TOGETHER:
            self._keepers.promote_all(self._maps.value())
        else:
            self._keepers.promote(self._maps.value())

    def mend(self) -> None:
        """Whatever is frozen or slow goes on; what comes later by itself is the caller's."""
        for process in self._keepers.processes():
            process.frozen, process.pace = False, 1.0
