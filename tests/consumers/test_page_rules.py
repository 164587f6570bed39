"""Which entries are shown, and with whom."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.page_rules import RETWEET_SPAN_ENTRIES, Live, shown
from infra.paging import LIMIT_MAX
from tests.consumers.timelines import Made, entries, live, oracle


def timeline(*made: Made) -> list[Live]:
    """Newest first."""
    return [live(1_000 - place, one) for place, one in enumerate(made)]


def rt(author: int, original: int = 1) -> Made:
    return Made(original, author=author)


PLAIN = Made()
SPAN = 3


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        ([PLAIN, PLAIN], [(0, ()), (1, ())]),
        ([rt(7)], [(0, (7,))]),
        ([rt(7), rt(8)], [(1, (7, 8))]),
        ([rt(7), PLAIN, PLAIN, rt(8)], [(1, ()), (2, ()), (3, (7, 8))]),
        ([rt(7), PLAIN, PLAIN, PLAIN, rt(8)], [(0, (7,)), (1, ()), (2, ()), (3, ()), (4, (8,))]),
        ([rt(7), PLAIN, rt(8), PLAIN, rt(9)], [(1, ()), (3, ()), (4, (8, 9))]),  # 7 is out of the reach of 9
        ([rt(7), rt(8), rt(7)], [(2, (7, 8))]),  # each author once, where he came last
        ([rt(7, 1), rt(8, 2)], [(0, (7,)), (1, (8,))]),
        ([Made(parent_live=False), PLAIN], [(1, ())]),
        (
            [rt(7), Made(parent_live=False), Made(parent_live=False), Made(parent_live=False), rt(8)],
            [(0, (7,)), (4, (8,))],
        ),
    ],
)
def test_one_retweet_of_a_tweet_stands_for_the_newer_ones_within_the_span(
    made: list[Made], expected: list[tuple[int, tuple[int, ...]]]
) -> None:
    found = shown(timeline(*made), 0, len(made), SPAN)

    assert [(1_000 - one.body.id, one.retweeted_by) for one in found] == expected


def test_without_a_span_everything_is_shown_as_user_timelines_have_it() -> None:
    found = shown(timeline(rt(7), rt(7), PLAIN, Made(parent_live=False)), 0, 4, 0)

    assert [(1_000 - one.body.id, one.retweeted_by) for one in found] == [(0, (7,)), (1, (7,)), (2, ())]


def test_no_page_can_show_two_retweets_of_one_tweet() -> None:
    assert RETWEET_SPAN_ENTRIES >= LIMIT_MAX


@given(st.lists(entries, max_size=30), st.integers(1, 6), st.data())
def test_a_part_with_its_context_is_decided_as_the_whole(made: list[Made], span: int, data: st.DataObject) -> None:
    whole = timeline(*made)
    first = data.draw(st.integers(0, len(whole)))
    last = data.draw(st.integers(first, len(whole)))
    context = max(first - span, 0)

    found = shown(whole[context : last + span], first - context, last - context, span)

    ids = {one.body.id for one in whole[first:last]}
    assert found == [one for one in oracle(whole, span) if one.body.id in ids]
