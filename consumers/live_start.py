"""Where a stream begins: at the position that the client brings, or now; and what is said when that cannot be. Pure."""

from collections.abc import Iterable, Mapping

from consumers.live_frames import Reason
from consumers.live_position import Place, Position, audience_of
from infra.log_reader import ACTIVITY_LOGS, DELIVERY_LOGS, Bounds, Log
from infra.slots import slot_of
from infra.topics import DELIVERIES

RESUME_OFFSETS_MAX = 100_000  # of one log, read again for a stream: seconds of work; a longer absence is a reload


def now(bounds: Bounds) -> dict[Log, int]:
    """Where a new stream begins in each log: what is before it is in the timelines, so whoever opens a stream and then
    reads a page lacks nothing (a celebrity's tweet is there by its write-through). What the page shows already may
    come once more."""
    return {
        log: min(max(bounds.applied.get(log, 0), bounds.starts[log], end - RESUME_OFFSETS_MAX), end)
        for log, end in bounds.ends.items()
    }


def start_of(
    position: Position | None, user_id: int, celebrities: Iterable[int], bounds: Bounds
) -> tuple[Position, Reason | None]:
    """Where to begin, and why the timeline has to be read again when it is not where the client was."""
    audience = audience_of(user_id, celebrities)
    log = DELIVERY_LOGS[slot_of(user_id) % DELIVERIES.partitions]
    begin = now(bounds)[log]
    # What is not applied and too long ago to be told: the client reads its page again once it is.
    behind = begin if begin > max(bounds.applied.get(log, 0), bounds.starts[log]) else None
    fresh = Position(bounds.incarnation, audience, Place(begin), reload_after=behind)
    if position is None:
        return fresh, None
    if position.incarnation != bounds.incarnation:
        return fresh, Reason.POSITION_UNKNOWN
    if position.audience != audience:
        return fresh, Reason.FOLLOWS_CHANGED
    if _named_last(position) >= bounds.ends[log]:
        return fresh, Reason.POSITION_UNKNOWN
    places = {log: position.deliveries} | dict(zip(ACTIVITY_LOGS, position.activity, strict=False))
    reason = _cannot_resume(places, bounds)
    return (position, None) if reason is None else (fresh, reason)


def _named_last(position: Position) -> int:
    """The last message of deliveries that must be there: one of which something was told, or that changed follows.
    Whoever resumes a stream reads as far, and its group with him."""
    told = position.deliveries.offset if position.told else -1
    return max(told, -1 if position.reload_after is None else position.reload_after)


def _cannot_resume(places: Mapping[Log, Place], bounds: Bounds) -> Reason | None:
    for log, place in places.items():
        if place.offset > bounds.ends[log]:
            return Reason.POSITION_UNKNOWN
        if place.offset < bounds.starts[log]:
            return Reason.POSITION_EXPIRED
        if bounds.ends[log] - place.first > RESUME_OFFSETS_MAX:
            return Reason.POSITION_TOO_FAR
    return None
