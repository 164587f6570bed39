"""Registrar and coordinator on real servers: a node is written only when it is fit, known and of the map's epoch."""

import re

import pytest
import sqlalchemy as sa

from infra.composition import Stores, open_stores
from infra.emptying import prepare_node
from infra.errors import Fenced, ZooKeeperUnavailable
from infra.live_settings import LiveSettings, set_live_settings
from infra.members import read_members
from infra.node_check import look_at
from infra.redis_node import RedisNode
from infra.registrar import Registration
from infra.settings import Settings
from infra.shard_map import decode_shard_map
from infra.zookeeper import PLACEMENT_PATH, Watched, ZooKeeper
from tests.coordinating import coordinating


@pytest.fixture
def node(stores: Stores) -> RedisNode:
    return stores.clusters.node("a1")


@pytest.mark.parametrize(
    ("setting", "bad", "good"),
    [
        ("save", "60 1", ""),
        ("appendonly", "yes", "no"),
        ("maxmemory-policy", "allkeys-lru", "volatile-lru"),
        ("maxmemory-policy", "noeviction", "volatile-lru"),
    ],
)
def test_a_node_that_would_keep_or_evict_the_wrong_things_is_refused(
    node: RedisNode, setting: str, bad: str, good: str
) -> None:
    node.command("CONFIG", "SET", setting, bad)
    try:
        unfit = look_at(node).unfit
    finally:
        node.command("CONFIG", "SET", setting, good)
    assert re.search(f"a1 .* has {setting} '{bad}'; set it to '{good}'", unfit)
    assert not look_at(node).unfit


def test_a_node_that_is_prepared_is_empty_and_has_functions_and_no_epoch(node: RedisNode) -> None:
    node.command("SET", "left", "over")
    node.command("FUNCTION", "FLUSH", "SYNC")

    incarnation = prepare_node(node, "another run")

    found = look_at(node)
    assert (found.name, found.incarnation, found.prepared_in) == ("a1", incarnation, "another run")
    assert node.command("EXISTS", "left") == 0
    assert node.command("HGET", "n", "built") == b"0"
    assert node.look("dump", b"h:12345678") == [[]]
    with pytest.raises(Fenced, match="but the node has none:"):
        node.call("put_token", "1:", 5, "claim", b"h:12345678")


def test_a_registered_node_is_a_member_until_the_session_ends(settings: Settings, zookeeper: ZooKeeper) -> None:
    session = ZooKeeper(settings.zookeeper_hosts)
    registration = Registration(session, "a1", settings.redis_nodes["a1"])
    registration.look()
    assert read_members(zookeeper)["a1"].url == settings.redis_nodes["a1"]

    registration.close()
    session.close()

    assert read_members(zookeeper) == {}


def test_no_map_is_written_before_every_cluster_has_a_node(
    settings: Settings, engine: sa.Engine, zookeeper: ZooKeeper
) -> None:
    registration = Registration(zookeeper, "a1", settings.redis_nodes["a1"])
    registration.look()

    with coordinating(zookeeper, engine) as coordinator:
        assert not coordinator.step()

    assert zookeeper.read(PLACEMENT_PATH) is None
    registration.close()


def test_a_watched_value_follows_changes_and_refuses_what_it_cannot_read(stores: Stores) -> None:
    watched = Watched(stores.zookeeper, PLACEMENT_PATH, decode_shard_map)
    before = watched.value()
    found = stores.zookeeper.read(PLACEMENT_PATH)
    assert found is not None

    assert stores.zookeeper.compare_and_set(PLACEMENT_PATH, b"{}", found[1])

    assert watched.value() == before


def test_without_a_coordinator_a_process_says_what_it_lacks(settings: Settings) -> None:
    opened = open_stores(settings)
    try:
        watched = Watched(opened.zookeeper, PLACEMENT_PATH, decode_shard_map)
        with pytest.raises(ZooKeeperUnavailable, match="is a coordinator running"):
            watched.value(timeout_s=0.05)
    finally:
        opened.close()


def test_live_settings_are_changed_one_at_a_time_and_checked(stores: Stores) -> None:
    assert set_live_settings(stores.zookeeper, threshold=5) == LiveSettings(threshold=5)
    assert set_live_settings(stores.zookeeper, timeline_entries=100) == LiveSettings(threshold=5, timeline_entries=100)
