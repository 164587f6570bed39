"""read_timeline: a page of a timeline, from any copy; rebuilt on a miss; from the database below the floor.

A home page merges the home timeline with the user timelines of the reader and of the celebrities he follows. It is
valid down to the highest floor of its sources. Next: infra/rebuild.py.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from consumers import page_queries
from consumers.read_tweet import read_live
from infra import metrics
from infra.composition import Stores
from infra.errors import NotFound, TokenLost
from infra.paging import Cursor
from infra.rebuild import BATCH_USERS_MAX, Outcome, activate, rebuild
from infra.timelines import RENEW_BELOW_S, Kind, TimelinePage
from infra.tweet_bodies import Body

BUSY_WAIT_S = 2.0  # another process rebuilds: usually done in tens of milliseconds
BUSY_POLL_S = 0.01
ROUNDS_MAX = 25  # each round drops deleted tweets of one page; after that the page is short


class State(StrEnum):
    """How much of a timeline a page could show."""

    COMPLETE = "complete"
    REBUILDING = "rebuilding"  # somebody else rebuilds it; this page came from the database
    PARTIAL = "partial"  # a page cut short by very many deleted tweets


@dataclass(frozen=True, slots=True)
class Page:
    """Live tweets, newest first. `next_max_id` asks for the older ones; None when there are none."""

    tweets: list[Body]
    next_max_id: int | None
    state: State


class TimelineReader:
    """Reads timelines. Safe to share between threads."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores
        self._timelines = stores.timelines

    def home(self, user_id: int, cursor: Cursor) -> Page:
        """A page of what the followed authors and the reader himself posted. Raises `NotFound`."""
        return self._page(Kind.HOME, user_id, cursor)

    def user(self, user_id: int, cursor: Cursor) -> Page:
        """A page of an author's own tweets. Raises `NotFound`."""
        return self._page(Kind.USER, user_id, cursor)

    def warm(self, users: Sequence[int]) -> None:
        """Reads many home timelines at once, only for their effect: each user is active afterwards."""
        for start in range(0, len(users), BATCH_USERS_MAX):
            rebuild(self._stores.engine, self._timelines, Kind.HOME, users[start : start + BATCH_USERS_MAX])

    def _page(self, kind: Kind, user_id: int, cursor: Cursor) -> Page:
        if cursor.min_id is not None:
            return self._above(kind, user_id, cursor, cursor.min_id)
        tweets: list[Body] = []
        below, wanted = cursor.max_id, cursor.limit + 1  # one more says whether there are older ones
        for _ in range(ROUNDS_MAX):
            ids, state = self._ids(kind, user_id, below, wanted)
            newer = [one for one in ids if cursor.since_id is None or one > cursor.since_id]
            tweets += read_live(self._stores.bodies, newer)
            last = len(ids) < wanted or (cursor.since_id is not None and ids[-1] <= cursor.since_id)
            if last or len(tweets) >= wanted:
                if not tweets and cursor.max_id is None:
                    self._need_user(user_id)  # what a deleted one had is in no page
                more = len(tweets) >= wanted
                return Page(tweets[: cursor.limit], tweets[cursor.limit - 1].id if more else None, state)
            below = ids[-1]
        return Page(tweets, below, State.PARTIAL)

    def _above(self, kind: Kind, user_id: int, cursor: Cursor, min_id: int) -> Page:
        """The oldest page above `min_id`; from memory while the floor is below it."""
        length = self._timelines.live.timeline_entries
        sources, state = self._sources(kind, user_id, cursor.max_id, length)
        if state is State.COMPLETE and all(
            (page.floor or 0) <= min_id and len(page.entries) < length for page in sources
        ):
            ids = sorted({one for page in sources for one in page.entries if one > min_id})
            metrics.PAGES.labels(kind, "memory").inc()
        else:
            metrics.PAGES.labels(kind, _database_because(state)).inc()
            ids = page_queries.above(self._stores.engine, kind, user_id, min_id, cursor.max_id, cursor.limit * 2)
        tweets: list[Body] = []
        for start in range(0, len(ids), cursor.limit):
            tweets += read_live(self._stores.bodies, ids[start : start + cursor.limit])
            if len(tweets) >= cursor.limit:
                break
        oldest = tweets[: cursor.limit]
        return Page(oldest[::-1], oldest[0].id if oldest else None, state)

    def _ids(self, kind: Kind, user_id: int, below: int | None, wanted: int) -> tuple[list[int], State]:
        """Up to `wanted` ids, newest first, without a seam between memory and database."""
        sources, state = self._sources(kind, user_id, below, wanted)
        if state is State.COMPLETE:
            floor = max(page.floor or 0 for page in sources)
            merged = sorted({one for page in sources for one in page.entries if one > floor}, reverse=True)[:wanted]
            if len(merged) == wanted or floor == 0:
                metrics.PAGES.labels(kind, "memory").inc()
                return merged, state
        metrics.PAGES.labels(kind, _database_because(state)).inc()
        return page_queries.below(self._stores.engine, kind, user_id, below, wanted), state

    def _sources(self, kind: Kind, user_id: int, below: int | None, wanted: int) -> tuple[list[TimelinePage], State]:
        """The pages to merge, each of up to `wanted` entries; REBUILDING when one of them cannot be had yet."""
        first = self._present(kind, user_id, below, wanted)
        if kind is Kind.USER:
            return ([first], State.COMPLETE) if first else ([], State.REBUILDING)
        if first is None:
            return [], State.REBUILDING
        self._renew(user_id, first)
        authors = [user_id, *self._celebrities(user_id, first)]
        pages = [self._present(Kind.USER, author, below, wanted) for author in authors]
        present = [page for page in pages if page is not None]
        return [first, *present], State.COMPLETE if len(present) == len(pages) else State.REBUILDING

    def _present(self, kind: Kind, user_id: int, below: int | None, wanted: int) -> TimelinePage | None:
        """A present timeline's page; on a miss rebuilt, once over all processes. None while that takes long."""
        page = self._timelines.page(kind, user_id, below, wanted)
        if page.floor is not None:
            return page
        self._need_user(user_id)
        metrics.MISSES.labels(kind).inc()
        rebuilt = self._rebuild(kind, user_id)
        deadline = time.monotonic() + BUSY_WAIT_S
        page = self._timelines.page(kind, user_id, below, wanted)
        while page.floor is None and rebuilt is Outcome.BUSY and time.monotonic() < deadline:
            time.sleep(BUSY_POLL_S)
            page = self._timelines.page(kind, user_id, below, wanted)
        return page if page.floor is not None else None

    def _rebuild(self, kind: Kind, user_id: int) -> Outcome:
        try:
            return rebuild(self._stores.engine, self._timelines, kind, [user_id])[user_id]
        except TokenLost:
            return Outcome.BUSY  # removals come faster than it can be rebuilt; the database has the page

    def _celebrities(self, user_id: int, page: TimelinePage) -> Sequence[int]:
        if page.celebrities is not None:
            return page.celebrities
        found: list[int] = []

        def read() -> list[int]:
            found[:] = page_queries.celebrities(self._stores.engine, user_id)
            return found

        self._timelines.fill_celebrities(user_id, read)
        return found

    def _renew(self, user_id: int, page: TimelinePage) -> None:
        """Once a day a read gives all copies their whole time again, and says that the user is active."""
        ttl_s = self._timelines.live.timeline_ttl_s
        if page.time_left_s < ttl_s - RENEW_BELOW_S:
            activate(self._stores.engine, [user_id], ttl_s, datetime.now(UTC))
            self._timelines.renew(user_id)

    def _need_user(self, user_id: int) -> None:
        if not page_queries.user_exists(self._stores.engine, user_id):
            raise NotFound(f"user {user_id} does not exist")


def _database_because(state: State) -> str:
    """Why the database was asked for a page, as the metric has it."""
    return "below_floor" if state is State.COMPLETE else "rebuilding"
