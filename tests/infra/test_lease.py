"""The rule of a lease, by a clock of the test's own; and what is said of its holder."""

import pytest

from infra.errors import LeaseLost, Undecodable
from infra.holder import COMMAND_CHARACTERS_MAX, Holder, command_line, decode_holder
from infra.lease import Lease, LeaseState, lease_state
from tests.clock import Clock

VALID_S = 4.0


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lease(clock: Clock) -> Lease:
    """One whose first confirmation was sent at 100."""
    return Lease("replay-42", "/leases/replay-42/x", 7, sent_s=100.0, valid_s=VALID_S, clock_s=clock)


@pytest.mark.parametrize(
    ("now_s", "gone", "state"),
    [
        (103.9, False, LeaseState.HELD),
        (104.0, False, LeaseState.SILENT),
        (1e9, False, LeaseState.SILENT),
        (103.9, True, LeaseState.LOST),
        (1e9, True, LeaseState.LOST),
    ],
)
def test_a_lease_is_held_until_its_time_is_over(now_s: float, gone: bool, state: LeaseState) -> None:
    assert lease_state(now_s, valid_until_s=104.0, gone=gone) is state


def test_time_counts_from_when_the_check_was_sent_and_not_from_its_answer(lease: Lease, clock: Clock) -> None:
    clock.now_s = 103.0
    lease.confirm(sent_s=101.0)
    clock.now_s = 104.9
    lease.check()

    clock.now_s = 105.0
    with pytest.raises(LeaseLost, match=r"lease replay-42: ZooKeeper has not confirmed it for 4\.0 s"):
        lease.check()


def test_an_answer_that_comes_late_takes_nothing_back(lease: Lease, clock: Clock) -> None:
    lease.confirm(sent_s=102.0)
    lease.confirm(sent_s=101.0)

    clock.now_s = 105.9
    lease.check()


def test_a_silent_lease_that_is_confirmed_is_held_again(lease: Lease, clock: Clock) -> None:
    clock.now_s = 160.0
    with pytest.raises(LeaseLost):
        lease.check()

    lease.confirm(sent_s=159.0)

    assert lease.state is LeaseState.HELD
    lease.check()


def test_a_lost_lease_stays_lost_and_says_why(lease: Lease) -> None:
    lease.lose("its znode is gone")
    lease.lose("another reason")
    lease.confirm(sent_s=1e9)

    assert lease.state is LeaseState.LOST
    with pytest.raises(LeaseLost, match="lease replay-42 is lost: its znode is gone; another process may hold it"):
        lease.check()


def test_a_holder_is_read_back_as_it_was_written() -> None:
    holder = Holder("host-1", 42, "fanfold replay", 1_700_000_000_000)

    assert decode_holder(holder.encode()) == holder
    assert str(holder) == "process 42 on host-1 (fanfold replay)"


@pytest.mark.parametrize("data", [b"", b"host 42", b"[]", b'{"host": "h"}', b'{"host": "h", "pid": "x"}', b"\xff"])
def test_what_names_no_holder_is_refused(data: bytes) -> None:
    with pytest.raises(Undecodable, match="does not say who holds it"):
        decode_holder(data)


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["/venv/bin/fanfold", "user", "delete", "5"], "fanfold user delete 5"),
        (["/src/infra/__main__.py", "--data-dir", "/data", "coordinator"], "fanfold coordinator"),
        (["fanfold", "--data-dir=/data", "relay"], "fanfold relay"),
        (["fanfold", "registrar", "--redis", "redis://:secret@h:1"], "fanfold registrar --redis redis://:***@h:1"),
        (["/usr/bin/service.py"], "service.py"),
        ([], ""),
    ],
)
def test_a_command_is_shown_without_path_data_folder_and_secrets(words: list[str], shown: str) -> None:
    assert command_line(words) == shown


def test_a_long_command_is_cut() -> None:
    assert len(command_line(["fanfold", "x" * 10_000])) == COMMAND_CHARACTERS_MAX
