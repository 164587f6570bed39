"""Which dead letters are meant, as tables."""

from collections.abc import Mapping

import pytest

from infra.errors import InvalidInput
from streams.letter_filter import OFFSET_MAX, Offsets, Wanted, parse_age_ms, parse_offsets
from streams.read_dead_letters import Buried

HEADERS: Mapping[str, bytes] = {
    "__connect.errors.partition": b"3",
    "__connect.errors.exception.class.name": b"infra.errors.Undecodable",
    "__connect.errors.exception.message": b"version 9 is unknown",
}
LETTER = Buried("activity.dlq", 7, 5_000, b"41", b"value", list(HEADERS.items()))


@pytest.mark.parametrize(
    ("wanted", "meant"),
    [
        (Wanted(), True),
        (Wanted(Offsets(7, 7)), True),
        (Wanted(Offsets(8)), False),
        (Wanted(Offsets(0, 6)), False),
        (Wanted(reason="VERSION 9"), True),
        (Wanted(reason="undecodable: version"), True),
        (Wanted(reason="version 8"), False),
        (Wanted(before_ms=5_000), True),
        (Wanted(before_ms=4_999), False),
        (Wanted(since_ms=5_000), True),
        (Wanted(since_ms=5_001), False),
        (Wanted(partition=3), True),
        (Wanted(partition=0), False),
        (Wanted(key="41"), True),
        (Wanted(key="4"), False),
        (Wanted(Offsets(7, 9), "version", 6_000, 1_000, 3, "41"), True),
    ],
)
def test_every_condition_must_hold(wanted: Wanted, meant: bool) -> None:
    assert wanted.matches(LETTER) is meant
    assert wanted.is_all is (wanted == Wanted())


@pytest.mark.parametrize(
    ("text", "offsets"), [("7", Offsets(7, 7)), ("7-12", Offsets(7, 12)), (f"0-{OFFSET_MAX}", Offsets())]
)
def test_offsets_are_one_or_a_range(text: str, offsets: Offsets) -> None:
    assert parse_offsets(text) == offsets


@pytest.mark.parametrize("text", ["", "-7", "7-", "x", "7-3", "9223372036854775808", "1" * 30, "٧"])
def test_what_is_no_range_of_offsets_is_named(text: str) -> None:
    with pytest.raises(InvalidInput, match=r"is not an offset or a range of them|end before they begin"):
        parse_offsets(text)


@pytest.mark.parametrize(("text", "ms"), [("90s", 90_000), ("30m", 1_800_000), ("2h", 7_200_000), ("7d", 604_800_000)])
def test_an_age_has_a_unit(text: str, ms: int) -> None:
    assert parse_age_ms(text) == ms


@pytest.mark.parametrize("text", ["", "7", "h", "1.5h", "-2h", "2 h", "9999999d"])
def test_what_is_no_age_is_named(text: str) -> None:
    with pytest.raises(InvalidInput, match="is not an age: a number with s, m, h or d"):
        parse_age_ms(text)
