import math
from datetime import UTC, datetime

import pytest

from infra.errors import ClockWentBack
from infra.tweet_ids import time_ms_of
from producers.snowflake import BACK_MAX_MS, EARLIEST, NODES, SEQUENCES, WAITS_MAX, Snowflakes, snowflake


def at(year: int, month: int = 1) -> int:
    return int(datetime(year, month, 1, tzinfo=UTC).timestamp() * 1000)


class Clock:
    """A clock that stands still until somebody sleeps or sets it."""

    def __init__(self, now_ms: int) -> None:
        self.now_ms = now_ms
        self.slept_s: list[float] = []

    def __call__(self) -> int:
        return self.now_ms

    def sleep(self, seconds: float) -> None:
        self.slept_s.append(seconds)
        self.now_ms += math.ceil(seconds * 1000)


@pytest.mark.parametrize("time_ms", [int(EARLIEST.timestamp() * 1000), at(2015), at(2026, 11), at(2067)])
def test_an_id_has_19_digits_from_2005_to_2067(time_ms: int) -> None:
    assert len(str(snowflake(time_ms, 0, 0))) == 19
    assert len(str(snowflake(time_ms, NODES - 1, SEQUENCES - 1))) == 19


def test_an_id_tells_its_time() -> None:
    assert time_ms_of(snowflake(at(2015), 1023, 4095)) == at(2015)


def test_a_millisecond_has_4096_ids_and_the_next_one_is_waited_for() -> None:
    clock = Clock(at(2020))
    ids = Snowflakes(5, clock, clock.sleep)

    made = [ids.next() for _ in range(3 * SEQUENCES)]

    assert made == sorted(set(made))
    assert clock.slept_s == [0.001, 0.001]
    assert time_ms_of(made[-1]) == clock.now_ms == at(2020) + 2


@pytest.mark.parametrize("back_ms", [1, 10, BACK_MAX_MS])
def test_a_clock_that_steps_back_a_little_is_waited_out(back_ms: int) -> None:
    clock = Clock(at(2020))
    ids = Snowflakes(5, clock, clock.sleep)
    before = ids.next()

    clock.now_ms -= back_ms
    after = ids.next()

    assert after > before
    assert clock.slept_s == [back_ms / 1000]
    assert time_ms_of(after) == clock.now_ms


def test_a_sleep_that_ends_early_is_repeated() -> None:
    clock = Clock(at(2020))
    ids = Snowflakes(5, clock, lambda seconds: clock.sleep(seconds / 2))
    before = ids.next()

    clock.now_ms -= 4

    assert ids.next() > before
    assert clock.slept_s == [0.002, 0.001, 0.0005]


def test_a_clock_that_steps_back_a_lot_is_refused_until_it_has_caught_up() -> None:
    clock = Clock(at(2020))
    ids = Snowflakes(5, clock, clock.sleep)
    before = ids.next()

    clock.now_ms -= 3_600_000
    with pytest.raises(ClockWentBack, match=r"clock is 3600000 ms behind .* set it right, or restart"):
        ids.next()
    assert clock.slept_s == []

    clock.now_ms += 3_600_000
    assert ids.next() > before


def test_a_clock_that_never_catches_up_is_waited_for_only_so_often() -> None:
    slept_s: list[float] = []
    times = iter([at(2020), *[at(2020) - 500] * 10])
    ids = Snowflakes(5, lambda: next(times), slept_s.append)
    ids.next()

    with pytest.raises(ClockWentBack, match="500 ms"):
        ids.next()
    assert slept_s == [0.5] * WAITS_MAX


def test_ids_rise_when_the_node_number_moves() -> None:
    numbers = iter([1_000, 7, 7, 1_023, 0])
    clock = Clock(at(2020))
    ids = Snowflakes(lambda: next(numbers), clock, clock.sleep)

    made = [ids.next() for _ in range(5)]

    assert made == sorted(set(made))
    assert [one >> 12 & 1023 for one in made] == [1_000, 7, 7, 1_023, 0]
