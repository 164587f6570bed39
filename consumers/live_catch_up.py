"""How a stream begins: what came after its position is read and told, and then it is live, without a seam.

Streams that come while two groups are under way are the next group: one client of Kafka reads for all of it, so that
thousands that come again after a restart cost a few readers. A group first reads what lies shortly before its
positions, to know which tweets were met; then it tells what came after; and when it has read as far as the live feed,
it is handed over. Where it has read further, the feed leaves out what was told.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import structlog

from consumers.live_audience import Audience
from consumers.live_feed import READ_S, LiveFeed, end_streams, work_off
from consumers.live_frames import EventQueue, because, opening, with_id
from consumers.live_lag import STUCK_S, Stuck
from consumers.live_listener import Listener
from consumers.live_position import Position
from consumers.live_start import now, start_of
from consumers.live_telling import patiently
from infra.errors import Closed, PositionLost
from infra.gathering import Gathering
from infra.log_reader import Bounds, Cut, Log, LogMessage, LogReader

GROUPS_AT_ONCE = 2  # readers of the past, each with its own client of Kafka
GROUP_STREAMS_MAX = 1_000
SLOWEST_S = 5.0  # what a group waits for a client that does not take its events; then his queue may fill
SLOWEST_POLL_S = 0.02

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Arrival:
    """A stream that was opened: whose, from where on, and where its events go."""

    user_id: int
    position: Position | None
    queue: EventQueue


class CatchUp:
    """Brings streams to where the feed is. Safe to share between threads; close it after the feed."""

    def __init__(self, feed: LiveFeed) -> None:
        self._feed = feed
        self._groups: Gathering[Arrival, None] = Gathering(
            self._bring, GROUP_STREAMS_MAX, GROUPS_AT_ONCE, "streams-catch-up"
        )

    def begin(self, arrival: Arrival) -> None:
        """Returns at once. Raises `Closed`."""
        self._groups.submit(arrival)

    def close(self) -> None:
        """Ends what is under way."""
        self._groups.close()

    def _bring(self, arrivals: Sequence[Arrival]) -> list[None]:
        """What goes wrong ends these streams, with a hint to come again."""
        try:
            self._bring_all([one for one in arrivals if one.queue.ended is None])
        except Closed:
            pass
        except PositionLost as error:
            log.warning("streams end: they are resumed where that is possible", error=str(error))
        except Exception:
            log.exception("streams could not begin")
        else:
            return [None] * len(arrivals)
        end_streams([one.queue for one in arrivals], self._feed.teller)
        return [None] * len(arrivals)

    def _bring_all(self, arrivals: Sequence[Arrival]) -> None:
        feed = self._feed
        bounds = patiently(feed.watch.bounds, feed.stopped)
        user_ids = sorted({one.user_id for one in arrivals})
        followed = patiently(lambda: feed.celebrities(user_ids), feed.stopped)
        feed.expect(bounds.ends)
        try:
            begun = [_begin(one, followed.get(one.user_id, frozenset()), bounds) for one in arrivals]
            members = [member for member, _ in begun]
            feed.teller.post([partial(member.queue.put, frame) for member, frames in begun for frame in frames])
            reader = LogReader(feed.bootstrap, _lowest(bounds, (one.firsts() for one in members)))
            try:
                _Group(feed, reader, members, bounds).bring()
            finally:
                reader.close()
        finally:
            feed.expect_no_more()


class _Group:
    """Streams that catch up together, with one reader."""

    def __init__(self, feed: LiveFeed, reader: LogReader, members: Sequence[Listener], bounds: Bounds) -> None:
        self._feed = feed
        self._reader = reader
        self._members = members
        self._bounds = bounds
        self._too_slow: set[EventQueue] = set()  # nobody waits for these
        self._audience = Audience()
        for member in members:
            self._audience.add(member)

    def bring(self) -> None:
        """Returns when they are live. Raises `Closed` and `PositionLost`."""
        self._remember()
        while True:
            self._read_to(self._feed.cut(), self._tell)
            if self._feed.take_over(self._members, self._reader.cut):
                return

    def _remember(self) -> None:
        needed: Cut = {}
        for member in self._members:
            for one, offset in member.needed().items():
                needed[one] = max(offset, needed.get(one, 0))
        if needed:
            self._read_to(needed, self._take_note)
        self._reader.go_to(_lowest(self._bounds, (one.starts() for one in self._members)))

    def _read_to(self, target: Mapping[Log, int], use: Callable[[Sequence[LogMessage]], None]) -> None:
        stuck = Stuck()
        while behind := {one: at for one, at in self._reader.cut.items() if at < target.get(one, 0)}:
            if self._feed.stopped.is_set():
                raise Closed("the streams of this process were closed")
            if stuck.since(behind, time.monotonic()) > STUCK_S:
                self._reader.renew()
                stuck = Stuck()
            use(self._reader.read(READ_S))

    def _take_note(self, messages: Sequence[LogMessage]) -> None:
        for message in messages:
            if message.value is not None:
                self._audience.remember(message)
            self._reader.cut[message.log] = message.next_offset

    def _tell(self, messages: Sequence[LogMessage]) -> None:
        work_off(self._reader, messages, self._audience, self._feed.teller)
        until_s = time.monotonic() + SLOWEST_S
        while slow := {one.queue for one in self._members if one.queue.half_full} - self._too_slow:
            if time.monotonic() > until_s:
                self._too_slow |= slow
            if self._feed.stopped.wait(SLOWEST_POLL_S):
                return


def _begin(arrival: Arrival, celebrities: frozenset[int], bounds: Bounds) -> tuple[Listener, list[bytes]]:
    """A stream's listener, and what it is sent first: where it begins, and why that is not where the client was."""
    start, reason = start_of(arrival.position, arrival.user_id, celebrities, bounds)
    listener = Listener(arrival.user_id, celebrities, start, now(bounds), arrival.queue)
    first = str(start) if arrival.position is start else listener.position({})
    return listener, [opening(first)] + ([with_id(first, because("reload", reason))] if reason else [])


def _lowest(bounds: Bounds, wanted: Iterable[Mapping[Log, int]]) -> Cut:
    """Where a group begins to read each log; at the end where nobody needs it."""
    lowest = dict(bounds.ends)
    for offsets in wanted:
        for one, offset in offsets.items():
            lowest[one] = min(lowest[one], max(offset, bounds.starts[one]))
    return lowest
