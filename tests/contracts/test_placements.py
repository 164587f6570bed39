"""The coordinator on real ZooKeeper and Redis nodes: nodes that come, leave and are replaced, and epochs."""

from collections.abc import Callable

import pytest
import sqlalchemy as sa

from infra import epoch_guard, redis_keys
from infra.copies import CopyState
from infra.epoch_guard import EpochGuard
from infra.epochs import Epochs, plan
from infra.epochs import read as read_epochs
from infra.errors import ConfigurationError, DatabaseUnavailable, Fenced
from infra.members import Member, encode_member
from infra.redis_node import RedisNode
from infra.registrar import Registration
from infra.shard_map import CLUSTERS
from infra.shard_maps import SETTLE_S
from infra.slots import SLOTS, slot_of
from infra.zookeeper import COPIES_PATH, NODES_PATH, PLACEMENT_PATH
from tests.contracts.deployment import LEAVE_AFTER_S, Deployment


@pytest.mark.parametrize("new_leaders", [False, True])
def test_a_node_that_is_away_for_long_leaves_and_what_the_others_held_of_its_slots_is_removed(
    deployment: Deployment, new_leaders: bool
) -> None:
    before = deployment.shard_map
    user = next(user for user in range(1, SLOTS) if before.node_of("a", slot_of(user)) == "a2")
    node = RedisNode("a1", before.addresses["a1"])
    node.command("RPUSH", redis_keys.home_timeline(user), "0", "1" * 19)
    deployment.member("a2", fit=False, reason="it does not answer")
    assert deployment.steps().epoch == 1
    deployment.clock.now_s += LEAVE_AFTER_S

    shard_map = deployment.rest(new_leaders=new_leaders)

    assert shard_map.nodes_of("a") == ("a1",)
    assert shard_map.epoch == 2
    assert shard_map.copies.of("a", slot_of(user)) is CopyState.FILLING
    assert deployment.states_of("a1") == {CopyState.SERVING, CopyState.FILLING}
    assert node.command("EXISTS", redis_keys.home_timeline(user)) == 0
    assert node.command("HGET", redis_keys.NODE, "epoch") == b"2"
    node.close()


def test_the_last_node_of_a_cluster_does_not_leave(make_deployment: Callable[..., Deployment]) -> None:
    deployment = make_deployment(without="a2")
    deployment.member("a1", fit=False, reason="it does not answer")
    deployment.steps()
    deployment.clock.now_s += 2 * LEAVE_AFTER_S

    shard_map = deployment.steps(8)

    assert (shard_map.nodes_of("a"), shard_map.epoch) == (("a1",), 1)


def test_a_cluster_of_which_all_nodes_are_away_keeps_its_placement(deployment: Deployment) -> None:
    """They failed together, but one is known to be away a moment earlier."""
    for name in ("b2", "b1"):
        deployment.member(name, fit=False, reason="it does not answer")
        deployment.steps()
        deployment.clock.now_s += 1.0
    deployment.clock.now_s += LEAVE_AFTER_S - 1.5

    assert deployment.steps(8).epoch == 1
    assert deployment.shard_map.nodes_of("b") == ("b1", "b2")


def test_a_node_that_comes_takes_its_share_and_only_its_cluster_moves(
    make_deployment: Callable[..., Deployment],
) -> None:
    deployment = make_deployment(without="a2")
    before = deployment.shard_map
    Registration(deployment.zookeeper, "a2", deployment.settings.redis_nodes["a2"]).look()

    first = deployment.steps(2)
    moving = {slot for slot in range(SLOTS) if first.copies.of("a", slot) is CopyState.DOWN}
    assert (first.epoch, first.nodes_of("a")) == (1, ("a1",))
    assert deployment.steps(8).epoch == 1, "readers still may read what moves"
    shard_map = deployment.rest()

    assert (shard_map.epoch, shard_map.nodes_of("a")) == (2, ("a1", "a2"))
    assert set(shard_map.slots_on("a2")) == moving
    assert (deployment.states_of("a1"), deployment.states_of("a2")) == ({CopyState.SERVING}, {CopyState.FILLING})
    for cluster in CLUSTERS[1:]:
        assert shard_map.placement[cluster] == before.placement[cluster]
        assert set(shard_map.copies.states[cluster]) == {CopyState.SERVING}


def test_a_move_that_is_called_off_leaves_nothing_down(make_deployment: Callable[..., Deployment]) -> None:
    deployment = make_deployment(without="a2")
    registration = Registration(deployment.zookeeper, "a2", deployment.settings.redis_nodes["a2"])
    registration.look()
    deployment.steps(2)
    assert CopyState.DOWN in deployment.states_of("a1")
    deployment.zookeeper.delete(f"{NODES_PATH}/a2")

    shard_map = deployment.rest()

    assert (shard_map.epoch, shard_map.nodes_of("a")) == (1, ("a1",))
    assert deployment.states_of("a1") == {CopyState.SERVING, CopyState.FILLING}


def test_a_new_address_changes_no_slot_and_raises_no_epoch(deployment: Deployment) -> None:
    before = deployment.shard_map
    url = before.addresses["b2"].replace("127.0.0.1", "localhost")
    deployment.member("b2", url=url)

    shard_map = deployment.rest()

    assert shard_map.addresses["b2"] == url
    assert (shard_map.epoch, shard_map.placement) == (1, before.placement)


def test_another_server_takes_a_name_once_nobody_reads_or_writes_the_old_one(
    make_deployment: Callable[..., Deployment],
) -> None:
    """The old server is alive, so whoever knows only its address is not told by it that it is out of use."""
    deployment = make_deployment(without="a2")
    before, url = deployment.shard_map, deployment.settings.redis_nodes["a2"]
    deployment.zookeeper.delete(f"{NODES_PATH}/a1")
    Registration(deployment.zookeeper, "a1", url).look()

    waiting = deployment.steps(8)
    assert (waiting.addresses, waiting.epoch) == (before.addresses, 1), "readers may still read it"
    assert deployment.states_of("a1") == {CopyState.DOWN}
    deployment.clock.now_s += SETTLE_S
    shard_map = deployment.steps(8)

    assert (shard_map.addresses["a1"], shard_map.epoch) == (url, 2)
    assert deployment.states_of("a1") == {CopyState.FILLING}
    node = RedisNode("b1", shard_map.addresses["b1"])
    with pytest.raises(Fenced, match="the node has 2"):
        node.call("put_own", before.fence("b1"), b"", "", 800)
    node.close()
    assert deployment.rest().epoch == 2


def test_nothing_is_built_where_slots_moved_to_before_every_node_has_the_epoch(
    make_deployment: Callable[..., Deployment],
) -> None:
    deployment = make_deployment(without="a2")
    Registration(deployment.zookeeper, "a2", deployment.settings.redis_nodes["a2"]).look()
    deployment.steps(2)
    deployment.member("b1", url="redis://127.0.0.1:1")
    deployment.clock.now_s += SETTLE_S
    for _ in range(6):
        deployment.steps(2)
        deployment.clock.now_s += SETTLE_S

    assert deployment.shard_map.epoch == 2
    node = RedisNode("a2", deployment.shard_map.addresses["a2"])
    assert node.command("HGET", redis_keys.NODE, "open") is None
    deployment.member("b1", url=deployment.settings.redis_nodes["b1"])
    deployment.rest()
    assert node.command("HGET", redis_keys.NODE, "open") == b"1"
    node.close()


def test_a_node_that_the_coordinator_cannot_reach_gets_no_slots_and_holds_up_nobody(deployment: Deployment) -> None:
    """Its registrar runs on its machine and calls it by an address that means something else here."""
    deployment.zookeeper.create(f"{NODES_PATH}/a3", encode_member(Member("redis://127.0.0.1:1", "one")), ephemeral=True)
    deployment.emptied("b1", "second life")
    deployment.member("a1", incarnation="third life", url="redis://localhost:1")

    deployment.steps(12)
    deployment.clock.now_s += SETTLE_S
    shard_map = deployment.steps(12)

    assert shard_map.nodes_of("a") == ("a1", "a2")
    assert deployment.states_of("a2") == {CopyState.SERVING}
    assert deployment.states_of("b1") == {CopyState.FILLING}


def test_a_zookeeper_that_lost_its_data_is_refused_with_the_command_that_mends_it(deployment: Deployment) -> None:
    for path in (PLACEMENT_PATH, COPIES_PATH):
        deployment.zookeeper.delete(path)

    with pytest.raises(ConfigurationError, match="fanfold shards restore"):
        deployment.coordinator.step()

    assert deployment.zookeeper.read(PLACEMENT_PATH) is None


def test_an_epoch_that_was_planned_before_a_crash_is_not_used_again(
    make_deployment: Callable[..., Deployment], engine: sa.Engine
) -> None:
    deployment = make_deployment(without="a2")
    plan(engine, 7)
    Registration(deployment.zookeeper, "a2", deployment.settings.redis_nodes["a2"]).look()

    deployment.steps(2)
    assert deployment.rest().epoch == 8
    assert read_epochs(engine) == Epochs(8, 8)


def test_while_postgresql_is_away_a_move_waits_and_nodes_are_opened_all_the_same(
    make_deployment: Callable[..., Deployment], monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment = make_deployment(without="a2")
    Registration(deployment.zookeeper, "a2", deployment.settings.redis_nodes["a2"]).look()
    deployment.steps(2)

    def away(*_: object) -> int:
        raise DatabaseUnavailable("it does not answer")

    with monkeypatch.context() as patched:
        patched.setattr(EpochGuard, "plan_next", away)
        deployment.emptied("b1", "second life")
        for _ in range(8):
            deployment.clock.now_s += SETTLE_S
            deployment.coordinator.step()
        shard_map = deployment.shard_map
        node = RedisNode("b1", shard_map.addresses["b1"])
        assert node.command("HGET", redis_keys.NODE, "open") == b"1"
        node.close()
        assert (shard_map.epoch, shard_map.nodes_of("a")) == (1, ("a1",))

    assert deployment.rest().nodes_of("a") == ("a1", "a2")


def test_an_epoch_that_could_not_be_noted_is_installed_and_noted_later(
    make_deployment: Callable[..., Deployment], engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL goes away between the write of the znode and the note of it."""
    deployment = make_deployment(without="a2")
    Registration(deployment.zookeeper, "a2", deployment.settings.redis_nodes["a2"]).look()
    deployment.steps(2)

    def away(*_: object) -> None:
        raise DatabaseUnavailable("it does not answer")

    with monkeypatch.context() as patched:
        patched.setattr(epoch_guard, "note_written", away)
        patched.setattr(epoch_guard, "read", lambda _: Epochs(1, 1))
        assert deployment.rest().epoch == 2
        assert read_epochs(engine) == Epochs(2, 1)

    deployment.steps(1)
    assert read_epochs(engine) == Epochs(2, 2)
