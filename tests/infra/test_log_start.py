"""What people write to say where a log is read from, and what they are told when it cannot be."""

from datetime import UTC, datetime, timedelta

import pytest

from infra.errors import InvalidInput
from infra.log_start import Start, parse_start

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
NOW_MS = int(NOW.timestamp() * 1000)
HOUR_MS = 3_600_000


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("now", Start.now()),
        ("beginning", Start.beginning()),
        ("2h", Start.at(NOW - timedelta(hours=2), NOW_MS)),
        ("90s", Start.at(NOW - timedelta(seconds=90), NOW_MS)),
        ("2026-01-31T13:00+02:00", Start.at(NOW - timedelta(hours=1), NOW_MS)),
        ("2026-01-31T11:00Z", Start.at(NOW - timedelta(hours=1), NOW_MS)),
        ("0:120,3:57", Start.offsets({0: 120, 3: 57})),
        ("999999999d", Start.at(datetime(1970, 1, 1, tzinfo=UTC), NOW_MS)),
    ],
)
def test_each_form_means_what_it_says(text: str, start: Start) -> None:
    assert parse_start(text, NOW_MS) == (start, "")


def test_a_time_without_a_zone_is_utc_and_that_is_said() -> None:
    start, said = parse_start("2026-01-31T11:00", NOW_MS)

    assert start.time_ms == NOW_MS - HOUR_MS
    assert said == "2026-01-31T11:00 has no zone and is taken as UTC: 2026-01-31T11:00:00.000Z"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("2026-01-31T12:01Z", r"2026-01-31T12:01:00.000Z is in the future \(it is 2026-01-31T12:00:00.000Z\)"),
        ("1969-12-31", "is before 1970: `beginning` names the oldest message"),
        ("yesterday", "'yesterday' says not where to begin: name now, beginning, a time such as"),
        ("", "'' says not where to begin"),
        ("0:1,0:2", "'0:1,0:2' names a partition twice"),
        ("0:9999999999999999999", "names an offset above 9223372036854775807"),
        ("-5m", "says not where to begin"),
        ("٣m", "says not where to begin"),
    ],
)
def test_what_cannot_be_is_one_sentence(text: str, said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        parse_start(text, NOW_MS)
