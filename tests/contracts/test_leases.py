"""Leases and transactions on a real ZooKeeper: one holder at a time, and whoever is no longer it changes nothing."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

import infra.zookeeper
from infra import leases
from infra.errors import InvalidInput, LeaseHeld, LeaseLost
from infra.lease import LeaseState
from infra.leases import VALID_S, lead, lease, read_leases
from infra.settings import Settings
from infra.znodes import Change, Create, Remove, Replace, Require
from infra.zookeeper import LEASES_PATH, SESSION_S, ZooKeeper
from tests.contracts.own_zookeeper import own_zookeeper
from tests.contracts.sessions import expire
from tests.waiting import wait_until

TAKEN_OVER_WITHIN_S = 10.0
READY_WITHIN_S = 30.0


# Transactions


@pytest.mark.parametrize(
    "refused",
    [
        Create("/there", b"new"),
        Replace("/there", b"new", version=1),
        Replace("/absent", b"new", version=0),
        Remove("/there", version=1),
        Remove("/absent"),
        Remove("/folder"),
        Require("/there", version=1),
        Require("/absent"),
    ],
)
def test_one_change_that_does_not_fit_leaves_all_undone(zookeeper: ZooKeeper, refused: Change) -> None:
    for path in ("/there", "/other", "/folder/below"):
        zookeeper.create(path, b"old")

    for changes in ([Replace("/other", b"new", 0), refused], [refused, Replace("/other", b"new", 0)]):
        assert not zookeeper.write_together(changes)

    assert [zookeeper.read(path) for path in ("/there", "/other")] == [(b"old", 0)] * 2
    assert zookeeper.children("/folder") == ["below"]


def test_changes_that_fit_are_made_together(zookeeper: ZooKeeper) -> None:
    for path in ("/kept", "/replaced", "/removed"):
        zookeeper.create(path, b"old")

    assert zookeeper.write_together(
        [
            Require("/kept", 0),
            Replace("/replaced", b"new", 0),
            Remove("/removed", 0),
            Create("/made/below", b"new"),
            Create("/mine", b"new", ephemeral=True),
        ]
    )

    assert [zookeeper.read(path) for path in ("/kept", "/replaced", "/removed", "/made/below")] == [
        (b"old", 0),
        (b"new", 1),
        None,
        (b"new", 0),
    ]
    assert zookeeper.owns("/mine")


# One holder


def test_a_lease_is_held_by_one_and_a_second_hears_by_whom(zookeeper: ZooKeeper) -> None:
    with lease(zookeeper, "replay-42") as held:
        with pytest.raises(LeaseHeld, match=rf"lease replay-42 is held by process {os.getpid()} on .*: wait until"):
            lease(zookeeper, "replay-42").__enter__()
        with lease(zookeeper, "replay-43") as other:
            assert other.number > held.number
        held.check()
        [standing] = read_leases(zookeeper)

    assert (standing.name, standing.number, standing.holder.pid) == ("replay-42", held.number, os.getpid())


def test_a_lease_is_free_and_leaves_nothing_once_it_is_given_back(zookeeper: ZooKeeper) -> None:
    with lease(zookeeper, "replay-42") as first:
        pass
    assert zookeeper.children(LEASES_PATH) == []
    with pytest.raises(LeaseLost, match="it was given back"):
        first.check()

    with lease(zookeeper, "replay-42") as second:
        assert second.number > first.number


def test_a_lease_is_free_when_its_job_fails(zookeeper: ZooKeeper) -> None:
    with pytest.raises(ValueError, match="broken"), lease(zookeeper, "replay-42"):
        raise ValueError("broken")

    assert read_leases(zookeeper) == []


def test_those_who_wait_get_it_one_after_the_other(zookeeper: ZooKeeper) -> None:
    numbers: list[int] = []

    def take() -> None:
        with lease(zookeeper, "replay-42", wait_s=20) as held:
            assert len(read_leases(zookeeper)) == 1
            held.check()
            numbers.append(held.number)

    threads = [threading.Thread(target=take) for _ in range(3)]
    with lease(zookeeper, "replay-42") as held:
        for thread in threads:
            thread.start()
        wait_until(lambda: len(read_leases(zookeeper)[0].waiting) == 3, "all three to wait")
        assert read_leases(zookeeper)[0].number == held.number
    for thread in threads:
        thread.join(20)

    assert len(set(numbers)) == 3
    assert min(numbers) > held.number


def test_a_lease_says_since_when_it_is_held_and_not_since_when_its_holder_waited(zookeeper: ZooKeeper) -> None:
    since_ms: list[int] = []

    def take() -> None:
        with lease(zookeeper, "replay-42", wait_s=20):
            since_ms.append(read_leases(zookeeper)[0].holder.since_ms)

    thread = threading.Thread(target=take)
    with lease(zookeeper, "replay-42"):
        thread.start()
        wait_until(lambda: len(read_leases(zookeeper)[0].waiting) == 1, "the other one to wait")
        waited_until_ms = time.time_ns() // 1_000_000
    thread.join(20)

    assert since_ms[0] >= waited_until_ms


@pytest.mark.parametrize("name", ["", "Replay", "a/b", "a b", "-a", "a_b", "a" * 65])
def test_a_name_that_is_none_is_refused(zookeeper: ZooKeeper, name: str) -> None:
    with pytest.raises(InvalidInput, match="is no name of a lease: up to 64 small letters, digits and dashes"):
        lease(zookeeper, name).__enter__()
    assert zookeeper.children(LEASES_PATH) == []


# Holding on


def test_a_lease_is_confirmed_for_as_long_as_it_is_held(zookeeper: ZooKeeper, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "VALID_S", 0.5)
    monkeypatch.setattr(leases, "CONFIRM_PERIOD_S", 0.05)
    with lease(zookeeper, "replay-42") as held:
        began_s = time.monotonic()
        wait_until(lambda: time.monotonic() - began_s > 1.5, "three times its time")
        held.check()


def test_whoever_lost_the_znode_is_told_and_changes_nothing_though_another_has_the_name(zookeeper: ZooKeeper) -> None:
    zookeeper.create("/value", b"old")
    with lease(zookeeper, "replay-42") as old:
        assert zookeeper.write_together([Replace("/value", b"mine", 0)], holding=old)
        zookeeper.delete(old.path)
        with lease(zookeeper, "replay-42") as new:
            old.check()  # it cannot know yet
            assert not zookeeper.write_together([Replace("/value", b"late", 1)], holding=old)
            assert zookeeper.write_together([Replace("/value", b"next", 1)], holding=new)
        with pytest.raises(LeaseLost, match="its znode is gone from ZooKeeper"):
            old.check()

    assert zookeeper.read("/value") == (b"next", 2)


def test_a_write_that_does_not_fit_costs_nobody_the_lease(zookeeper: ZooKeeper) -> None:
    zookeeper.create("/value", b"old")
    with lease(zookeeper, "replay-42") as held:
        assert not zookeeper.write_together([Replace("/value", b"new", 7)], holding=held)
        held.check()


def test_a_holder_hears_in_the_background_that_its_session_is_gone(
    settings: Settings, zookeeper: ZooKeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions: list[ZooKeeper] = []
    another = ZooKeeper.another

    def noted(one: ZooKeeper) -> ZooKeeper:
        sessions.append(another(one))
        return sessions[-1]

    monkeypatch.setattr(ZooKeeper, "another", noted)
    with capture_logs() as logged, lease(zookeeper, "replay-42") as held:
        expire(sessions[0], settings.zookeeper_hosts)
        wait_until(lambda: held.state is LeaseState.LOST, "the holder to hear of it", limit_s=3)

    assert [entry["event"] for entry in logged if entry["log_level"] == "error"] == ["lease lost"]


def test_while_zookeeper_is_away_a_lease_falls_silent_and_afterwards_it_is_held_as_before(tmp_path: Path) -> None:
    with own_zookeeper(tmp_path) as server:
        zookeeper = ZooKeeper(server.hosts)
        with lease(zookeeper, "replay-42") as held:
            server.stop()
            stopped_s = time.monotonic()
            wait_until(lambda: held.state is LeaseState.SILENT, "its time to be over", limit_s=VALID_S + 1)
            assert time.monotonic() - stopped_s < SESSION_S
            with pytest.raises(LeaseLost, match="ZooKeeper has not confirmed it"):
                held.check()

            server.start()
            wait_until(lambda: held.state is LeaseState.HELD, "it to be confirmed again")
            assert [one.number for one in read_leases(zookeeper)] == [held.number]
        zookeeper.close()


def test_after_zookeeper_lost_its_data_the_lease_is_lost_and_whoever_waited_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It refuses without a word whoever has seen more than it has."""
    monkeypatch.setattr(infra.zookeeper, "FORGET_AFTER_S", 0.5)
    stop, begun = threading.Event(), threading.Event()
    numbers: list[int] = []

    def wait(zookeeper: ZooKeeper) -> None:
        with lead(zookeeper, "coordinator", stop, lambda _: begun.set()) as held:
            assert held is not None
            numbers.append(held.number)

    with own_zookeeper(tmp_path) as server:
        zookeeper = ZooKeeper(server.hosts)
        with lease(zookeeper, "coordinator") as held:
            thread = threading.Thread(target=wait, args=[zookeeper])
            thread.start()
            assert begun.wait(10)
            server.stop()
            server.wipe()
            server.start()
            wait_until(lambda: held.state is LeaseState.LOST, "it to be known as lost")
            thread.join(20)
        assert len(numbers) == 1
        zookeeper.close()


# Leading


def test_a_second_one_hears_that_another_leads_and_then_leads(zookeeper: ZooKeeper) -> None:
    stop, heard = threading.Event(), list[bool]()
    first = lead(zookeeper, "coordinator", stop, heard.append)
    one = first.__enter__()
    assert heard == [], "nobody else was there"

    def waiting(another_leads: bool) -> None:
        heard.append(another_leads)
        if len(heard) == 2:
            first.__exit__(None, None, None)

    with lead(zookeeper, "coordinator", stop, waiting) as two:
        assert heard[:2] == [True, True]
        assert one is not None
        assert two is not None
        assert two.number > one.number


def test_whoever_is_stopped_while_it_waits_leads_nothing(zookeeper: ZooKeeper) -> None:
    stop = threading.Event()
    with lease(zookeeper, "coordinator"), lead(zookeeper, "coordinator", stop, lambda _: stop.set()) as held:
        assert held is None


# Processes that hold a lease and then write, each time a line is sent to them.
HOLDER = """
import json, sys
from infra.errors import FanfoldError, ZooKeeperUnavailable
from infra.leases import lease
from infra.znodes import Replace
from infra.zookeeper import ZooKeeper

zookeeper = ZooKeeper(sys.argv[1])

def write(value):
    while True:
        try:
            _, version = zookeeper.read("/value")
            return zookeeper.write_together([Replace("/value", value, version)], holding=held)
        except ZooKeeperUnavailable:
            continue  # a thawed process finds its connection gone, and has a new one soon

with lease(zookeeper, "replay-42") as held:
    print(json.dumps({"number": held.number}), flush=True)
    for line in sys.stdin:
        try:
            held.check()
            checked = "held"
        except FanfoldError as error:
            checked = type(error).__name__
        print(json.dumps({"checked": checked, "written": write(line.encode())}), flush=True)
"""


class HoldingProcess:
    """The test's side of one."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process

    def hear(self) -> dict[str, object]:
        """The next thing that it says; lines of its log may stand between."""
        assert self.process.stdout is not None
        return dict(json.loads(next(line for line in self.process.stdout if line.startswith("{"))))

    def write(self) -> dict[str, object]:
        """What came of one step of its job."""
        assert self.process.stdin is not None
        self.process.stdin.write("hello\n")
        self.process.stdin.flush()
        return self.hear()


@contextmanager
def holding_process(hosts: str) -> Iterator[HoldingProcess]:
    """One that holds the lease; killed at the end."""
    command = [sys.executable, "-c", HOLDER, hosts]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield HoldingProcess(process)
        finally:
            process.kill()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_whoever_waits_takes_over_from_a_killed_or_frozen_holder(
    settings: Settings, zookeeper: ZooKeeper, number: signal.Signals
) -> None:
    zookeeper.create("/value", b"old")
    with holding_process(settings.zookeeper_hosts) as old:
        said = old.hear()
        assert old.write() == {"checked": "held", "written": True}
        old.process.send_signal(number)
        began_s = time.monotonic()
        with lease(zookeeper, "replay-42", wait_s=20) as held:
            assert time.monotonic() - began_s < TAKEN_OVER_WITHIN_S
            assert held.number > int(str(said["number"]))
            if number is signal.SIGSTOP:
                old.process.send_signal(signal.SIGCONT)
                assert old.write() == {"checked": "LeaseLost", "written": False}
            assert zookeeper.read("/value") == (b"hello\n", 1)
