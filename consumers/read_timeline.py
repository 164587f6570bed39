"""read_timeline: a page of a timeline, hydrated: what is live and, by the rules of a page, shown.

Next: pages.py fills it, page_rules.py has the rules, timeline_source.py knows where the ids come from.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import partial

from consumers.page_rules import RETWEET_SPAN_ENTRIES
from consumers.pages import Stretch, page_above, page_below
from consumers.read_tweet import read_entries
from consumers.timeline_source import TimelineSource
from infra.composition import Stores
from infra.ids import ID_MAX
from infra.paging import Cursor
from infra.rebuild import BATCH_USERS_MAX, rebuild
from infra.timelines import Kind
from infra.tweet_bodies import Body


class State(StrEnum):
    """How much of a timeline a page could show."""

    COMPLETE = "complete"
    REBUILDING = "rebuilding"  # somebody else rebuilds a part of it; this page came from the database
    PARTIAL = "partial"  # a page cut short by very many deleted or hidden tweets; the next one goes on behind them


@dataclass(frozen=True, slots=True)
class Page:
    """Live tweets, newest first. `next_max_id` asks for the older ones; None when there are none. `next_min_id` asks
    for the newer ones; None when there is nothing to go on from.

    `retweeted_by` has the authors for each retweet: its own, then those of the newer ones that are hidden for it.
    """

    tweets: list[Body]
    next_max_id: int | None
    state: State
    retweeted_by: Mapping[int, Sequence[int]] = field(default_factory=dict)
    next_min_id: int | None = None


class TimelineReader:
    """Reads timelines. Safe to share between threads."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores
        self._live_among = partial(read_entries, stores.bodies)

    def home(self, user_id: int, cursor: Cursor) -> Page:
        """A page of what the followed authors and the reader himself posted. Raises `NotFound`."""
        return self._page(Kind.HOME, user_id, cursor, RETWEET_SPAN_ENTRIES)

    def user(self, user_id: int, cursor: Cursor) -> Page:
        """A page of an author's own tweets, every retweet of his among them. Raises `NotFound`."""
        return self._page(Kind.USER, user_id, cursor, 0)

    def warm(self, users: Sequence[int]) -> None:
        """Reads many home timelines at once, only for their effect: each user is active afterwards."""
        for start in range(0, len(users), BATCH_USERS_MAX):
            rebuild(self._stores.engine, self._stores.timelines, Kind.HOME, users[start : start + BATCH_USERS_MAX])

    def _page(self, kind: Kind, user_id: int, cursor: Cursor, span: int) -> Page:
        source = TimelineSource(self._stores, kind, user_id)
        if cursor.min_id is None:
            filled = page_below(Stretch(source.look, self._live_among, cursor.max_id), cursor, span)
        else:
            filled = page_above(
                Stretch(source.look, self._live_among, min(cursor.min_id, ID_MAX - 1) + 1), cursor, span
            )
        if not filled.shown:
            source.need_user()  # what a deleted one had is in no page
        state = State.REBUILDING if source.rebuilding else State.PARTIAL if filled.cut else State.COMPLETE
        tweets = [one.body for one in filled.shown]
        retweeted_by = {one.body.id: one.retweeted_by for one in filled.shown if one.retweeted_by}
        newest = tweets[0].id if tweets else None
        return Page(tweets, filled.next_max_id, state, retweeted_by, filled.next_min_id or newest)
