"""One episode: a small world, many steps in an order that the seed decides, then rest, and everything compared."""

from dataclasses import asdict, fields
from random import Random
from types import SimpleNamespace
from typing import Any, cast

from consumers.read_timeline import TimelineReader
from infra.coalescing import Coalescing
from infra.composition import Stores
from infra.copies import CopyState
from infra.events import is_replayed
from infra.kafka import Message
from infra.live_settings import LiveSettings
from infra.paging import Cursor
from infra.redis_keys import KEY_BYTES, id_of
from infra.shard_map import ShardMap
from infra.slot_keys import PREFIXES
from infra.slots import slot_of
from infra.timelines import Timelines
from infra.topics import ACTIVITY
from infra.tweet_bodies import TweetBodies
from infra.write_through import WriteThrough
from producers.status_keeper import due_steps
from tests.simulator.actions import Actions
from tests.simulator.broker import Broker
from tests.simulator.database import Database
from tests.simulator.faults import Faults
from tests.simulator.keepers import Keepers, Realm
from tests.simulator.lua_library import SMALL_LIMITS, Edits, Library, source
from tests.simulator.maps import SimulatedMaps
from tests.simulator.network import NAMES, Network
from tests.simulator.nodes import SimulatedClusters
from tests.simulator.oracle import Oracle, Wrong
from tests.simulator.parts import Ground, Owner, RelayProcess, Worker
from tests.simulator.profile import drawn
from tests.simulator.scheduler import Scheduler
from tests.simulator.seams import in_memory
from tests.simulator.statements import Engine
from tests.simulator.watermark import Watermark
from tests.simulator.znodes import Fixed, Znodes

LENGTH = 8  # of a timeline: trims and refills come all the time
BURSTS = 8
LULL_STEPS_MAX = 2_000
ALL_NODES_SHARE = 0.5
PATIENT_SHARE = 0.6
REST_STEPS_MAX = 60_000  # a world that needs more does not come to rest
SCROLL_LIMIT = 3


class Simulation:
    """A world and its steps."""

    def __init__(self, seed: str, edits: Edits = (), *, theme: str | None = None, traced: bool = False) -> None:
        self.seed = seed
        rng = self._rng = Random(seed)
        self.scheduler = Scheduler(rng)
        if traced:
            self.scheduler.trace = []
        self.profile = drawn(rng, theme)
        self.database = Database()
        self.network = Network(self.scheduler, Library(source(edits=edits)))
        self.znodes = Znodes(self.scheduler)
        self.maps = SimulatedMaps(self.scheduler, self.znodes)
        self.engine = Engine(self.database, self.scheduler.pause)
        self.oracle = Oracle(self.database, LENGTH, SMALL_LIMITS["TRIM_SLACK"] + 1)
        self.broker = Broker(self.scheduler)
        self.broker.appended = self._check_appended
        self.watermark = Watermark(self.database, self.broker)
        self.broker.acknowledged = self.watermark.look
        self.stores = self._make_stores()
        self.ground = Ground(
            self.scheduler,
            self.broker,
            self.database,
            self.engine.as_engine(),
            self.stores.timelines,
            self.profile.threshold,
        )

    def run(self) -> int:
        """Runs to the end; returns how many steps were made. Raises `Wrong`, or what the product raised."""
        with in_memory(self.scheduler, self.broker, self.engine, self.network):
            self._begin()
            try:
                self._play()
                self._rest()
                self._compare_lists()
                self._compare_pages()
            finally:
                self.faults.kill_all()
        return self.scheduler.made

    def _play(self) -> None:
        """What happens before the rest; scenes.py has other ways."""
        for _ in range(BURSTS):
            self._burst()

    def _burst(self) -> None:
        """Much at once, and then nothing new until all is applied, and often until slow calls have ended as well."""
        for _ in range(self._rng.randrange(self.profile.burst_steps_max)):
            self._step()
        patient = self._rng.random() < PATIENT_SHARE
        for _ in range(LULL_STEPS_MAX):
            if self._is_applied() and not (patient and self.actions.open):
                break
            self._quiet_step()
        if self._is_applied():
            self._compare_lists()

    def _is_applied(self) -> bool:
        return not self.database.outbox and self.broker.is_empty()

    def _begin(self) -> None:
        realm = Realm(self.scheduler, self.network, self.znodes)
        self.keepers = Keepers(realm, self.profile.registrar_pace)
        self.keepers.begin(self._first_nodes(), self.profile.slots_max)
        self.network.ran = self._check_touched
        owner = Owner(self.scheduler)
        self.database.appended = owner.wake
        self.workers = [Worker(self.ground, f"worker {number}", self.profile.worker_pace) for number in range(2)]
        self.relays = [RelayProcess(self.ground, f"relay {number}", owner) for number in range(2)]
        self.reader = TimelineReader(self.stores)
        self.actions = Actions(self.ground, self.stores, self.reader, self.oracle, self.watermark, self.profile)
        self.faults = Faults(
            self.ground,
            self.network,
            self.keepers,
            self.maps,
            self.actions,
            self.workers,
            self.relays,
            owner,
            self.engine,
        )
        self.actions.make_world(self.profile.users)

    def _first_nodes(self) -> list[str]:
        """Often all; else others may join later, and slots move to them."""
        if self._rng.random() < ALL_NODES_SHARE:
            return list(NAMES)
        return [name for name in NAMES if name.endswith("1") or self._rng.random() < 0.5]

    def _make_stores(self) -> Stores:
        clusters = SimulatedClusters(self.network, self.maps)
        settings = SimpleNamespace(**(asdict(LiveSettings()) | {"timeline_entries": LENGTH}))
        live = Fixed(cast(LiveSettings, settings)).as_watched()
        engine = self.engine.as_engine()
        timelines, bodies = Timelines(clusters, live), TweetBodies(clusters, engine)
        through = WriteThrough(clusters, live, self.scheduler.monotonic)
        made: dict[str, Any] = {
            "engine": engine,
            "clusters": clusters,
            "timelines": timelines,
            "bodies": bodies,
            "brief": clusters,
            "write_through": through,
            "filling": Coalescing[int](),
        }
        every: dict[str, Any] = {one.name: made.get(one.name) for one in fields(Stores)}  # others are not on the way
        return Stores(**every)

    def _step(self) -> None:
        self.scheduler.steps += 1
        chance = self._rng.random()
        self.faults.tend()
        if chance < self.profile.faults:
            self.faults.one(self.profile.weights)
        elif chance < self.profile.faults + self.profile.actions:
            self.actions.begin_one()
        elif self.network.late and self._rng.random() < self.profile.late:
            self.network.run_late(self._rng.randrange(len(self.network.late)))
        else:
            self._go_on()

    def _quiet_step(self) -> None:
        self.scheduler.steps += 1
        self.faults.tend()
        if self.network.late and self._rng.random() < self.profile.late:
            self.network.run_late(self._rng.randrange(len(self.network.late)))
        else:
            self._go_on()

    def _go_on(self) -> None:
        self.scheduler.now_ms += self._rng.randint(0, self.profile.step_ms)
        actors = self.scheduler.runnable()
        every = actors + len(self.network.flight)
        if not actors and self.network.only_hung():
            self.scheduler.skip_to_next()
        if not every:
            return
        place = self._rng.randrange(every)
        if place >= actors:
            self.network.run_one(place - actors)
        else:
            self.scheduler.run_one(place)

    def _rest(self) -> None:
        """No more actions and faults: everything is applied in the end."""
        self.faults.mend_all()
        for _ in range(REST_STEPS_MAX):
            if self._is_at_rest():
                return
            self._quiet_step()
        raise Wrong(f"the world does not come to rest: {self.faults.what_is_open()}")

    def _is_at_rest(self) -> bool:
        return (
            self._is_applied()
            and not self.network.late
            and not self.actions.open
            and self.faults.is_quiet()
            and not due_steps(self.ground.engine, self.profile.threshold)
        )

    def newest_map(self) -> ShardMap:
        """The shard map in force."""
        return self.maps.newest()

    def _compare_lists(self) -> None:
        shard_map = self.newest_map()
        for name in NAMES:
            server = self.network.servers[name]
            for key in server.all_keys():
                if is_readable(shard_map, name, key):
                    self.oracle.check_present(name, key, server.value(key))

    def _compare_pages(self) -> None:
        for user in self.database.users:
            self.oracle.check_scrolled(user, self._scrolled(user))

    def _scrolled(self, user: int) -> list[int]:
        found: list[int] = []
        below: int | None = None
        while True:
            page = self.reader.home(user, Cursor(limit=SCROLL_LIMIT, max_id=below))
            self.oracle.check_page(page, self.oracle.acknowledged, f"user {user}")
            found += [tweet.id for tweet in page.tweets]
            below = page.next_max_id
            if below is None:
                return found

    def _check_touched(self, name: str) -> None:
        server = self.network.servers[name]
        if not server.touched:
            return
        applied = self._is_applied()
        for key in server.touched:
            self.oracle.check_list(name, key, server.value(key))
            if applied and is_readable(self.newest_map(), name, key):
                self.oracle.check_present(name, key, server.value(key))
        server.touched.clear()

    def _check_appended(self, message: Message) -> None:
        if message.topic == ACTIVITY.name and not is_replayed(message.headers):
            author = (message.key or b"").decode()
            outbox_id = int(dict(message.headers)["ce_id"])
            self.oracle.check_sent(author, outbox_id, self.database.of_log(author))


def is_readable(shard_map: ShardMap, name: str, key: bytes) -> bool:
    """Whether a key lies on a node in a copy that is not down."""
    if len(key) != KEY_BYTES or key[:2] not in PREFIXES:
        return False
    cluster, slot = name[0], slot_of(id_of(key))
    return shard_map.node_of(cluster, slot) == name and shard_map.copies.of(cluster, slot) is not CopyState.DOWN
