"""Where a stream is in the logs: the id of its events, and what `Last-Event-ID` brings back. Pure.

    1-<incarnation>-<audience>-<offset>.<told>.<back>-<reload after>-<offset>.<back>_<offset>.<back>_…

Tweet ids are not in commit order, so they cannot say what a client has seen. The first numbers are of the user's
partition of the deliveries log: the next message, how many of its happenings were told already, and how far before it
reading has to begin to know which tweets were told of lately. The last ones are of all activity partitions, and absent
for a user who follows no celebrity. `reload after` is the offset of a change of follows that was not told yet.
"""

import re
import reprlib
from collections.abc import Iterable
from dataclasses import dataclass

import xxhash

from infra.errors import InvalidInput
from infra.topics import ACTIVITY

OFFSET_DIGITS_MAX = 18
TOLD_MAX = 100_000  # above all happenings that one message of a mebibyte can have for a user

_NUMBER = rf"\d{{1,{OFFSET_DIGITS_MAX}}}"
_PLACE = rf"{_NUMBER}\.{_NUMBER}"
_ID = re.compile(
    rf"1-(?P<incarnation>[0-9a-f]{{8}})-(?P<audience>[0-9a-f]{{16}})-(?P<offset>{_NUMBER})\.(?P<told>\d{{1,6}})"
    rf"\.(?P<back>{_NUMBER})-(?P<reload>(?:{_NUMBER})?)-(?P<activity>(?:{_PLACE}(?:_{_PLACE})*)?)",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a stream is in one log: the next message, and how far before it reading has to begin."""

    offset: int
    back: int = 0

    @property
    def first(self) -> int:
        """The offset that reading begins at."""
        return max(self.offset - self.back, 0)


@dataclass(frozen=True, slots=True)
class Position:
    """Where a stream is in its logs. `told` counts happenings of the next message of `deliveries`."""

    incarnation: str
    audience: str
    deliveries: Place
    told: int = 0
    reload_after: int | None = None
    activity: tuple[Place, ...] = ()

    def __str__(self) -> str:
        after = "" if self.reload_after is None else str(self.reload_after)
        head = f"1-{self.incarnation}-{self.audience}-{self.deliveries.offset}.{self.told}.{self.deliveries.back}"
        return f"{head}-{after}-" + "_".join(f"{place.offset}.{place.back}" for place in self.activity)


def parse_position(text: str) -> Position:
    """The inverse of `str`. Raises `InvalidInput`."""
    match = _ID.fullmatch(text)
    places = [part.split(".") for part in match["activity"].split("_") if part] if match else []
    if match is None or len(places) not in (0, ACTIVITY.partitions) or int(match["told"]) > TOLD_MAX:
        rule = "must be the id of an event that this stream sent; leave the header out to begin now"
        raise InvalidInput(f"Last-Event-ID is {reprlib.repr(text)}, but {rule}")
    return Position(
        match["incarnation"],
        match["audience"],
        Place(int(match["offset"]), int(match["back"])),
        int(match["told"]),
        int(match["reload"]) if match["reload"] else None,
        tuple(Place(int(offset), int(back)) for offset, back in places),
    )


def audience_of(user_id: int, celebrities: Iterable[int]) -> str:
    """A hash of whose stream it is and whom of the celebrities he follows: another one, and nobody can say which of
    their tweets were told."""
    ids = [user_id, *sorted(celebrities)]
    return xxhash.xxh64_hexdigest(b"".join(one.to_bytes(8, "big") for one in ids))
