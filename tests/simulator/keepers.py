"""Who keeps the shard map true: a registrar for each node, modelled on infra/registrar.py, and the product's own
coordinator. Each is a process that can be slow, freeze and die; a coordinator that was frozen for longer than its
session has a successor when it goes on.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from typing import cast

from infra.coordinator import AFTER_CHANGE_S, PERIOD_S, Coordinator
from infra.copies import Copies, CopyState
from infra.epoch_guard import EpochGuard
from infra.errors import FanfoldError, RedisUnavailable, ZooKeeperUnavailable
from infra.lease import Lease
from infra.live_settings import LiveSettings, encode_live_settings
from infra.members import Member, encode_member, member_path
from infra.registrar import LOOK_PERIOD_S, MISSES_MAX
from infra.shard_map import ShardMap
from infra.shard_znodes import Znodes as Found
from infra.wishes import Wish, encode_wish, wish_path
from infra.zookeeper import COPIES_PATH, LIVE_SETTINGS_PATH, ZooKeeper
from tests.simulator.network import Network
from tests.simulator.scheduler import Process, Scheduler
from tests.simulator.znodes import Session, Znodes

LEAVE_AFTER_S = 5  # as short as the setting may be
LEASE_VALID_S = 4.0
BEGIN_STEPS_MAX = 20  # of the first coordinator, until all nodes are open


@dataclass(slots=True)
class Epochs:
    """Stands for `EpochGuard`: what PostgreSQL knows of epochs."""

    planned: int = 0

    def approve(self, znodes: Found) -> None:
        """ZooKeeper loses nothing here."""

    def plan_next(self, epoch: int) -> int:
        """One that was never planned before."""
        self.planned = max(epoch, self.planned) + 1
        return self.planned

    def note_written(self, epoch: int) -> None:
        """Nobody asks."""


@dataclass(frozen=True, slots=True)
class Realm:
    """What keepers stand on."""

    scheduler: Scheduler
    network: Network
    znodes: Znodes
    epochs: Epochs = field(default_factory=Epochs)
    incarnations: "count[int]" = field(default_factory=lambda: count(1))


class RegistrarProcess:
    """Looks after one node."""

    def __init__(self, realm: Realm, name: str, pace: float) -> None:
        self.process = Process(f"registrar {name}", pace=pace)
        self.name = name
        self.weight = 1
        self.session = Session(realm.znodes)
        self._realm = realm
        self._path = member_path(name)
        self._misses = 0

    def start(self) -> None:
        """Its looks, from now on."""
        self._realm.scheduler.spawn(self.process, self.process.name, self._run)

    def look(self) -> None:
        """Registers the node when it is fit; empties it first when it may lack a write."""
        run_id = str(self._realm.network.run_ids[self.name])
        prepared_in, incarnation = (_text(one) for one in self._ask("HMGET", "n", "run_id", "incarnation"))
        copies = self.session.read(COPIES_PATH)
        dropped = copies is not None and Copies.decode(copies[0]).needs_emptying(self.name, incarnation)
        if prepared_in != run_id or not incarnation or dropped:
            self._say(incarnation, fit=False)
            self._realm.scheduler.pause()
            self._ask("FLUSHALL", "SYNC")
            incarnation = f"i{next(self._realm.incarnations)}"
            self._realm.scheduler.pause()
            self._ask("HSET", "n", "name", self.name, "incarnation", incarnation, "run_id", run_id, "built", "0")
        self._misses = 0
        self._say(incarnation, fit=True)

    def _run(self) -> None:
        while True:
            try:
                self.look()
            except RedisUnavailable:
                self._misses += 1
                if self._misses == MISSES_MAX:
                    self._say_unfit()
            except ZooKeeperUnavailable:
                if self.session.lost.is_set():
                    self.session = Session(self._realm.znodes)
            self._realm.scheduler.sleep(LOOK_PERIOD_S)

    def _say_unfit(self) -> None:
        try:
            self._say("", fit=False)
        except ZooKeeperUnavailable:
            self._misses -= 1

    def _say(self, incarnation: str, *, fit: bool) -> None:
        member = encode_member(Member("redis://in-memory", incarnation, self.weight, fit=fit))
        found = self.session.read(self._path)
        if found is None:
            self.session.create(self._path, member, ephemeral=True)
        elif found[0] != member:
            self.session.compare_and_set(self._path, member, found[1])

    def _ask(self, *command: str) -> list[bytes | None]:
        self._realm.scheduler.check_alive()
        answer: list[bytes | None] = self._realm.network.at_once(self.name, *command)
        return answer


class CoordinatorProcess:
    """Leads while its session lasts."""

    def __init__(self, realm: Realm, number: int) -> None:
        self.process = Process(f"coordinator {number}")
        self.session = Session(realm.znodes)
        self._scheduler = realm.scheduler
        clock_s, path = realm.scheduler.monotonic, f"/leases/coordinator/{number}"
        self._lease = Lease("coordinator", path, number, clock_s(), LEASE_VALID_S, clock_s)
        self.session.create(path, b"", ephemeral=True)
        zookeeper, epochs = cast(ZooKeeper, self.session), cast(EpochGuard, realm.epochs)
        self._coordinator = Coordinator(zookeeper, self._lease, epochs, clock_s)

    def begin(self) -> None:
        """The first placement, at once."""
        assert any(self._coordinator.step() for _ in range(BEGIN_STEPS_MAX)), "the nodes are registered and fit"

    def start(self) -> None:
        """Its steps, from now on."""
        self._scheduler.spawn(self.process, self.process.name, self._run)

    def _run(self) -> None:
        while not self.session.lost.is_set():
            before = self._coordinator._changes
            self._lease.confirm(self._scheduler.monotonic())
            with suppress(FanfoldError):  # it tries again
                self._coordinator.step()
            self._scheduler.sleep(PERIOD_S if self._coordinator._changes == before else AFTER_CHANGE_S)


class Keepers:
    """All of them."""

    def __init__(self, realm: Realm, registrar_pace: float) -> None:
        self._pace = registrar_pace
        self.registrars: dict[str, RegistrarProcess] = {}
        self.realm = realm
        self._numbers = count(1)
        self.coordinator = CoordinatorProcess(realm, next(self._numbers))
        self._replaced: list[CoordinatorProcess] = []

    def begin(self, names: list[str], slots_max: int) -> None:
        """The first placement, on these nodes; later ones come in batches of so many slots."""
        live = LiveSettings(leave_after_s=LEAVE_AFTER_S, move_slots_max=slots_max)
        self.realm.znodes.change({LIVE_SETTINGS_PATH: (encode_live_settings(live), None)})
        for name in names:
            self.registrars[name] = RegistrarProcess(self.realm, name, self._pace)
            self.registrars[name].look()
        self.coordinator.begin()
        for registrar in self.registrars.values():
            registrar.start()
        self.coordinator.start()

    def start_registrar(self, name: str) -> None:
        """A new one for a node that has none."""
        self.registrars[name] = RegistrarProcess(self.realm, name, self._pace)
        self.registrars[name].start()

    def end_registrar(self, name: str) -> None:
        """It dies, and what it said goes with its session."""
        registrar = self.registrars.pop(name)
        self.realm.scheduler.kill(registrar.process)
        registrar.session.end()

    def replace_coordinator(self) -> None:
        """Its session ends, and a standby leads; the old one may not know it yet."""
        self.coordinator.session.end()
        self._replaced.append(self.coordinator)
        self.coordinator = CoordinatorProcess(self.realm, next(self._numbers))
        self.coordinator.start()

    def promote(self, shard_map: ShardMap) -> None:
        """Some copies that are filling are whole by now, as far as anybody could say."""
        rng = self.realm.scheduler.rng
        filling = self._filling(shard_map)
        if filling:
            name = rng.choice(list(filling))
            self._serve({name: filling[name][: rng.randint(0, len(filling[name]))]})

    def promote_all(self, shard_map: ShardMap) -> None:
        """All of them are."""
        self._serve(self._filling(shard_map))

    def drain(self, name: str, *, drained: bool) -> None:
        """Somebody wants a node to hold nothing, or no longer."""
        path, wish = wish_path(name), encode_wish(Wish(drained=drained))
        found = self.realm.znodes.states[-1].get(path)
        self.realm.znodes.change({path: (wish, found and found[1])})

    def _filling(self, shard_map: ShardMap) -> dict[str, list[int]]:
        """Of each node that is admitted and not down; looked at with every step of some scenes."""
        copies, filling = shard_map.copies, dict[str, list[int]]()
        for cluster, letters in copies.states.items():
            for slot in (
                [at for at, letter in enumerate(letters) if letter == CopyState.FILLING]
                if CopyState.FILLING in letters
                else ()
            ):
                filling.setdefault(shard_map.node_of(cluster, slot), []).append(slot)
        return {
            name: filling[name] for name in sorted(filling.keys() & copies.incarnations.keys() - shard_map.down_nodes)
        }

    def _serve(self, slots: Mapping[str, list[int]]) -> None:
        if not slots:
            return
        found = self.realm.znodes.states[-1][COPIES_PATH]
        promoted = Copies.decode(found[0])
        for name, of_node in slots.items():
            promoted = promoted.changed(name[0], of_node, CopyState.SERVING)
        self.realm.znodes.change({COPIES_PATH: (promoted.encode(), found[1])})

    def processes(self) -> list[Process]:
        """All that may live."""
        coordinators = [self.coordinator, *self._replaced]
        return [*(one.process for one in coordinators), *(one.process for one in self.registrars.values())]


def _text(value: bytes | None) -> str:
    return (value or b"").decode()
