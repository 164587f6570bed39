"""The comparison of one list with what the database expects, without servers."""

import random
from importlib.resources import files

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.audit_compare import (
    REFILL_BELOW,
    TRIM_SLACK,
    Expected,
    agrees,
    compare,
    limit_for,
    state_of,
    text_of,
)
from consumers.audit_report import Findings, State

LENGTH = 8  # of timelines in these tests
FIRST = 10**18


def ids(*places: int) -> list[int]:
    """Tweet ids: a higher place is newer."""
    return [FIRST + place for place in places]


def expect(newest: list[int], limit: int = limit_for(LENGTH)) -> Expected:
    cut = sorted(newest)[-limit:]
    return Expected(42, b" ".join(b"%d" % one for one in cut), len(cut), limit)


def listed(head: int | bytes, entries: list[int]) -> list[bytes]:
    return [head if isinstance(head, bytes) else b"%d" % head, *(b"%d" % one for one in entries)]


def look(copy: list[bytes], expected: Expected, floor_max: int = 0) -> Findings:
    """Both ways of comparing; the quick one must never be content with what the close one refuses."""
    found = compare(copy, expected, LENGTH, floor_max)
    if found.state is State.PRESENT and agrees(text_of(copy), expected, LENGTH):
        assert not found.differs
    return found


def numbers(found: Findings) -> tuple[int, int, int, int]:
    return len(found.missing), len(found.duplicate), len(found.unexpected), len(found.misordered)


EXACT = {
    "nothing expected, nothing there": ([], 0, []),
    "everything above floor 0": (ids(1, 2, 3), 0, ids(1, 2, 3)),
    "just as many as the slack allows": (
        ids(*range(LENGTH + TRIM_SLACK)),
        0,
        ids(*range(LENGTH + TRIM_SLACK)),
    ),
    "trimmed at the newest that was cut": (ids(*range(20)), FIRST + 11, ids(*range(12, 20))),
    "the floor is a tweet that was deleted": (ids(*range(10), *range(12, 20)), FIRST + 11, ids(*range(12, 20))),
    "the floor is the oldest one counted": (ids(*range(20)), FIRST + 12, ids(*range(13, 20))),
    "a floor below everything": (ids(*range(5, 8)), FIRST, ids(*range(5, 8))),
    "more than the length above a low floor": (ids(*range(40)), FIRST + 9, ids(*range(10, 40))),
}


@pytest.mark.parametrize(("newest", "floor", "entries"), EXACT.values(), ids=EXACT.keys())
def test_an_exact_timeline_shows_no_difference(newest: list[int], floor: int, entries: list[int]) -> None:
    assert numbers(look(listed(floor, entries), expect(newest))) == (0, 0, 0, 0)


ALL = ids(1, 2, 3, 4)
DAMAGE = {
    "an entry is missing": (listed(0, ids(1, 2, 4)), (1, 0, 0, 0)),
    "all entries are missing": (listed(0, []), (4, 0, 0, 0)),
    "the newest stands twice": (listed(0, ids(1, 2, 3, 4, 4)), (0, 1, 0, 0)),
    "an old one again at the tail": (listed(0, ids(1, 2, 3, 4, 1)), (0, 1, 0, 0)),
    "one stands four times": (listed(0, ids(1, 1, 1, 1, 2, 3, 4)), (0, 3, 0, 0)),
    "one that nobody expects": (listed(0, ids(1, 2, 3, 4, 5)), (0, 0, 1, 0)),
    "one that nobody expects, and out of order": (listed(0, ids(5, 1, 2, 3, 4)), (0, 0, 1, 0)),
    "one that is no id": ([*listed(0, ALL), b"x"], (0, 0, 1, 0)),
    "an id with a leading zero": ([*listed(0, ids(1, 2, 3)), b"0%d" % ALL[3]], (1, 0, 1, 0)),
    "a token among the entries": ([b"0", b"-5", *listed(0, ALL)[1:]], (0, 0, 1, 0)),
    "two neighbours have changed places": (listed(0, ids(1, 3, 2, 4)), (0, 0, 0, 1)),
    "the newest stands first": (listed(0, ids(4, 1, 2, 3)), (0, 0, 0, 1)),
    "turned round": (listed(0, ids(4, 3, 2, 1)), (0, 0, 0, 3)),
    "the head is lost": (listed(ALL[0], ids(2, 3, 4)), (1, 0, 0, 0)),
    "the head is no floor": (listed(b"x", ALL), (0, 0, 1, 0)),
    "an entry at the floor": (listed(ALL[1], ALL), (2, 0, 2, 0)),
    "all kinds together": (listed(0, ids(1, 3, 2, 3, 9)), (1, 1, 1, 0)),
}


@pytest.mark.parametrize(("copy", "counts"), DAMAGE.values(), ids=DAMAGE.keys())
def test_each_damage_is_counted_as_what_it_is(copy: list[bytes], counts: tuple[int, int, int, int]) -> None:
    assert not agrees(text_of(copy), expect(ALL), LENGTH)
    assert numbers(look(copy, expect(ALL))) == counts


def test_a_floor_above_the_counted_newest_hides_entries_that_are_missing() -> None:
    newest = ids(*range(20))
    found = look(listed(FIRST + 14, ids(*range(15, 20))), expect(newest))
    assert found.missing == tuple(map(str, ids(12, 13, 14)))
    assert numbers(found) == (3, 0, 0, 0)


def test_a_floor_that_hides_one_of_few_entries_is_too_high() -> None:
    assert numbers(look(listed(FIRST + 2, ids(3, 4)), expect(ALL))) == (2, 0, 0, 0)


def test_removals_may_leave_a_floor_above_the_counted_newest_down_to_the_refill() -> None:
    newest, half = ids(*range(20)), int(LENGTH * REFILL_BELOW)
    floor = newest[-half - 1]
    assert numbers(look(listed(floor, newest[-half:]), expect(newest), floor_max=floor)) == (0, 0, 0, 0)
    assert look(listed(floor, newest[-half:]), expect(newest), floor_max=floor - 1).missing
    floor += 1
    assert look(listed(floor, newest[-half + 1 :]), expect(newest), floor_max=floor).missing


@pytest.mark.parametrize("floor", [FIRST + 10, FIRST + 12])
def test_a_floor_among_the_entries_makes_those_at_or_below_it_unexpected(floor: int) -> None:
    newest = ids(*range(20))
    found = look(listed(floor, ids(*range(10, 20))), expect(newest))
    assert found.unexpected == tuple(str(one) for one in ids(*range(10, 20)) if one <= floor)


def test_floor_0_is_wrong_when_more_exist_than_a_list_can_hold() -> None:
    newest = ids(*range(LENGTH + TRIM_SLACK + 5))
    held = newest[-LENGTH - TRIM_SLACK :]
    assert look(listed(0, held), expect(newest)).missing == (str(newest[4]),)  # the others are beyond the limit


def test_a_list_longer_than_the_slack_is_exact_when_the_database_says_so() -> None:
    newest = ids(*range(LENGTH + TRIM_SLACK + 5))
    assert not agrees(text_of(listed(0, newest)), expect(newest), LENGTH)
    assert not look(listed(0, newest), expect(newest, limit=len(newest) + 1)).differs


@pytest.mark.parametrize(
    ("copy", "state"),
    [([], State.ABSENT), ([b"-0"], State.REBUILDING), ([b"-77", b"5"], State.REBUILDING), ([b"0"], State.PRESENT)],
)
def test_the_head_says_whether_a_timeline_is_present(copy: list[bytes], state: State) -> None:
    assert state_of(text_of(copy)) is state
    assert compare(copy, expect(ALL), LENGTH).state is state
    assert compare([], expect(ALL), LENGTH) == Findings(State.ABSENT)


def test_the_limits_are_those_of_the_functions() -> None:
    code = files("infra.lua").joinpath("timelines.lua").read_text(encoding="utf-8")
    assert f"local TRIM_SLACK = {TRIM_SLACK} " in code
    assert f"local REFILL_BELOW = {REFILL_BELOW} " in code


@given(
    newest=st.sets(st.integers(1, 60), max_size=40),
    above=st.integers(0, 60),
    seed=st.integers(0, 1 << 32),
    damage=st.sampled_from(["none", "drop", "repeat", "add", "swap"]),
)
def test_random_timelines_differ_exactly_when_they_were_damaged(
    newest: set[int], above: int, seed: int, damage: str
) -> None:
    chance = random.Random(seed)
    expected = sorted(ids(*newest))
    floor = max((one for one in expected[: max(len(expected) - LENGTH, 0)] if one <= FIRST + above), default=0)
    entries = [one for one in expected if one > floor]
    at = chance.randrange(len(entries)) if entries else None
    if damage == "add":
        entries.append(FIRST + 61)
    elif damage == "drop" and at is not None:
        del entries[at]
    elif damage == "repeat" and at is not None:
        entries.insert(chance.randrange(len(entries)), entries[at])
    elif damage == "swap" and at:
        entries[at - 1], entries[at] = entries[at], entries[at - 1]
    else:
        damage = "none"
    copy = listed(floor, entries)
    assert (
        numbers(look(copy, expect(expected)))
        == {
            "none": (0, 0, 0, 0),
            "drop": (1, 0, 0, 0),
            "repeat": (0, 1, 0, 0),
            "add": (0, 0, 1, 0),
            "swap": (0, 0, 0, 1),
        }[damage]
    )
    if damage == "none" and (floor == 0 or len(entries) >= LENGTH):
        assert agrees(text_of(copy), expect(expected), LENGTH)
