"""The pace of repair: its rate, and that it waits behind live traffic."""

import threading
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import count

import pytest

from infra import repair_warmer
from infra.repair import Done
from infra.repair_warmer import AWAY_S, GIVE_WAY_S, LiveLag, Pace, Warmer, is_behind
from tests.http_client import unreachable_stores


@dataclass
class World:
    """A clock that goes on while somebody waits, and what is asked."""

    now_s: float = 100.0
    rate: int = 100
    lags: int = 0  # so often it is said to be behind
    ends_at_s: float = float("inf")
    ends: dict[int, int] = field(default_factory=dict)
    applied: dict[int, int] = field(default_factory=dict)
    asked: int = 0

    def clock_s(self) -> float:
        return self.now_s

    def wait(self, wait_s: float) -> bool:
        self.now_s += wait_s
        return self.now_s >= self.ends_at_s

    def behind(self) -> bool:
        self.lags -= 1
        return self.lags >= 0

    def read_ends(self) -> dict[int, int]:
        self.asked += 1
        return dict(self.ends)

    def pace(self) -> Pace:
        return Pace(lambda: self.rate, self.behind, self.wait, self.clock_s)

    def lag(self) -> LiveLag:
        return LiveLag(self.read_ends, lambda: self.applied, self.clock_s)


def test_users_are_built_at_the_rate_in_the_long_run() -> None:
    world = World(rate=100)
    pace = world.pace()
    for built in range(50, 1_001, 50):
        world.now_s += 0.1
        assert pace.go_on(Done(built=built))

    assert world.now_s == pytest.approx(100 + 1_000 / 100, abs=1.0)


def test_who_only_looks_does_not_wait() -> None:
    world = World(rate=1)
    assert world.pace().go_on(Done(looked=2_000))
    assert world.now_s == 100


def test_behind_live_traffic_it_waits_until_that_is_over() -> None:
    world = World(lags=1)
    assert world.pace().go_on(Done())
    assert world.now_s == 101


def test_deliveries_that_are_behind_all_day_do_not_keep_copies_empty() -> None:
    world = World(lags=1_000)
    pace = world.pace()
    assert pace.go_on(Done(built=1))
    assert world.now_s == 100 + GIVE_WAY_S
    assert pace.go_on(Done(built=2))
    assert world.now_s == 100 + 2 * GIVE_WAY_S


def test_another_pass_counts_anew() -> None:
    world = World(rate=100)
    pace = world.pace()
    assert pace.go_on(Done(built=1_000))
    began_s = world.now_s
    assert pace.go_on(Done(built=200))
    assert world.now_s == pytest.approx(began_s + 2, abs=1.0)


@pytest.mark.parametrize(("rate", "lags"), [(0, 0), (100, 100)])
def test_a_pause_ends_when_repair_does(rate: int, lags: int) -> None:
    world = World(ends_at_s=101.0, rate=rate, lags=lags)
    assert not world.pace().go_on(Done())
    assert world.now_s == 101


@pytest.mark.parametrize(
    ("ends", "applied", "behind"),
    [
        ({0: 1_000}, {0: 999}, False),
        ({0: 1_000}, {0: 935}, False),  # 64 markers, or messages that are looked at as such
        ({0: 1_000}, {0: 934}, True),
        ({0: 1_000, 1: 5_000}, {0: 999, 1: 100}, True),
        ({0: 1_000}, {}, False),  # every node was emptied and nothing came since
        ({}, {0: 5}, False),  # Kafka does not answer
    ],
)
def test_what_is_behind(ends: dict[int, int], applied: dict[int, int], behind: bool) -> None:
    assert is_behind(ends, applied) is behind


def test_what_came_within_two_seconds_is_no_lag() -> None:
    world = World(ends={0: 0}, applied={0: -1})
    lag, seen = world.lag(), list[bool]()
    for second in range(6):
        world.ends = {0: 1_000 * second}
        seen.append(lag.is_behind())
        world.now_s += 1
    assert seen == [False, False, False, True, True, True]
    world.applied = {0: 3_999}
    assert not lag.is_behind()


def test_a_kafka_that_is_away_is_not_asked_for_every_batch() -> None:
    world = World()
    lag: Callable[[], bool] = world.lag().is_behind
    for _ in range(100):
        assert not lag()
        world.now_s += AWAY_S / 50
    assert world.asked <= 3


def test_an_error_that_nobody_foresaw_does_not_end_repair(monkeypatch: pytest.MonkeyPatch) -> None:
    stop, looks = threading.Event(), count(1)
    warmer = Warmer(unreachable_stores(), "", stop)

    def look() -> int:
        if next(looks) > 2:
            stop.set()
        raise LookupError("nobody foresaw this")

    monkeypatch.setattr(repair_warmer, "PERIOD_S", 0.01)
    monkeypatch.setattr(warmer, "_filling", look)

    warmer.run()

    assert next(looks) > 3


def test_all_passes_are_of_one_repair_which_counts_those_in_vain(monkeypatch: pytest.MonkeyPatch) -> None:
    stop, made, passes = threading.Event(), count(1), count(1)
    warmer = Warmer(unreachable_stores(), "", stop)

    class InVain:
        def __init__(self, *_: object) -> None:
            next(made)

        def run_pass(self) -> Done:
            if next(passes) == 3:
                stop.set()
            return Done()

    monkeypatch.setattr(repair_warmer, "PERIOD_S", 0.01)
    monkeypatch.setattr(repair_warmer, "Repair", InVain)
    monkeypatch.setattr(repair_warmer, "lease", lambda *_: nullcontext())
    monkeypatch.setattr(repair_warmer, "read_lease", lambda *_: None)
    monkeypatch.setattr(warmer, "_filling", lambda: 1)

    warmer._repair()

    assert (next(passes), next(made)) == (4, 2)
