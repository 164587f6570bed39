"""The model: a Hypothesis state machine drives the product's code on real Valkey and PostgreSQL against the oracle."""

from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from types import SimpleNamespace
from typing import ClassVar, cast

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from infra.composition import Stores
from infra.live_settings import LiveSettings
from infra.paging import Cursor
from infra.shard_map import CLUSTERS
from infra.timelines import Kind, Timelines
from infra.topics import ACTIVITY, DELIVERIES
from infra.write_through import WriteThrough
from producers.publish import Publisher
from tests.model.world import Recording, World
from tests.simulator.database import Database
from tests.simulator.lua_library import SMALL_LIMITS, source
from tests.simulator.oracle import Oracle
from tests.simulator.znodes import Fixed

LENGTH = 8  # of a timeline: trims and refills come soon
USERS = 4
EXAMPLES = 12
STEPS = 60

users = st.integers(0, USERS - 1)
pairs = st.lists(users, min_size=2, max_size=2, unique=True)
kinds = st.sampled_from(Kind)
clusters = st.sampled_from(CLUSTERS)
numbers = st.integers(0, 1_000)
sizes = st.integers(1, 6)
activity_places = st.lists(st.integers(0, ACTIVITY.partitions - 1), min_size=1, max_size=3, unique=True)
deliveries_places = st.integers(0, DELIVERIES.partitions - 1)


class Machine(RuleBasedStateMachine):
    """Whatever happens in whichever order, the oracle agrees."""

    make_world: ClassVar[Callable[[], World]]

    def __init__(self) -> None:
        super().__init__()
        self.world = type(self).make_world()
        self.user = self.world.users

    @rule(author=users)
    def post(self, author: int) -> None:
        self.world.post(self.user[author])

    @rule(author=users, number=numbers)
    def retweet(self, author: int, number: int) -> None:
        tweets = list(self.world.oracle.database.tweets)
        if tweets:
            self.world.post(self.user[author], tweets[number % len(tweets)])

    @rule(number=numbers)
    def delete(self, number: int) -> None:
        tweets = list(self.world.oracle.database.tweets)
        if tweets:
            self.world.delete(tweets[number % len(tweets)])

    @rule(pair=pairs)
    def follow(self, pair: list[int]) -> None:
        self.world.follow(self.user[pair[0]], self.user[pair[1]])

    @rule(pair=pairs)
    def unfollow(self, pair: list[int]) -> None:
        self.world.unfollow(self.user[pair[0]], self.user[pair[1]])

    @rule(pair=pairs)
    def block(self, pair: list[int]) -> None:
        self.world.block(self.user[pair[0]], self.user[pair[1]])

    @rule(size=sizes)
    def relay(self, size: int) -> None:
        self.world.relay(size)

    @rule(places=activity_places, size=sizes, again=st.booleans())
    def fan_out(self, places: list[int], size: int, again: bool) -> None:
        self.world.fan_out(places, size, again=again)

    @rule(place=deliveries_places, size=sizes, again=st.booleans())
    def deliver(self, place: int, size: int, again: bool) -> None:
        self.world.deliver(place, size, again=again)

    @rule(number=numbers)
    def late_call(self, number: int) -> None:
        self.world.send_late(number)

    @rule()
    def new_generation(self) -> None:
        self.world.begin_generation()

    @rule(kind=kinds, user=users)
    def begin_rebuild(self, kind: Kind, user: int) -> None:
        self.world.begin_rebuild(kind, self.user[user])

    @precondition(lambda self: self.world.rebuilds)
    @rule(number=numbers)
    def go_on_with_rebuild(self, number: int) -> None:
        self.world.go_on_with_rebuild(number)

    @rule(kind=kinds, user=users, cluster=clusters)
    def evict(self, kind: Kind, user: int, cluster: str) -> None:
        self.world.evict(kind, self.user[user], cluster)

    @rule(number=numbers)
    def restart(self, number: int) -> None:
        nodes = self.world.clusters.shard_map.nodes
        self.world.restart(nodes[number % len(nodes)])

    @rule(user=users, limit=st.integers(1, 5))
    def read(self, user: int, limit: int) -> None:
        self.world.read(self.user[user], Cursor(limit))

    @invariant()
    def lists_are_sound(self) -> None:
        self.world.check_lists()

    def teardown(self) -> None:
        self.world.come_to_rest()


@pytest.fixture
def small_stores(stores: Stores) -> Iterator[Stores]:
    """Stores of short timelines, over nodes with the simulator's small limits."""
    live = Fixed(cast(LiveSettings, SimpleNamespace(**(asdict(LiveSettings()) | {"timeline_entries": LENGTH}))))
    recording = Recording(stores.shard_maps)
    recording.made = []
    for name in recording.shard_map.nodes:
        recording.node(name).command("FUNCTION", "LOAD", "REPLACE", source())
    yield replace(
        stores,
        clusters=recording,
        timelines=Timelines(recording, live.as_watched()),
        write_through=WriteThrough(stores.brief, live.as_watched()),
    )
    for name in recording.shard_map.nodes:
        recording.node(name).load_functions()
    recording.close()


def test_every_present_timeline_is_exact_whatever_comes_in_which_order(
    small_stores: Stores, make_users: Callable[[int], list[int]]
) -> None:
    with Publisher(small_stores) as publisher:

        def make_world() -> World:
            clusters = cast(Recording, small_stores.clusters)
            clusters.made = []
            oracle = Oracle(Database(), LENGTH, SMALL_LIMITS["TRIM_SLACK"] + 1)
            world = World(small_stores, clusters, publisher, make_users(USERS), oracle)
            world.make_celebrity(world.users[0])
            return world

        class OnTheseServers(Machine):
            pass

        OnTheseServers.make_world = staticmethod(make_world)
        run_state_machine_as_test(
            OnTheseServers,
            settings=settings(
                max_examples=EXAMPLES,
                stateful_step_count=STEPS,
                deadline=None,
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
            ),
        )
