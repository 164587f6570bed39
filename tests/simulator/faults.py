"""What breaks: processes die and freeze, the database goes away, time jumps; node_faults.py has what is about nodes.

Also what mends it afterwards: restarts, and the group's rebalance.
"""

from collections.abc import Mapping
from itertools import count
from random import Random

from tests.simulator.actions import Actions
from tests.simulator.keepers import Keepers
from tests.simulator.later import Later
from tests.simulator.maps import SimulatedMaps
from tests.simulator.network import Network
from tests.simulator.node_faults import NodeFaults
from tests.simulator.parts import Ground, Owner, RelayProcess, Worker
from tests.simulator.profile import FAULTS
from tests.simulator.scheduler import Process
from tests.simulator.statements import Engine

SESSION_STEPS = 150  # after so many the group, or the database, takes a silent process for dead
FREEZE_STEPS_MAX = 1_000
RESTART_STEPS_MAX = 200
JUMP_MS_MAX = 70_000  # beyond the time to live of a token, and of a transaction


class Faults:
    """Breaks and mends one world."""

    def __init__(
        self,
        ground: Ground,
        network: Network,
        keepers: Keepers,
        maps: SimulatedMaps,
        actions: Actions,
        workers: list[Worker],
        relays: list[RelayProcess],
        owner: Owner,
        engine: Engine,
    ) -> None:
        self._engine = engine
        self._maps = maps
        self._keepers = keepers
        self._ground = ground
        self._scheduler = ground.scheduler
        self._broker = ground.broker
        self._rng: Random = ground.scheduler.rng
        self._network = network
        self._actions = actions
        self._workers = workers
        self._relays = relays
        self._owner = owner
        self.later = Later(ground.scheduler)
        self._of_nodes = NodeFaults(network, keepers, maps, self.later, self._users)
        self._born = count(len(workers))
        self._rebalancing = True
        self._pace = workers[0].process.pace

    def one(self, weights: Mapping[str, float]) -> None:
        """One fault, if it finds something to break."""
        [name] = self._rng.choices(FAULTS, [weights[name] + 1e-9 for name in FAULTS])
        self._scheduler.note(name)
        fault = getattr(self._of_nodes, name, None) or getattr(self, f"_{name}")
        fault()

    def tend(self) -> None:
        """What is due by now; to be called at every step."""
        self.later.tend()
        for worker in [one for one in self._workers if not one.process.alive]:
            self._bury_worker(worker)
        if self._rebalancing:
            self._go_on_rebalancing()

    def mend_all(self) -> None:
        """Whatever is frozen goes on; what was due later comes soon by itself."""
        self._pace = 1.0
        for process in self._processes():
            process.frozen, process.pace, process.stalls_at, process.goes_on_at = False, 1.0, 0, 0
        self._of_nodes.mend()
        self.later.hurry()
        for worker in self._workers:
            if worker.generation != self._broker.generation:
                self._rebalance()

    def is_quiet(self) -> bool:
        """Whether nothing is broken and no batch is at work."""
        return (
            not self.later
            and not self._rebalancing
            and not self._network.flight
            and all(one.idle and one.generation == self._broker.generation for one in self._workers)
        )

    def what_is_open(self) -> str:
        """For a failure's message."""
        behind = {
            place: len(log) - self._broker.committed.get(place, 0) for place, log in self._broker.logs.items() if log
        }
        return (
            f"{len(self._ground.database.outbox)} in the outbox, {behind} behind in the logs, calls "
            f"{[one.name for one in self._actions.open]}, {len(self.later)} to come, rebalancing {self._rebalancing}, "
            f"at work {[sorted(one.busy) for one in self._workers]}, {len(self._network.flight)} requests under way"
        )

    def kill_all(self) -> None:
        """The end of the world."""
        for process in [*self._processes(), *self._keepers.processes()]:
            self._scheduler.kill(process)

    # Workers and their group

    def _crash_worker(self) -> None:
        self._bury_worker(self._rng.choice(self._workers)) if self._workers else None

    def _bury_worker(self, worker: Worker) -> None:
        self._scheduler.kill(worker.process)
        self._workers.remove(worker)
        self._maps.forget(worker.process)
        self.later.after(SESSION_STEPS, self._rebalance)
        self.later.after(RESTART_STEPS_MAX, self._start_worker)

    def _start_worker(self) -> None:
        self._workers.append(Worker(self._ground, f"worker {next(self._born)}", self._pace))
        self._rebalance()

    def _freeze_worker(self) -> None:
        if self._workers:
            self._freeze(self._rng.choice(self._workers).process)
            self.later.after(SESSION_STEPS, self._rebalance, exactly=True)

    def _rebalance(self) -> None:
        self._rebalancing = True

    def _go_on_rebalancing(self) -> None:
        """Whoever is not frozen ends his batches, then a new generation begins without those that are."""
        members = [one for one in self._workers if not one.process.frozen]
        for one in members:
            one.revoking = True
        if not members or not all(one.idle for one in members):
            return
        self._broker.generation += 1
        places: dict[str, set[tuple[str, int]]] = {one.name: set() for one in members}
        for place in self._broker.logs:
            places[self._rng.choice(members).name].add(place)
        self._broker.members = {name: frozenset(mine) for name, mine in places.items()}
        for one in members:
            one.assign(self._broker.generation, self._broker.members[one.name])
        self._rebalancing = False
        self._scheduler.note(f"generation {self._broker.generation}")
        self._broker.wake_all()

    # Relays

    def _crash_relay(self) -> None:
        relay = self._rng.choice(self._relays)
        self._scheduler.kill(relay.process)
        self._relays.remove(relay)
        self._relays.append(RelayProcess(self._ground, f"relay {self._scheduler.steps}", self._owner))
        self._owner.end_session(relay)

    def _freeze_relay(self) -> None:
        relay = self._rng.choice(self._relays)
        self._freeze(relay.process)
        self.later.after(SESSION_STEPS, lambda: self._owner.end_session(relay), exactly=True)

    # Calls of users

    def _crash_call(self) -> None:
        if self._actions.open:
            process = self._rng.choice(self._actions.open)
            self._scheduler.kill(process)
            if process in self._actions.open:  # it never began
                self._actions.open.remove(process)

    def _freeze_call(self) -> None:
        if self._actions.open:
            self._freeze(self._rng.choice(self._actions.open))

    def _freeze_api(self) -> None:
        self._freeze(self._rng.choice(self._actions.apis))

    # Time, and the database

    def _jump(self) -> None:
        self._scheduler.now_ms += self._rng.randrange(JUMP_MS_MAX)

    def _stop_database(self) -> None:
        self._engine.away = True
        self.later.after(RESTART_STEPS_MAX, self._start_database)

    def _start_database(self) -> None:
        self._engine.away = False

    # All

    def _processes(self) -> list[Process]:
        return [
            *(worker.process for worker in self._workers),
            *(relay.process for relay in self._relays),
            *self._actions.open,
            *self._actions.apis,
        ]

    def _users(self) -> list[Process]:
        """Those who route by the shard map."""
        return [*(worker.process for worker in self._workers), *self._actions.apis]

    def _freeze(self, process: Process) -> None:
        process.frozen = True
        self.later.after(FREEZE_STEPS_MAX, lambda: self._thaw(process))

    def _thaw(self, process: Process) -> None:
        process.frozen = False
        if any(one.process is process and one.generation != self._broker.generation for one in self._workers):
            self.later.after(SESSION_STEPS, self._rebalance)
