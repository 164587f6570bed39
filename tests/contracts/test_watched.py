"""Watched values on a ZooKeeper of their own, which is stopped, started, emptied and made to forget sessions."""

import shutil
import signal
import threading
import time
from collections.abc import Iterator

import pytest
from kazoo.client import KazooClient, KazooState
from structlog.testing import capture_logs

from infra.errors import ZooKeeperUnavailable
from infra.live_settings import LiveSettings, encode_live_settings, ensure_live_settings, set_live_settings
from infra.live_settings import watch_live_settings as watch
from infra.metrics import LIVE_SETTINGS_VERSION
from infra.stack.supervisor import Stack
from infra.zookeeper import LIVE_SETTINGS_PATH, Watched, ZooKeeper
from tests.services import fresh_folder
from tests.waiting import wait_until

PROMISED_S = 5.0  # within which a change is in force everywhere


@pytest.fixture(scope="module")
def server() -> Iterator[Stack]:
    """A ZooKeeper that only this module uses."""
    stack = Stack(fresh_folder("watched"), roles=(), prepare=False, servers=("zookeeper",))
    stack.start()
    yield stack
    stack.stop()
    shutil.rmtree(stack.data_dir)


@pytest.fixture
def session(server: Stack) -> Iterator[ZooKeeper]:
    """The process whose values are watched."""
    opened = ZooKeeper(server.settings().zookeeper_hosts)
    opened.delete(LIVE_SETTINGS_PATH)
    yield opened
    opened.close()


@pytest.fixture
def other(server: Stack) -> Iterator[ZooKeeper]:
    """The process that changes them."""
    opened = ZooKeeper(server.settings().zookeeper_hosts)
    yield opened
    opened.close()


def change(zookeeper: ZooKeeper, watched: Watched[LiveSettings], threshold: int) -> None:
    """Changes the threshold, and fails unless it is in force in time."""
    set_live_settings(zookeeper, threshold=threshold)
    began_s = time.monotonic()
    wait_until(lambda: watched.value().threshold == threshold, "the change", PROMISED_S)
    assert time.monotonic() - began_s < PROMISED_S


def write(zookeeper: ZooKeeper, data: bytes) -> None:
    """Whatever somebody writes by hand."""
    found = zookeeper.read(LIVE_SETTINGS_PATH)
    assert found is not None
    assert zookeeper.compare_and_set(LIVE_SETTINGS_PATH, data, found[1])


def losing(session: ZooKeeper) -> threading.Event:
    """Is set when the session is gone."""
    lost = threading.Event()
    session._client.add_listener(lambda state: lost.set() if state == KazooState.LOST else None)
    return lost


def expire(server: Stack, session: ZooKeeper) -> None:
    """The server forgets the session, as after a long silence; the client has another one when this returns."""
    lost = losing(session)
    thief = KazooClient(hosts=server.settings().zookeeper_hosts.partition("/")[0], client_id=session._client.client_id)
    thief.start()
    thief.stop()
    thief.close()
    assert lost.wait(20)
    wait_until(lambda: not session.suspended.is_set(), "a new session")


def test_a_change_is_in_force_and_its_version_in_the_metric(session: ZooKeeper, other: ZooKeeper) -> None:
    ensure_live_settings(other)
    watched = watch(session)

    change(other, watched, 7)

    version = watched.value().version
    assert version > 0
    wait_until(lambda: LIVE_SETTINGS_VERSION._value.get() == version)


@pytest.mark.parametrize("nonsense", [b"", b"[]", b"{", b"\xff", b"[" * 50_000, b'{"threshold": "many"}'])
def test_a_value_that_cannot_be_decoded_leaves_the_last_one_and_the_watch(
    session: ZooKeeper, other: ZooKeeper, nonsense: bytes
) -> None:
    set_live_settings(other, threshold=7)
    watched = watch(session)
    assert watched.value().threshold == 7

    with capture_logs() as logged:
        write(other, nonsense)
        wait_until(lambda: any(entry["event"] == "watched value refused" for entry in logged))
    assert watched.value().threshold == 7

    write(other, encode_live_settings(LiveSettings(threshold=8)))
    change(other, watched, 9)


def test_a_decoder_that_raises_anything_leaves_the_watch(session: ZooKeeper, other: ZooKeeper) -> None:
    def decode(data: bytes) -> bytes:
        if data == b"1":
            raise MemoryError
        return data

    other.create(LIVE_SETTINGS_PATH, b"1")
    watched = Watched(session, LIVE_SETTINGS_PATH, decode)
    with pytest.raises(ZooKeeperUnavailable, match="what ZooKeeper holds at /settings cannot be read: MemoryError"):
        watched.value(timeout_s=1.0)

    write(other, b"2")

    wait_until(lambda: watched.value() == b"2")


def test_a_znode_that_comes_later_is_waited_for(session: ZooKeeper, other: ZooKeeper) -> None:
    watched = watch(session)
    with pytest.raises(ZooKeeperUnavailable, match="holds nothing at /settings: is a coordinator running"):
        watched.value(timeout_s=0.1)

    later = threading.Timer(0.2, ensure_live_settings, [other])
    later.start()

    assert watched.value() == LiveSettings()
    later.join()


def test_a_znode_that_is_deleted_leaves_the_last_value_and_is_followed_when_it_comes_again(
    session: ZooKeeper, other: ZooKeeper
) -> None:
    set_live_settings(other, threshold=7)
    watched = watch(session)
    assert watched.value().threshold == 7

    with capture_logs() as logged:
        other.delete(LIVE_SETTINGS_PATH)
        wait_until(lambda: any(entry["event"] == "watched value is not there" for entry in logged))
    assert watched.value().threshold == 7

    change(other, watched, 8)
    change(other, watched, 9)


def test_a_session_that_expired_is_followed_by_one_that_watches(
    server: Stack, session: ZooKeeper, other: ZooKeeper
) -> None:
    set_live_settings(other, threshold=7)
    watched = watch(session)
    assert watched.value().threshold == 7

    for threshold in (8, 9):
        expire(server, session)
        change(other, watched, threshold)
        change(other, watched, threshold + 100)


def test_what_was_changed_while_zookeeper_was_away_is_in_force_after_its_return(
    server: Stack, session: ZooKeeper, other: ZooKeeper
) -> None:
    """Short enough that the sessions live on; the long absence is next."""
    set_live_settings(other, threshold=7)
    watched = watch(session)
    assert watched.value().threshold == 7

    server.stop_part("zookeeper")
    assert session.suspended.wait(20)
    assert watched.value().threshold == 7
    server.start_part("zookeeper")

    wait_until(lambda: not session.suspended.is_set(), "the connection", 20.0)
    change(other, watched, 8)
    change(other, watched, 9)


def test_without_a_value_from_before_an_absence_is_said_in_one_sentence(server: Stack, session: ZooKeeper) -> None:
    server.stop_part("zookeeper")
    try:
        assert session.suspended.wait(20)
        watched = watch(session)
        with pytest.raises(ZooKeeperUnavailable, match="ZooKeeper does not answer, and /settings was not read before"):
            watched.value(timeout_s=0.1)
    finally:
        server.start_part("zookeeper")

    set_live_settings(session, threshold=7)
    assert watched.value().threshold == 7


def test_a_frozen_server_is_followed_again_once_it_thaws(server: Stack, session: ZooKeeper, other: ZooKeeper) -> None:
    set_live_settings(other, threshold=7)
    watched = watch(session)
    assert watched.value().threshold == 7

    server.kill("zookeeper", signal.SIGSTOP)
    try:
        assert session.suspended.wait(20)
        assert watched.value().threshold == 7
    finally:
        server.kill("zookeeper", signal.SIGCONT)

    wait_until(lambda: not session.suspended.is_set(), "the connection", 30.0)
    change(other, watched, 8)
    change(other, watched, 9)


def test_a_zookeeper_that_lost_all_data_is_followed_again(server: Stack, session: ZooKeeper) -> None:
    """The last test of this module."""
    set_live_settings(session, threshold=7)
    watched = watch(session)
    assert watched.value().threshold == 7

    lost = losing(session)
    server.stop_part("zookeeper")
    shutil.rmtree(server.data_dir / "zookeeper" / "data")
    server.start_part("zookeeper")
    assert lost.wait(30)
    wait_until(lambda: not session.suspended.is_set(), "a new session")
    assert watched.value().threshold == 7
    fresh = ZooKeeper(server.settings().zookeeper_hosts)  # makes the folder again

    change(fresh, watched, 8)
    change(fresh, watched, 9)
    fresh.close()
