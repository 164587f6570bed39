"""The coordinator on real ZooKeeper and Redis nodes: which copies are in use, and who holds up whom."""

import secrets
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pytest
import sqlalchemy as sa
from structlog.testing import capture_logs

from infra import redis_keys
from infra.composition import Stores
from infra.copies import Copies, CopyState
from infra.epoch_guard import EpochGuard
from infra.epochs import RESTORE_COMMAND
from infra.errors import Fenced, ZooKeeperUnavailable
from infra.health import Health
from infra.lease import Lease
from infra.leases import COORDINATOR, read_lease
from infra.members import read_members
from infra.redis_node import RedisNode
from infra.role_commands import lead_again
from infra.settings import Settings
from infra.shard_maps import SETTLE_S, ShardMaps
from infra.znodes import Change
from infra.zookeeper import COPIES_PATH, NODES_PATH, PLACEMENT_PATH, ZooKeeper
from tests.contracts.deployment import LEAVE_AFTER_S, Deployment
from tests.services import Services
from tests.waiting import wait_until


def test_at_first_every_copy_is_serving_and_every_node_is_open(deployment: Deployment) -> None:
    shard_map = deployment.shard_map

    assert shard_map.epoch == 1
    assert set(deployment.summary()) == set(deployment.settings.redis_nodes)
    assert deployment.summary() == {name: {CopyState.SERVING} for name in shard_map.nodes}
    for name, url in shard_map.addresses.items():
        node = RedisNode(name, url)
        assert node.call("put_bodies", shard_map.fence(name), 10, redis_keys.body(1), "text") == 1
        node.close()


def test_a_restarted_node_is_filling_and_is_opened_when_every_writer_must_have_looked(deployment: Deployment) -> None:
    before = deployment.shard_map
    deployment.emptied("b1", "second life")

    shard_map = deployment.steps()

    assert (shard_map.epoch, deployment.states_of("b1")) == (before.epoch, {CopyState.FILLING})
    node = RedisNode("b1", shard_map.addresses["b1"])
    with pytest.raises(Fenced, match="the node has"):
        node.call("put_own", before.fence("b1"), b"", "", 800)
    assert node.call("put_own", shard_map.fence("b1"), b"", "", 800) == 0
    with pytest.raises(Fenced, match="not open"):
        node.call("put_token", shard_map.fence("b1"), 5, "claim", redis_keys.home_timeline(1))
    deployment.clock.now_s += SETTLE_S
    deployment.steps()
    assert node.call("put_token", shard_map.fence("b1"), 5, "claim", redis_keys.home_timeline(1)) == b"T"
    node.close()


def test_the_copies_of_an_unfit_node_are_down_until_it_was_emptied(deployment: Deployment) -> None:
    deployment.member("a1", fit=False, reason="it does not answer")
    deployment.steps()
    assert deployment.states_of("a1") == {CopyState.DOWN}

    deployment.member("a1", fit=True)
    deployment.steps()
    incarnation = read_members(deployment.zookeeper)["a1"].incarnation
    assert deployment.states_of("a1") == {CopyState.DOWN}
    assert deployment.shard_map.copies.needs_emptying("a1", incarnation)

    deployment.emptied("a1", "second life")
    deployment.rest()
    assert deployment.states_of("a1") == {CopyState.FILLING}


def test_a_node_whose_registrar_died_stays_as_it_is(deployment: Deployment) -> None:
    deployment.zookeeper.delete(f"{NODES_PATH}/c2")
    deployment.clock.now_s += 2 * LEAVE_AFTER_S

    shard_map = deployment.steps()

    assert (shard_map.epoch, deployment.states_of("c2")) == (1, {CopyState.SERVING})


def test_a_node_that_vanished_with_its_registrar_is_down(deployment: Deployment) -> None:
    node = RedisNode("c2", deployment.settings.redis_nodes["c2"])
    node.command("FLUSHALL", "SYNC")
    node.close()
    deployment.zookeeper.delete(f"{NODES_PATH}/c2")

    deployment.steps()

    assert deployment.states_of("c2") == {CopyState.DOWN}


def test_two_copies_of_every_slot_stay_in_use(deployment: Deployment) -> None:
    """All six nodes are unfit: of each slot one copy is given up, and nobody waits less for the others."""
    for name in deployment.settings.redis_nodes:
        deployment.member(name, fit=False, reason="it does not answer")

    deployment.steps(12)

    assert set(deployment.shard_map.copies.in_use) == {2}
    assert not deployment.shard_map.lacks_copies


def test_a_znode_that_is_no_member_holds_up_nobody(deployment: Deployment) -> None:
    """It counts as a registrar that is gone: its node is looked at from here."""
    deployment.member("c2", weight=0)
    deployment.zookeeper.create(f"{NODES_PATH}/a9", b"nonsense", ephemeral=True)
    deployment.member("a1", fit=False, reason="it does not answer")

    with capture_logs() as logs:
        deployment.steps(8)

    assert deployment.states_of("a1") == {CopyState.DOWN}
    assert deployment.states_of("c2") == {CopyState.SERVING}
    assert [line["error"][:30] for line in logs if line["event"] == "member refused"] == [
        "the znode /nodes/a9 is no memb",
        "the znode /nodes/c2 is no memb",
    ]


def test_time_without_zookeeper_does_not_count_as_absence(deployment: Deployment) -> None:
    """Whoever was well again meanwhile could not say so."""
    deployment.member("a2", fit=False, reason="it does not answer")
    deployment.steps()
    stop = Turns(deployment)

    deployment.coordinator.run(stop, Health())

    assert stop.turns == 4
    assert deployment.shard_map.epoch == 1
    assert CopyState.DOWN not in deployment.states_of("a1")


@dataclass
class Turns(threading.Event):
    """Stops a coordinator after some turns; ZooKeeper is away during the second one, for as long as nodes may be."""

    deployment: Deployment
    turns: int = 0

    def __post_init__(self) -> None:
        super().__init__()

    def is_set(self) -> bool:
        return self.turns == 4

    def wait(self, timeout: float | None = None) -> bool:
        self.turns += 1
        away = self.deployment.zookeeper.suspended
        if self.turns == 1:
            away.set()
            self.deployment.clock.now_s += 2 * LEAVE_AFTER_S
        else:
            away.clear()
        return False


def test_a_mark_that_somebody_made_meanwhile_is_not_overwritten(deployment: Deployment, settings: Settings) -> None:
    """The coordinator admits b1 by what it read before a writer marked a1."""
    write = deployment.zookeeper.write_together

    def write_late(changes: Sequence[Change], holding: Lease | None = None) -> bool:
        found = deployment.zookeeper.read(COPIES_PATH)
        assert found is not None
        marked = Copies.decode(found[0]).without_node("a1", deployment.shard_map.slots_on("a1"))
        assert deployment.zookeeper.compare_and_set(COPIES_PATH, marked.encode(), found[1])
        deployment.zookeeper.write_together = write  # type: ignore[method-assign]
        return write(changes, holding=holding)

    deployment.zookeeper.write_together = write_late  # type: ignore[method-assign]
    deployment.emptied("b1", "second life")

    deployment.steps(8)

    assert (deployment.states_of("a1"), deployment.states_of("b1")) == ({CopyState.DOWN}, {CopyState.FILLING})


def test_processes_of_the_deployment_see_both_parts_of_a_raised_epoch(stores: Stores) -> None:
    """Placement and copies of different epochs are never combined."""
    seen = stores.clusters.shard_map

    assert seen.copies.epoch == seen.epoch == 1
    assert seen.copies.incarnations.keys() == set(seen.nodes)


@pytest.fixture
def own(services: Services) -> Iterator[ZooKeeper]:
    """A folder of this test's own."""
    session = ZooKeeper(f"{services.zookeeper}/test_{secrets.token_hex(6)}")
    yield session
    session.close()


@contextmanager
def leading(zookeeper: ZooKeeper, engine: sa.Engine) -> Iterator[Health]:
    """The role, without what is done beside it."""
    health, stop = Health(), threading.Event()
    thread = threading.Thread(target=lead_again, args=(zookeeper, EpochGuard(engine), stop, health))
    thread.start()
    try:
        yield health
    finally:
        stop.set()
        thread.join(30)
        assert not thread.is_alive()


def test_whoever_cannot_open_the_session_of_the_lease_stands_by_and_leads_later(
    own: ZooKeeper, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    another, tries = own.another, list[None]()

    def away_at_first() -> ZooKeeper:
        tries.append(None)
        if len(tries) < 3:
            raise ZooKeeperUnavailable("away")
        return another()

    monkeypatch.setattr(own, "another", away_at_first)

    with leading(own, engine):
        wait_until(lambda: read_lease(own, COORDINATOR) is not None, "the lead")
    assert len(tries) == 3


def test_a_shard_map_that_nobody_can_read_is_said_with_the_way_out(own: ZooKeeper, engine: sa.Engine) -> None:
    for path in (PLACEMENT_PATH, COPIES_PATH):
        own.create(path, b"nonsense")
    maps = ShardMaps(own)

    with leading(own, engine) as health:
        wait_until(lambda: "the znode /placement cannot be read" in str(health.ready().reasons), "its reason")
        assert f"`{RESTORE_COMMAND}`" in str(health.ready().reasons)
    maps.check()
    with pytest.raises(ZooKeeperUnavailable, match=f"the shard map in ZooKeeper cannot be read .*`{RESTORE_COMMAND}`"):
        maps.value(timeout_s=0.1)
    maps.close()
