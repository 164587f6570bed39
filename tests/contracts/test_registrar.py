"""Registrar and coordinator on real servers: a node is written only when it is fit, known and of the map's epoch."""

import json
import threading
from collections.abc import Iterator

import pytest

from infra.composition import Stores, open_stores
from infra.coordinator import Coordinator, read_members
from infra.errors import ConfigurationError, Fenced, ZooKeeperUnavailable
from infra.live_settings import LiveSettings, set_live_settings
from infra.redis_node import RedisNode
from infra.registrar import Registration, check_node, incarnation_of, prepare_node
from infra.settings import Settings
from infra.shard_map import decode_shard_map
from infra.zookeeper import NODES_PATH, PLACEMENT_PATH, Watched, ZooKeeper


@pytest.fixture
def node(stores: Stores) -> RedisNode:
    return stores.clusters.node("a1")


@pytest.fixture
def zookeeper(settings: Settings) -> Iterator[ZooKeeper]:
    session = ZooKeeper(settings.zookeeper_hosts)
    yield session
    session.close()


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
        with pytest.raises(ConfigurationError, match=f"a1 .* has {setting} '{bad}'; set it to '{good}'"):
            check_node(node)
    finally:
        node.command("CONFIG", "SET", setting, good)
    assert check_node(node)


def test_a_restarted_node_is_emptied_and_gets_functions_before_its_incarnation(node: RedisNode) -> None:
    node.command("SET", "left", "over")
    node.command("FUNCTION", "FLUSH", "SYNC")

    assert prepare_node(node, "another run")

    assert node.command("EXISTS", "left") == 0
    assert node.look("dump", b"h:12345678") == [[]]
    with pytest.raises(Fenced, match="epoch 1 but the node has none"):
        node.call("put_token", 1, 5, "claim", b"h:12345678")


def test_a_registrar_that_restarts_leaves_the_node_as_it_is(node: RedisNode) -> None:
    run_id = node.command("HGET", "n", "run_id")
    node.command("SET", "kept", "yes")

    assert not prepare_node(node, run_id.decode())

    assert node.command("GET", "kept") == b"yes"


def test_a_registered_node_is_a_member_until_the_session_ends(settings: Settings, zookeeper: ZooKeeper) -> None:
    session = ZooKeeper(settings.zookeeper_hosts)
    registration = Registration(session, "a1", settings.redis_nodes["a1"])
    registration.look()
    assert read_members(zookeeper) == {"a1": settings.redis_nodes["a1"]}

    registration.close()
    session.close()

    assert read_members(zookeeper) == {}


def test_a_restarted_node_gets_the_epoch_from_the_coordinator(stores: Stores, node: RedisNode) -> None:
    coordinator = Coordinator(stores.zookeeper)
    assert coordinator.step()
    prepare_node(node, "another run")
    path = f"{NODES_PATH}/a1"
    found = stores.zookeeper.read(path)
    assert found is not None
    member = json.loads(found[0]) | {"incarnation": incarnation_of(node)[1]}
    assert stores.zookeeper.compare_and_set(path, json.dumps(member).encode(), found[1])

    assert coordinator.step()

    assert node.call("put_token", 1, 5, "claim", b"h:12345678") == b"T"


def test_a_node_that_was_emptied_without_a_restart_is_prepared_and_installed_again(
    settings: Settings, stores: Stores, node: RedisNode
) -> None:
    registration = Registration(stores.zookeeper, "a1", settings.redis_nodes["a1"])
    registration.look()
    coordinator = Coordinator(stores.zookeeper)
    assert coordinator.step()
    node.command("FLUSHALL", "SYNC")

    registration.look()
    assert coordinator.step()

    assert node.call("put_token", 1, 5, "claim", b"h:12345678") == b"T"
    registration.close()


def test_no_map_is_written_before_every_cluster_has_a_node(settings: Settings, zookeeper: ZooKeeper) -> None:
    registration = Registration(zookeeper, "a1", settings.redis_nodes["a1"])
    registration.look()

    assert not Coordinator(zookeeper).step()

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


def test_a_second_coordinator_hears_that_another_leads_and_then_leads(settings: Settings, zookeeper: ZooKeeper) -> None:
    stop, heard = threading.Event(), list[bool]()
    second = ZooKeeper(settings.zookeeper_hosts)
    assert zookeeper.lead("first", stop, heard.append)
    assert heard == [], "nobody else was there"

    def waiting(another_leads: bool) -> None:
        heard.append(another_leads)
        if len(heard) == 2:
            zookeeper.close()

    assert second.lead("second", stop, waiting)
    assert heard[:2] == [True, True]
    second.close()
