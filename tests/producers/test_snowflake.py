from datetime import UTC, datetime

import pytest

from producers.snowflake import EARLIEST, NODES, SEQUENCES, Snowflakes, snowflake, time_ms_of


def at(year: int, month: int = 1) -> int:
    return int(datetime(year, month, 1, tzinfo=UTC).timestamp() * 1000)


@pytest.mark.parametrize("time_ms", [int(EARLIEST.timestamp() * 1000), at(2015), at(2026, 11), at(2067)])
def test_an_id_has_19_digits_from_2005_to_2067(time_ms: int) -> None:
    assert len(str(snowflake(time_ms, 0, 0))) == 19
    assert len(str(snowflake(time_ms, NODES - 1, SEQUENCES - 1))) == 19


def test_an_id_tells_its_time() -> None:
    assert time_ms_of(snowflake(at(2015), 1023, 4095)) == at(2015)


def test_ids_rise_within_a_millisecond_and_past_its_end() -> None:
    ids = Snowflakes(5, lambda: at(2020))

    made = [ids.next() for _ in range(3 * SEQUENCES)]

    assert made == sorted(set(made))


def test_ids_rise_when_the_clock_steps_back() -> None:
    times = iter([at(2020), at(2019), at(2019), at(2021)])
    ids = Snowflakes(5, lambda: next(times))

    made = [ids.next() for _ in range(4)]

    assert made == sorted(set(made))
    assert time_ms_of(made[-1]) == at(2021)
