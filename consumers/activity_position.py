"""Where a stream of activity is: the id of its events, and what `Last-Event-ID` brings back. Pure.

1-<incarnation>-<offset>.<offset>. …        the next message of each activity partition
"""

import json
import re
import reprlib
from collections.abc import Mapping

from consumers.live_frames import Reason, event
from infra.errors import InvalidInput
from infra.log_reader import ACTIVITY_LOGS, Bounds, Cut, Log

RESUME_OFFSETS_MAX = 1_000_000  # of one partition, read again for a stream: some ten seconds of work

_ID = re.compile(r"1-(?P<incarnation>[0-9a-f]{8})-(?P<offsets>\d{1,18}(?:\.\d{1,18})*)", re.ASCII)
DETAILS = {
    Reason.POSITION_EXPIRED: "the log no longer has all of what came after Last-Event-ID; what is missing is lost here",
    Reason.POSITION_TOO_FAR: "too much came after Last-Event-ID to be told over HTTP; `TweetStream` reads it",
    Reason.POSITION_UNKNOWN: "Last-Event-ID is of logs that are no longer there",
}


def position_text(incarnation: str, cut: Mapping[Log, int]) -> str:
    """A position as the id of an event."""
    return f"1-{incarnation}-" + ".".join(str(cut[log]) for log in ACTIVITY_LOGS)


def parse_position(text: str) -> tuple[str, Cut]:
    """The inverse: incarnation and cut. Raises `InvalidInput`."""
    match = _ID.fullmatch(text)
    offsets = list(map(int, match["offsets"].split("."))) if match else []
    if match is None or len(offsets) != len(ACTIVITY_LOGS):
        rule = "must be the id of an event that this stream sent; leave the header out to begin now"
        raise InvalidInput(f"Last-Event-ID is {reprlib.repr(text)}, but {rule}")
    return match["incarnation"], dict(zip(ACTIVITY_LOGS, offsets, strict=True))


def start_of(position: tuple[str, Cut] | None, bounds: Bounds) -> tuple[Cut, Reason | None]:
    """Where to begin, and why that is not where the client was: then it is now."""
    now = {log: bounds.ends[log] for log in ACTIVITY_LOGS}
    if position is None:
        return now, None
    incarnation, cut = position
    if incarnation != bounds.incarnation or any(cut[log] > now[log] for log in ACTIVITY_LOGS):
        return now, Reason.POSITION_UNKNOWN
    if any(cut[log] < bounds.starts[log] for log in ACTIVITY_LOGS):
        return now, Reason.POSITION_EXPIRED
    if any(now[log] - cut[log] > RESUME_OFFSETS_MAX for log in ACTIVITY_LOGS):
        return now, Reason.POSITION_TOO_FAR
    return cut, None


def gap(reason: Reason) -> bytes:
    """What a client is told that cannot go on where it was."""
    return event("gap", json.dumps({"reason": reason, "detail": DETAILS[reason]}))
