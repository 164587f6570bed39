"""Pages against the plain oracle: full, seamless, and the same whatever comes or goes between two requests."""

from collections.abc import Callable
from itertools import islice
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers import pages
from consumers.page_rules import Shown
from consumers.pages import Filled, Stretch, page_above, page_below
from infra.paging import LIMIT_MAX, Cursor
from tests.consumers.timelines import Made, Timeline, entries, oracle

limits = st.sampled_from([1, 2, 3, 5, 7, 20, LIMIT_MAX - 1, LIMIT_MAX])
spans = st.sampled_from([0, 1, 3, 40])
# Of any length up to six times the span: left to itself, Hypothesis makes few that are longer than a page.
some_entries = st.integers(0, 240).flatmap(lambda size: st.lists(entries, min_size=size, max_size=size))


def make_timeline(made: list[Made]) -> Timeline:
    timeline = Timeline()
    for one in made:
        timeline.arrive(one)
    return timeline


def below(timeline: Timeline, cursor: Cursor, span: int) -> Filled:
    return page_below(Stretch(timeline.look, timeline.live_among, cursor.max_id), cursor, span)


def above(timeline: Timeline, cursor: Cursor, span: int) -> Filled:
    assert cursor.min_id is not None
    return page_above(Stretch(timeline.look, timeline.live_among, cursor.min_id + 1), cursor, span)


def expected(timeline: Timeline, span: int) -> list[Shown]:
    return oracle(timeline.live_among(timeline.live_ids()), span)


def scroll(timeline: Timeline, limit: int, span: int, between: Callable[[], object] = lambda: None) -> list[Shown]:
    """All pages from the newest to the end. Each but the last is full."""
    seen: list[Shown] = []
    page = below(timeline, Cursor(limit), span)
    while page.next_max_id is not None:
        assert len(page.shown) == limit or page.cut
        seen += page.shown
        between()
        page = below(timeline, Cursor(limit, page.next_max_id), span)
    return seen + page.shown


@given(some_entries, st.sets(st.integers(0, 239)), limits, spans)
def test_a_scroll_shows_exactly_what_the_oracle_does(made: list[Made], gone: set[int], limit: int, span: int) -> None:
    timeline = make_timeline(made)
    timeline.dead = {one for place, one in enumerate(timeline.made) if place in gone}

    assert scroll(timeline, limit, span) == expected(timeline, span)


@given(some_entries, some_entries, limits, spans)
def test_what_arrives_meanwhile_changes_nothing_below_it(
    made: list[Made], arriving: list[Made], limit: int, span: int
) -> None:
    timeline = make_timeline(made)
    before = [one.body.id for one in expected(timeline, span)]
    arrivals = iter(arriving)

    seen = scroll(timeline, limit, span, lambda: [timeline.arrive(one) for one in islice(arrivals, 5)])

    assert [one.body.id for one in seen] == before


@given(some_entries, limits, spans, st.randoms(use_true_random=False))
def test_deletes_meanwhile_let_nothing_be_shown_twice_or_be_left_out(
    made: list[Made], limit: int, span: int, random: Random
) -> None:
    timeline = make_timeline(made)
    states = [{one.body.id for one in expected(timeline, span)}]

    def delete_some() -> None:
        alive = timeline.live_ids()
        timeline.dead.update(random.sample(alive, min(3, len(alive))))
        states.append({one.body.id for one in expected(timeline, span)})

    seen = [one.body.id for one in scroll(timeline, limit, span, delete_some)]

    assert seen == sorted(set(seen), reverse=True)
    assert set(seen) >= set.intersection(*states)


@given(some_entries, limits, spans, st.data())
def test_since_id_and_min_id_bound_a_page(made: list[Made], limit: int, span: int, data: st.DataObject) -> None:
    timeline = make_timeline(made)
    ids = st.integers(100, 100 + 2 * len(made) + 2)
    low, high = data.draw(ids), data.draw(st.none() | ids)
    between = [one for one in expected(timeline, span) if one.body.id > low and (high is None or one.body.id < high)]

    newest = below(timeline, Cursor(limit, max_id=high, since_id=low), span)
    oldest = above(timeline, Cursor(limit, max_id=high, min_id=low), span)

    assert newest.shown == between[:limit]
    assert newest.next_max_id == (between[limit - 1].body.id if len(between) > limit else None)
    assert oldest.shown == between[-limit:]
    assert oldest.next_max_id == (oldest.shown[-1].body.id if oldest.shown else None)


@given(some_entries, limits, spans)
def test_from_the_oldest_up_every_page_joins_the_last(made: list[Made], limit: int, span: int) -> None:
    timeline = make_timeline(made)
    seen: list[int] = []
    page = above(timeline, Cursor(limit, min_id=0), span)
    while page.shown:
        seen += [one.body.id for one in reversed(page.shown)]
        page = above(timeline, Cursor(limit, min_id=seen[-1]), span)

    assert seen[::-1] == [one.body.id for one in expected(timeline, span)]


def test_a_page_without_retweets_takes_one_look() -> None:
    timeline = make_timeline([Made()] * 50)

    assert len(below(timeline, Cursor(20), 40).shown) == 20
    assert timeline.looks == 1


def test_a_page_that_deleted_tweets_cut_says_so_and_the_next_one_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "LOOKED_ENTRIES_MAX", 100)
    timeline = make_timeline([Made()] * 10 + [Made(parent_live=False)] * 200 + [Made()] * 300)
    timeline.dead = set(list(timeline.made)[210:500])

    first = below(timeline, Cursor(20), 40)
    seen = scroll(timeline, 20, 40)

    assert (len(first.shown), first.cut) == (10, True)
    assert seen == expected(timeline, 40)
    assert len(seen) == 20


def test_upwards_a_page_that_was_cut_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "LOOKED_ENTRIES_MAX", 100)
    timeline = make_timeline([Made()] * 10 + [Made(parent_live=False)] * 200 + [Made()])

    page = above(timeline, Cursor(20, min_id=0), 40)

    assert (len(page.shown), page.cut) == (10, True)


def test_upwards_pages_that_are_cut_and_empty_lead_on_to_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "LOOKED_ENTRIES_MAX", 100)
    timeline = make_timeline([Made()] * 10 + [Made(parent_live=False)] * 1_000 + [Made()] * 30)
    timeline.dead = set(list(timeline.made)[300:700])

    found = [above(timeline, Cursor(20, min_id=0), 40)]
    while (page := found[-1]).shown or page.cut:
        min_id = page.next_min_id if page.cut else page.shown[0].body.id
        assert min_id is not None
        found.append(above(timeline, Cursor(20, min_id=min_id), 40))

    assert sum(not page.shown and page.cut for page in found) >= 3
    assert [one for page in found[::-1] for one in page.shown] == expected(timeline, 40)


def test_upwards_a_page_that_was_cut_knows_the_older_retweet_below_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "LOOKED_ENTRIES_MAX", 100)
    timeline = make_timeline([Made(retweet_of=1), Made(retweet_of=1)] + [Made()] * 200)
    oldest, _, plain, *others = timeline.made
    timeline.dead = set(others)

    page = above(timeline, Cursor(20, min_id=oldest), 40)

    assert page.cut
    assert [one.body.id for one in page.shown] == [plain]
