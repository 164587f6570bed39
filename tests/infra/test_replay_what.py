"""What a replay may be asked for: ranges, authors and places, and one sentence for what cannot be meant."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import InvalidInput, Undecodable
from infra.replay_what import Source, What, decode_what, parse_offsets, parse_time
from infra.topics import ACTIVITY
from infra.tweet_ids import first_id_at, time_ms_of

NOW_MS = 1_795_000_000_000
TIMES = st.one_of(st.none(), st.integers(1_000_000_000_000, NOW_MS))
WHATS = st.builds(
    What,
    st.sampled_from(Source),
    TIMES,
    TIMES,
    st.dictionaries(st.integers(0, 7), st.tuples(st.integers(0, 10), st.integers(11, 20))),
    st.lists(st.integers(1, 1 << 62)).map(tuple),
    st.one_of(st.none(), st.integers(1, 1 << 62)),
    st.one_of(st.none(), st.text(max_size=5)),
)


@given(WHATS)
def test_what_survives_its_encoding(what: What) -> None:
    assert decode_what(what.encode()) == what


@pytest.mark.parametrize("value", [None, {}, [], {"source": "tape"}, What().encode() | {"offsets": {"x": [1, 2]}}])
def test_what_cannot_be_read_is_undecodable(value: object) -> None:
    with pytest.raises(Undecodable):
        decode_what(value)


@pytest.mark.parametrize(
    ("text", "time_ms", "assumed_utc"),
    [
        ("2026-11-26T09:30:00+01:00", 1_795_681_800_000, False),
        ("2026-11-26T08:30:00Z", 1_795_681_800_000, False),
        ("2026-11-26T08:30:00", 1_795_681_800_000, True),
        ("2026-11-26 08:30", 1_795_681_800_000, True),
        ("2026-11-26", 1_795_651_200_000, True),
        (str(first_id_at(1_795_681_800_000) + 77), 1_795_681_800_000, False),
    ],
)
def test_a_time_has_a_zone_or_is_utc_and_an_id_stands_for_the_time_in_it(
    text: str, time_ms: int, assumed_utc: bool
) -> None:
    found = parse_time("--since", text)

    assert (found.time_ms, found.assumed_utc) == (time_ms, assumed_utc)


def test_the_first_id_of_a_millisecond_is_above_all_of_the_one_before() -> None:
    assert time_ms_of(first_id_at(NOW_MS)) == NOW_MS
    assert time_ms_of(first_id_at(NOW_MS) - 1) == NOW_MS - 1
    assert first_id_at(0) == 0


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("yesterday", "--since is 'yesterday', and must be a time such as"),
        ("2026-13-01", "must be a time such as"),
        ("1970-01-01", "nothing is older than 1998-01-01"),
        ("12345", "must be a time such as"),
        ("9" * 30, "which is no id"),
    ],
)
def test_what_is_no_time_is_named(text: str, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        parse_time("--since", text)


def test_offsets_are_a_range_of_one_partition() -> None:
    assert parse_offsets("3:10-20") == (3, (10, 20))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("3", "must be PARTITION:FROM-TO"),
        ("3:20-10", "end at 10, before or where they start, 20"),
        ("3:10-10", "end at 10, before or where they start, 10"),
        (f"{ACTIVITY.partitions}:1-2", f"and activity has 0 to {ACTIVITY.partitions - 1}"),
        ("-1:1-2", "must be PARTITION:FROM-TO"),
    ],
)
def test_offsets_that_cannot_be_are_named(text: str, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        parse_offsets(text)


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        (What(since_ms=NOW_MS + 1), "--since is .*, which is in the future"),
        (What(until_ms=NOW_MS + 1), "--until is .*, which is in the future"),
        (What(since_ms=NOW_MS, until_ms=NOW_MS), "the range ends at .*, before or where it starts"),
        (What(since_ms=NOW_MS, until_ms=NOW_MS - 1), "the range ends at .*, before or where it starts"),
        (What(since_ms=5, offsets={1: (2, 3)}), "--offsets exclude --since and --until"),
        (What(Source.DATABASE, offsets={1: (2, 3)}), "--source is database"),
        (What(authors=(1,), followers_of=2), "--author and --followers-of exclude each other"),
        (What(authors=tuple(range(1, 1_002))), "1,001 authors are named, and at most 1,000"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(what: What, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        what.check(NOW_MS)


@pytest.mark.parametrize("shown", [str, What.encode])
def test_what_is_shown_to_people_and_programs(shown: Callable[[What], object]) -> None:
    assert "topic" in str(shown(What(topic="t")))
