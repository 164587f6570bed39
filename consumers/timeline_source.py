"""timeline_source: where the ids of one reader's page come from: the copies, or the database.

A home page merges the home timeline with the user timelines of the reader and of the celebrities he follows. What is
merged is valid down to the highest floor; what is absent is rebuilt. Next: infra/rebuild.py.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

from consumers import page_queries
from consumers.pages import Found
from infra import metrics
from infra.celebrities import celebrities_of
from infra.composition import Stores
from infra.errors import NotFound, TokenLost
from infra.rebuild import BATCH_USERS_MAX, Outcome, activate, rebuild
from infra.timeline_windows import CELEBRITIES_MAX, HomeLook, Span, Window, look_home, look_user_timelines
from infra.timelines import RENEW_BELOW_S, Kind

BUSY_WAIT_S = 2.0  # another process rebuilds: usually done in tens of milliseconds
BUSY_POLL_S = 0.01


class TimelineSource:
    """One timeline for one request. `rebuilding` says that a part of it was absent for too long: from then on the
    database is asked, and nobody is waited for again."""

    def __init__(self, stores: Stores, kind: Kind, user_id: int) -> None:
        self.rebuilding = False
        self._stores = stores
        self._timelines = stores.timelines
        self._clusters = stores.timelines.clusters
        self._kind = kind
        self._user_id = user_id
        self._too_many = False

    def look(self, span: Span) -> Found:
        """The ids of a span of this timeline. Raises `NotFound` when a timeline is absent and so is its user."""
        if not self.rebuilding and not self._too_many:
            windows = self._user_windows([self._user_id], span) if self._kind is Kind.USER else self._home_windows(span)
            found = merged(windows, span) if windows is not None else None
            if found is not None:
                metrics.PAGES.labels(self._kind, "memory").inc()
                return found
        metrics.PAGES.labels(self._kind, self._database_because()).inc()
        ids = page_queries.ids_of(self._stores.engine, self._kind, self._user_id, span)
        return Found(ids, len(ids) < span.count)

    def need_user(self) -> None:
        """Raises `NotFound` when the user does not exist."""
        if not page_queries.user_exists(self._stores.engine, self._user_id):
            raise NotFound(f"user {self._user_id} does not exist")

    def _home_windows(self, span: Span) -> list[Window] | None:
        look = look_home(self._clusters, self._user_id, span)
        if not look.whole:
            look = self._look_after_filling(look, span)
        if look.home.floor is None or look.own.floor is None:
            self.rebuilding = True
            return None
        self._renew_home(look)
        celebrities = look.celebrities if look.celebrities is not None else self._read_celebrities()
        if look.too_many or len(celebrities) > CELEBRITIES_MAX:
            self._too_many = True
            return None
        if not celebrities:
            return [look.home, look.own]
        own = [look.home, look.own]
        known = sorted({one for window in own for one in window.ids}, reverse=not span.upwards)
        until = known[span.count - 1] if len(known) >= span.count else None
        of_celebrities = self._user_windows(celebrities, replace(span, until=until))
        return None if of_celebrities is None else own + of_celebrities

    def _look_after_filling(self, look: HomeLook, span: Span) -> HomeLook:
        """Fills what no copy holds, and looks again; while somebody else rebuilds it, for a bounded time."""
        busy = False
        if look.home.floor is None or look.own.floor is None:
            self.need_user()
        for kind, window in ((Kind.HOME, look.home), (Kind.USER, look.own)):
            if window.floor is None:
                busy |= self._rebuild(kind, [self._user_id])
        if look.celebrities is None:
            self._stores.filling.fill("celebrities", [self._user_id], self._fill_celebrities)
        deadline_s = time.monotonic() + BUSY_WAIT_S
        look = look_home(self._clusters, self._user_id, span)
        while busy and not look.whole and time.monotonic() < deadline_s:
            time.sleep(BUSY_POLL_S)
            look = look_home(self._clusters, self._user_id, span)
        return look

    def _user_windows(self, authors: Sequence[int], span: Span) -> list[Window] | None:
        """A window of each of these user timelines; None when one cannot be had yet."""
        found = look_user_timelines(self._clusters, authors, span)
        absent = [author for author, window in found.items() if window.floor is None]
        if absent:
            found |= self._rebuilt(absent, span)
        if any(window.floor is None for window in found.values()):
            self.rebuilding = True
            return None
        renew_below_s = self._timelines.live.timeline_ttl_s - RENEW_BELOW_S
        old = [author for author, window in found.items() if window.time_left_s < renew_below_s]
        if old:
            self._timelines.renew_user_timelines(old)
        return list(found.values())

    def _rebuilt(self, authors: Sequence[int], span: Span) -> dict[int, Window]:
        if self._kind is Kind.USER:
            self.need_user()
        busy = self._rebuild(Kind.USER, authors)
        deadline_s = time.monotonic() + BUSY_WAIT_S
        found = look_user_timelines(self._clusters, authors, span)
        while busy and any(one.floor is None for one in found.values()) and time.monotonic() < deadline_s:
            time.sleep(BUSY_POLL_S)
            found = look_user_timelines(self._clusters, authors, span)
        return found

    def _rebuild(self, kind: Kind, users: Sequence[int]) -> bool:
        """Rebuilds timelines, once over all threads and processes. Returns whether somebody else is at one of them, or
        was, or removals come faster than it can be rebuilt."""
        metrics.MISSES.labels(kind).inc(len(users))
        busy = list[bool]()
        others = self._stores.filling.fill(kind, users, lambda mine: busy.extend(self._rebuild_batches(kind, mine)))
        return any(busy) or bool(others)

    def _rebuild_batches(self, kind: Kind, users: Sequence[int]) -> Iterator[bool]:
        for start in range(0, len(users), BATCH_USERS_MAX):
            try:
                part = users[start : start + BATCH_USERS_MAX]
                yield Outcome.BUSY in rebuild(self._stores.engine, self._timelines, kind, part).values()
            except TokenLost:
                yield True

    def _fill_celebrities(self, users: Sequence[int]) -> None:
        self._timelines.fill_celebrities(users, partial(celebrities_of, self._stores.engine))

    def _read_celebrities(self) -> list[int]:
        return list(celebrities_of(self._stores.engine, [self._user_id])[self._user_id])

    def _renew_home(self, look: HomeLook) -> None:
        """Once a day a read gives all copies their whole time again, and says that the user is active."""
        timelines = self._timelines.steady()
        ttl_s = timelines.live.timeline_ttl_s
        if min(look.home.time_left_s, look.own.time_left_s) < ttl_s - RENEW_BELOW_S:
            activate(self._stores.engine, [self._user_id], ttl_s, datetime.now(UTC))
            timelines.renew(self._user_id)

    def _database_because(self) -> str:
        """Why the database is asked, as the metric has it."""
        if self._too_many:
            return "many_celebrities"
        return "rebuilding" if self.rebuilding else "below_floor"


def merged(windows: Sequence[Window], span: Span) -> Found | None:
    """The windows of one page's timelines as one. None when they do not hold all of the span: it reaches below the
    highest of their floors."""
    floor = max([window.floor or 0 for window in windows])
    ids = set[int]().union(*[window.ids for window in windows])
    found = sorted(ids, reverse=not span.upwards)[: span.count]
    if span.upwards:
        whole = not floor or floor < (span.cursor or 0)
    else:
        whole = not floor or (len(found) == span.count and found[-1] > floor)
    return Found(found, len(found) < span.count) if whole else None
