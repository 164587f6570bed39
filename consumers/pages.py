"""pages: fills one page from a timeline that is looked into as far as the page needs it.

Input: looks (ids beside a cursor) and the live tweets behind ids. Output: what is shown, and where the next page goes
on. Knows no server. Next: timeline_source.py.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from consumers.page_rules import Live, Shown, shown
from infra.ids import ID_MAX
from infra.paging import Cursor
from infra.timeline_windows import Span

LOOK_ENTRIES_MAX = 640  # of one look, and so of the bodies read at once: some 200 kB
MORE_ENTRIES = 20  # the least that a further look asks for when many of the last one were deleted; then twice as many
# Of one page, on each side of its cursor. Only what is deleted or hidden makes a page look further than itself and its
# context: more than six times what a list can hold. Beyond it the page is short and says so.
LOOKED_ENTRIES_MAX = 5_000


@dataclass(frozen=True, slots=True)
class Found:
    """The ids of one look, the nearest to the cursor first; `ended` when there are no further ones on that side."""

    ids: Sequence[int]
    ended: bool


@dataclass(frozen=True, slots=True)
class Filled:
    """A page, newest first. `next_max_id` asks for what is older, None when nothing is; `cut` when very many deleted or
    hidden tweets made it short: upwards `next_min_id` then goes on behind them."""

    shown: list[Shown]
    next_max_id: int | None
    cut: bool
    next_min_id: int | None = None


class Stretch:
    """The live entries on both sides of a cursor, as far as somebody asked for them."""

    def __init__(
        self,
        look: Callable[[Span], Found],
        live_among: Callable[[Sequence[int]], list[Live]],
        cursor: int | None,
    ) -> None:
        self.older: list[Live] = []  # below the cursor, newest first
        self.newer: list[Live] = []  # from the cursor on, oldest first
        self.oldest_reached = False
        self.newest_reached = cursor is None
        self.lowest = cursor  # all down to here was looked at, deleted ones too
        self.highest = None if cursor is None else cursor - 1  # the same upwards
        self._look = look
        self._live_among = live_among
        self._left_older = self._left_newer = LOOKED_ENTRIES_MAX

    @property
    def older_used_up(self) -> bool:
        """Whether it may look no further down."""
        return self._left_older <= 0

    @property
    def newer_used_up(self) -> bool:
        """Whether it may look no further up."""
        return self._left_newer <= 0

    def reach_older(self, count: int) -> None:
        """Knows the next `count` entries below the cursor, or all there are."""
        least = 0
        while len(self.older) < count and not self.oldest_reached and not self.older_used_up:
            wanted = min(max(count - len(self.older), least), LOOK_ENTRIES_MAX)
            self._left_older -= wanted
            found = self._look(Span(self.lowest, wanted))
            self.older += self._live_among(found.ids)
            self.oldest_reached = found.ended
            self.lowest = found.ids[-1] if found.ids else self.lowest
            least = 2 * least + MORE_ENTRIES

    def reach_newer(self, count: int) -> None:
        """Knows the next `count` entries from the cursor on, or all there are."""
        least = 0
        while len(self.newer) < count and not self.newest_reached and not self.newer_used_up:
            assert self.highest is not None
            wanted = min(max(count - len(self.newer), least), LOOK_ENTRIES_MAX)
            self._left_newer -= wanted
            found = self._look(Span(self.highest + 1, wanted, upwards=True))
            self.newer += self._live_among(found.ids)
            self.newest_reached = found.ended
            self.highest = found.ids[-1] if found.ids else self.highest
            least = 2 * least + MORE_ENTRIES


def page_below(stretch: Stretch, cursor: Cursor, span: int) -> Filled:
    """The newest page below `max_id` and above `since_id`. One more tweet than the limit says that there are older."""
    since_id = cursor.since_id or 0
    candidates = wanted = cursor.limit + 1
    while True:
        stretch.reach_older(candidates)
        part = stretch.older[:candidates]
        if span and _has_retweets(part):
            stretch.reach_older(candidates + span)
            stretch.reach_newer(span)
        context = stretch.newer[:span][::-1]
        entries = context + stretch.older[: candidates + span]
        found = shown(entries, len(context), len(context) + len(part), span)
        if since_id:
            found = [one for one in found if one.body.id > since_id]
        if len(found) >= wanted:
            return Filled(found[: cursor.limit], found[cursor.limit - 1].body.id, cut=False)
        if _ended(part, stretch.older, stretch.oldest_reached) or any(one.body.id <= since_id for one in part[-1:]):
            return Filled(found, None, cut=False)
        if stretch.older_used_up:
            lowest = stretch.lowest if len(part) == len(stretch.older) else part[-1].body.id
            return Filled(found, lowest, cut=True)
        candidates *= 2


def page_above(stretch: Stretch, cursor: Cursor, span: int) -> Filled:
    """The oldest page above `min_id` and below `max_id`."""
    below = ID_MAX if cursor.max_id is None else cursor.max_id
    candidates = cursor.limit
    while True:
        stretch.reach_newer(candidates)
        part = stretch.newer[:candidates]
        if span and _has_retweets(part):
            stretch.reach_newer(candidates + span)
            stretch.reach_older(span)
        entries = stretch.newer[: candidates + span][::-1] + stretch.older[:span]
        last = len(stretch.newer[: candidates + span])
        found = [one for one in shown(entries, last - len(part), last, span) if one.body.id < below]
        ended = _ended(part, stretch.newer, stretch.newest_reached) or any(one.body.id >= below for one in part[-1:])
        if len(found) >= cursor.limit or ended:
            return _filled_above(found[-cursor.limit :])
        if stretch.newer_used_up:
            highest = stretch.highest if len(part) == len(stretch.newer) else part[-1].body.id
            return replace(_filled_above(found), cut=True, next_min_id=highest)
        candidates *= 2


def _filled_above(found: list[Shown]) -> Filled:
    return Filled(found, found[-1].body.id if found else None, cut=False)


def _has_retweets(part: Sequence[Live]) -> bool:
    return any(entry.body.retweet_of is not None for entry in part)


def _ended(part: Sequence[Live], known: Sequence[Live], reached: bool) -> bool:
    """Whether a page has all that there is on its side."""
    return reached and len(part) == len(known)
