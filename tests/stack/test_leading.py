"""A standby leads within seconds of the leader's kill or freeze, and a leader that thaws after that changes nothing."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from infra.health import State
from infra.leases import COORDINATOR, Standing, lead, read_leases
from infra.redis_node import RedisNode
from infra.registrar import Registration
from infra.settings import Settings
from infra.zookeeper import PLACEMENT_PATH, SESSION_S, ZooKeeper
from tests.stack.holding_coordinator import REFUSED, WRITTEN, holding_coordinator
from tests.stack.holding_relay import HELD
from tests.stack.role_process import Process, role_process
from tests.waiting import wait_until

TAKEN_OVER_WITHIN_S = 10.0


@pytest.fixture
def zookeeper(settings: Settings) -> Iterator[ZooKeeper]:
    """A session with every node registered: a coordinator has a map to write."""
    session = ZooKeeper(settings.zookeeper_hosts)
    registrations = [Registration(session, name, url) for name, url in settings.redis_nodes.items()]
    for registration in registrations:
        node = RedisNode(registration.name, settings.redis_nodes[registration.name])
        node.command("FLUSHALL", "SYNC")  # one that was in use elsewhere has to be emptied before it serves
        node.close()
        registration.look()
    yield session
    for registration in registrations:
        registration.close()
    session.close()


def test_a_leader_that_was_frozen_for_twice_its_session_changes_nothing_and_stands_by(
    settings: Settings, zookeeper: ZooKeeper
) -> None:
    """Whoever takes over writes nothing, so the map's version does not stand against the old one: only its lease."""
    with holding_coordinator(settings) as old:
        old.wait_for(HELD)
        old.freeze()
        frozen_s = time.monotonic()
        with lead(zookeeper, COORDINATOR, threading.Event(), lambda _: None) as new:
            assert new is not None
            assert time.monotonic() - frozen_s < TAKEN_OVER_WITHIN_S
            wait_until(lambda: time.monotonic() - frozen_s > 2 * SESSION_S, "twice the session")

            old.thaw()

            assert WRITTEN not in old.wait_for(REFUSED)
            old.wait_for(State.STANDBY)
            assert zookeeper.read(PLACEMENT_PATH) is None
            new.check()
        old.wait_for(State.SERVING)
        assert zookeeper.read(PLACEMENT_PATH) is not None


def fanfold_coordinator(settings: Settings, folder: Path, name: str) -> AbstractContextManager[Process]:
    """`fanfold coordinator` on these servers."""
    where = {"zookeeper_hosts": settings.zookeeper_hosts, "database_url": settings.database_url}
    return role_process("coordinator", where, folder, name)


def standing(zookeeper: ZooKeeper) -> Standing:
    [found] = [one for one in read_leases(zookeeper) if one.name == COORDINATOR]
    return found


def leads(zookeeper: ZooKeeper, pid: int) -> bool:
    """False also when nobody does, as in the moment between two."""
    return any(one.name == COORDINATOR and one.holder.pid == pid for one in read_leases(zookeeper))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_standby_leads_within_seconds(
    settings: Settings, zookeeper: ZooKeeper, tmp_path: Path, number: signal.Signals
) -> None:
    with (
        fanfold_coordinator(settings, tmp_path, "leader") as leader,
        fanfold_coordinator(settings, tmp_path, "standby") as standby,
    ):
        assert standing(zookeeper).holder.pid == leader.pid
        leader.send_signal(number)
        began_s = time.monotonic()
        wait_until(lambda: leads(zookeeper, standby.pid), "the standby to lead")
        assert time.monotonic() - began_s < TAKEN_OVER_WITHIN_S

        if number is signal.SIGSTOP:
            leader.send_signal(signal.SIGCONT)
            wait_until(lambda: [one.pid for one in standing(zookeeper).waiting] == [leader.pid], "the old one to wait")
            assert standing(zookeeper).holder.pid == standby.pid
            assert "leads no longer" in (tmp_path / "leader.log").read_text()
            assert leader.poll() is None
