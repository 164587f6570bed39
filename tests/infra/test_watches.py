"""Watched znodes: whatever one look or one watcher runs into, the next look goes on."""

import threading
from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from infra.errors import ZooKeeperUnavailable
from infra.watches import Told, Watches
from tests.waiting import wait_until

NEVER_S = 3_600.0
SOON_S = 0.02


class Znodes:
    """What is read; a name may be made to raise."""

    def __init__(self) -> None:
        self.data: dict[str, bytes | None] = {}
        self.told: dict[str, set[Told]] = {}
        self.away = False
        self.reads = 0

    def read(self, path: str, told: Told) -> bytes | None:
        self.told.setdefault(path, set()).add(told)
        data = self.data.get(path)
        self.reads += 1
        if self.away:
            raise ZooKeeperUnavailable("away")
        return data


@pytest.fixture
def znodes() -> Znodes:
    return Znodes()


@pytest.fixture
def prompt(znodes: Znodes) -> Iterator[Watches]:
    """Looks only when it is told to, but for the first time."""
    watches = Watches(znodes.read, NEVER_S)
    yield watches
    watches.end()


@pytest.fixture
def patient(znodes: Znodes) -> Iterator[Watches]:
    """Is never told, and looks by itself."""
    watches = Watches(znodes.read, SOON_S)
    yield watches
    watches.end()


def test_a_watcher_is_told_what_is_there_and_every_change_once(znodes: Znodes, prompt: Watches) -> None:
    told: list[bytes | None] = []
    prompt.add("/one", told.append)
    wait_until(lambda: told == [None])

    for data in (b"1", b"1", b"2", None, b"2"):
        znodes.data["/one"] = data
        before = znodes.reads
        (tell,) = znodes.told["/one"]
        tell("event")
        wait_until(lambda before=before: znodes.reads > before)  # type: ignore[misc]

    wait_until(lambda: told == [None, b"1", b"2", None, b"2"])


def test_a_look_at_one_znode_leaves_the_others_and_one_at_all_does_not(znodes: Znodes, prompt: Watches) -> None:
    told: list[bytes | None] = []
    for path in ("/one", "/two"):
        prompt.add(path, lambda _: None)
    prompt.add("/three", told.append)
    wait_until(lambda: told == [None])
    before = znodes.reads

    for tell in znodes.told["/three"]:
        znodes.data["/three"] = b"1"
        tell()
    wait_until(lambda: told == [None, b"1"])
    assert znodes.reads == before + 1

    prompt.look()
    wait_until(lambda: znodes.reads == before + 4)


def test_a_znode_that_changes_all_the_time_does_not_keep_the_others_from_their_looks(
    znodes: Znodes, patient: Watches
) -> None:
    told: list[bytes | None] = []
    patient.add("/busy", lambda _: None)
    patient.add("/one", told.append)
    wait_until(lambda: told == [None])
    (tell,) = znodes.told["/busy"]
    znodes.data["/one"] = b"1"

    def keep_telling() -> bool:
        tell()
        return told == [None, b"1"]

    wait_until(keep_telling)


def test_a_change_that_no_watch_told_of_is_seen_all_the_same(znodes: Znodes, patient: Watches) -> None:
    told: list[bytes | None] = []
    patient.add("/one", told.append)
    wait_until(lambda: told == [None])

    znodes.data["/one"] = b"1"

    wait_until(lambda: told == [None, b"1"])


def test_looks_go_on_after_an_absence(znodes: Znodes, patient: Watches) -> None:
    told: list[bytes | None] = []
    znodes.away, znodes.data["/one"] = True, b"1"
    patient.add("/one", told.append)
    wait_until(lambda: znodes.reads > 2)
    assert told == []

    znodes.away = False

    wait_until(lambda: told == [b"1"])


def test_a_watcher_that_fails_is_reported_and_told_of_the_next_change_as_are_the_others(
    znodes: Znodes, patient: Watches
) -> None:
    told: list[bytes | None] = []

    def fail(data: bytes | None) -> None:
        told.append(data)
        raise RuntimeError("no")

    with capture_logs() as logged:
        patient.add("/one", fail)
        patient.add("/one", told.append)
        wait_until(lambda: told == [None, None])
        znodes.data["/one"] = b"1"
        wait_until(lambda: told[2:] == [b"1", b"1"])

    assert [entry["event"] for entry in logged if entry["log_level"] == "error"] == ["a watcher failed"] * 2


def test_no_look_begins_after_the_end(znodes: Znodes, patient: Watches) -> None:
    told = threading.Event()
    patient.add("/one", lambda _: told.set())
    assert told.wait(20)

    patient.end()
    (thread,) = [one for one in threading.enumerate() if one.name == "watches"]
    thread.join(20)
    assert not thread.is_alive()
    told.clear()
    patient.add("/two", lambda _: told.set())

    assert not told.wait(5 * SOON_S)
