"""What `fanfold locks` shows, from values; what it reads is tested on real servers."""

import io
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from infra.holder import BRIEF_BYTES_MAX, Holder, parse_brief
from infra.leases import Standing
from infra.lock_commands import age, table
from infra.locks import Locks, Numbered

NOW = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)


def holder(pid: int, ago_s: int, command: str = "fanfold coordinator") -> Holder:
    return Holder("host-1", pid, command, int((NOW - timedelta(seconds=ago_s)).timestamp() * 1000))


LEADER, STANDBY = holder(11, 300), holder(12, 5)
FOUND = Locks(
    (
        Standing("coordinator", LEADER, 77, (STANDBY,)),
        Standing("replay-42", holder(13, 7_200, "fanfold replay"), 80, ()),
    ),
    (Numbered("node number", 5, holder(14, 90_000, "fanfold api")), Numbered("node number", 6, None)),
    (Numbered("relay", 0, holder(15, 59, "fanfold relay")),),
)


@pytest.mark.parametrize("columns", [80, 200])
def test_there_is_a_line_for_each_who_holds_or_waits(columns: int) -> None:
    out = io.StringIO()
    Console(file=out, width=columns).print(table(FOUND, NOW))
    lines = [" ".join(line.split()) for line in out.getvalue().splitlines()]

    assert "leader: process 11 on host-1 (fanfold coordinator)" in lines
    for line in (
        "lease coordinator held host-1 11 5min fanfold coordinator",
        "waits host-1 12 5s fanfold coordinator",
        "lease replay-42 held host-1 13 2h fanfold replay",
        "node number 5 held host-1 14 1d fanfold api",
        "node number 6 held unknown",
        "relay 0 locked host-1 15 59s fanfold relay",
    ):
        assert line in lines


def test_without_a_leader_it_says_so() -> None:
    out = io.StringIO()
    Console(file=out, width=80).print(table(Locks((), (), ()), NOW))

    assert "leader: none" in out.getvalue()
    assert Locks((), (), ()).as_json() == {"leader": None, "leases": [], "node_numbers": [], "database_locks": []}


def test_json_names_the_leader_every_holder_and_whoever_waits() -> None:
    said = FOUND.as_json()

    assert said["leader"] == LEADER.as_json()
    assert said["leader"]["since"] == "2026-11-26T11:55:00+00:00"
    assert said["leases"][0] == {
        "name": "coordinator",
        "number": 77,
        "holder": LEADER.as_json(),
        "waiting": [STANDBY.as_json()],
    }
    assert [one["holder"] for one in said["node_numbers"]][1] is None


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(-5, "0s"), (0, "0s"), (59, "59s"), (60, "1min"), (3_599, "59min"), (3_600, "1h"), (86_400, "1d")],
)
def test_an_age_has_its_largest_unit(seconds: int, shown: str) -> None:
    assert age(NOW, NOW - timedelta(seconds=seconds)) == shown


@pytest.mark.parametrize("command", ["fanfold relay", "user 5, fanfold api", "x" * 500, "fanfold post 1 grüß"])
def test_what_postgresql_keeps_of_a_holder_fits_and_can_be_read(command: str) -> None:
    brief = Holder("a-host-with-a-very-long-name", 4_194_304, command, 1_764_154_512_345).brief()

    assert len(brief) <= BRIEF_BYTES_MAX
    read = parse_brief(brief)
    assert read is not None
    assert (read.host, read.pid, read.since_ms) == ("a-host-with-a-very-l", 4_194_304, 1_764_154_512_000)
    assert read.command[:12] == command[:12].replace("ü", "?")


@pytest.mark.parametrize("name", ["", "fanfold", "psql x y", "a b c d"])
def test_a_session_of_another_program_names_no_holder(name: str) -> None:
    assert parse_brief(name) is None
