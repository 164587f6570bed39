"""One user's stream in the logs: what of a message is told to him, once each, and the position that it is told with.

Fed by live_feed.py with the messages that concern him, by any reader and from any offset: what is below his position is
not told again. Pure: no clock, no server.
"""

from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from consumers.live_frames import EventQueue
from consumers.live_match import Happening
from consumers.live_position import Place, Position, audience_of
from consumers.live_sightings import Sightings
from infra.events import DeliveryKind
from infra.log_reader import ACTIVITY_LOGS, DELIVERY_LOGS, Log
from infra.slots import slot_of
from infra.topics import DELIVERIES

# A round of fan_out has up to 1,024 events; a crash sends it again, when others have sent for the 25 s until its
# partitions are another worker's: four workers write some 320 offsets a second to a partition.
DELIVERIES_REMEMBERED_MAX, DELIVERIES_REACH = 1_024, 8_192
# Of a celebrity in status `both` the deliveries come after the activity: a backlog of so many events of its partition.
ACTIVITY_REMEMBERED_MAX, ACTIVITY_REACH = 128, 16_384

NEW = (DeliveryKind.DELIVER, DeliveryKind.DELIVER_OWN)
GONE = (DeliveryKind.RETRACT, DeliveryKind.RETRACT_OWN)
OF_CELEBRITIES = (DeliveryKind.ADD_CELEBRITY, DeliveryKind.REMOVE_CELEBRITY)


class Kind(StrEnum):
    """The events of a stream."""

    UPDATE = "update"
    DELETE = "delete"
    RELOAD = "reload"


class Told(NamedTuple):
    """An event: of a tweet, or of the whole timeline (then 0), and its id."""

    kind: Kind
    tweet_id: int
    position: str


class Listener:
    """A user who listens. Not safe for several threads; `queue` is where his events go, and is not touched here."""

    def __init__(
        self, user_id: int, celebrities: Iterable[int], start: Position, activity: Mapping[Log, int], queue: EventQueue
    ) -> None:
        """`celebrities` are those whom he follows. From `start` on; where it has no places in the activity log, from
        `activity` on."""
        self.user_id = user_id
        self.queue = queue
        self.log: Log = DELIVERY_LOGS[slot_of(user_id) % DELIVERIES.partitions]
        self.celebrities = frozenset(celebrities)
        self.reload_after = start.reload_after
        self._incarnation = start.incarnation
        self._audience = audience_of(user_id, self.celebrities)
        self._told = start.told
        places = start.activity or tuple(Place(activity[log]) for log in ACTIVITY_LOGS)
        self._places = {self.log: start.deliveries} | dict(zip(ACTIVITY_LOGS, places, strict=True))
        self._sightings: dict[Log, Sightings] = {}

    @property
    def logs(self) -> Sequence[Log]:
        """The logs that he is told from."""
        return (self.log, *ACTIVITY_LOGS) if self.celebrities else (self.log,)

    def needed(self) -> dict[Log, int]:
        """How far `remember` has to be given his logs: only if something came before."""
        return {
            log: place.offset + (log == self.log and self._told > 0)
            for log, place in self._places.items()
            if log in self.logs and (place.back or (log == self.log and self._told))
        }

    def starts(self) -> dict[Log, int]:
        """Where telling begins in each of his logs."""
        return {log: self._places[log].offset for log in self.logs}

    def firsts(self) -> dict[Log, int]:
        """Where reading begins for `remember`."""
        return {log: self._places[log].first for log in self.logs}

    def remember(self, log: Log, offset: int, happened: Sequence[Happening]) -> None:
        """Takes note of what a stream before this one met below the position."""
        if offset > self._places[log].offset:
            return
        told = self._told if log == self.log else 0
        for happening in happened if offset < self._places[log].offset else happened[:told]:
            if happening.kind in NEW or happening.kind in GONE:
                self._is_news(log, offset, happening, {})

    def hear(self, log: Log, offset: int, happened: Sequence[Happening], cut: Mapping[Log, int]) -> list[Told]:
        """What a message tells him; nothing of one below his position. `cut` is how far the logs were read."""
        if offset < self._places[log].offset:
            return []
        skipped = self._told if log == self.log and offset == self._places[log].offset else 0
        told = []
        for number, happening in enumerate(happened[skipped:], start=skipped + 1):
            if happening.kind not in NEW and happening.kind not in GONE:
                self._follow_changed(offset, happening)
            elif self._is_news(log, offset, happening, cut):
                kind = Kind.UPDATE if happening.kind in NEW else Kind.DELETE
                told.append(Told(kind, happening.subject, self._position_in(log, offset, number, cut)))
        return told

    def go_on_from(self, cut: Mapping[Log, int]) -> None:
        """He has heard what is before this cut: another reader may begin below it."""
        for log, place in self._places.items():
            if cut.get(log, 0) > place.offset:
                self._places[log] = Place(cut[log])
                self._told = 0 if log == self.log else self._told

    def position(self, cut: Mapping[Log, int]) -> str:
        """Where he is when the logs were read so far."""
        return self._text(self._deliveries_at(cut), self._places_at(cut, {}))

    def reload(self, cut: Mapping[Log, int], applied: Mapping[Log, int]) -> Told | None:
        """That his timeline has changed as a whole, once the copies have the change."""
        if self.reload_after is None or applied.get(self.log, 0) <= self.reload_after:
            return None
        self.reload_after = None
        return Told(Kind.RELOAD, 0, self.position(cut))

    def follow_only(self, celebrities: Iterable[int], cut: Mapping[Log, int]) -> Told | None:
        """Takes the set as the database has it; a reload if it is another one and no record has told."""
        if frozenset(celebrities) == self.celebrities:
            return None
        self._set_celebrities(frozenset(celebrities))
        return Told(Kind.RELOAD, 0, self.position(cut))

    def _follow_changed(self, offset: int, happening: Happening) -> None:
        """A merge or unmerge of many follows from their author's status and changes no page. Who is a celebrity changes
        the logs that his tweets come from: of one log less may have been read by then than of the other."""
        if happening.kind is DeliveryKind.ADD_CELEBRITY:
            self._set_celebrities(self.celebrities | {happening.subject})
        if happening.kind is DeliveryKind.REMOVE_CELEBRITY:
            self._set_celebrities(self.celebrities - {happening.subject})
        if happening.alone or happening.kind in OF_CELEBRITIES:
            self.reload_after = offset

    def _set_celebrities(self, celebrities: frozenset[int]) -> None:
        self.celebrities = celebrities
        self._audience = audience_of(self.user_id, celebrities)

    def _is_news(self, log: Log, offset: int, happening: Happening, cut: Mapping[Log, int]) -> bool:
        """Whether the tweet was not met as this before, in either log; takes note of it. A delete wins over a tweet
        that comes again after it."""
        reached = {**cut, log: offset}
        known = [one.gone(happening.subject, reached.get(other, 0)) for other, one in self._sightings.items()]
        gone, new = any(known), happening.kind in NEW
        if new and gone:
            return False
        if log not in self._sightings:
            of_activity = log in ACTIVITY_LOGS
            self._sightings[log] = (
                Sightings(ACTIVITY_REMEMBERED_MAX, ACTIVITY_REACH)
                if of_activity
                else Sightings(DELIVERIES_REMEMBERED_MAX, DELIVERIES_REACH)
            )
        self._sightings[log].note(happening.subject, offset, gone=not new)
        return False not in known if new else not gone

    def _position_in(self, log: Log, offset: int, number: int, cut: Mapping[Log, int]) -> str:
        """After the `number`th happening of this message."""
        if log == self.log:
            deliveries = (Place(offset, offset - self._oldest(log, offset)), number)
            return self._text(deliveries, self._places_at(cut, {}))
        return self._text(self._deliveries_at(cut), self._places_at(cut, {log: offset + 1}))

    def _deliveries_at(self, cut: Mapping[Log, int]) -> tuple[Place, int]:
        """His place in the deliveries log, and what was told of the message there."""
        start, reached = self._places[self.log].offset, cut.get(self.log, 0)
        offset, told = (reached, 0) if reached > start else (start, self._told)
        return Place(offset, offset - self._oldest(self.log, offset)), told

    def _places_at(self, cut: Mapping[Log, int], further: Mapping[Log, int]) -> tuple[Place, ...]:
        if not self.celebrities:
            return ()
        offsets = {log: max(self._places[log].offset, further.get(log, cut.get(log, 0))) for log in ACTIVITY_LOGS}
        return tuple(Place(offset, offset - self._oldest(log, offset)) for log, offset in offsets.items())

    def _oldest(self, log: Log, offset: int) -> int:
        met = self._sightings.get(log)
        return offset if met is None else met.oldest(offset)

    def _text(self, deliveries: tuple[Place, int], activity: tuple[Place, ...]) -> str:
        place, told = deliveries
        return str(Position(self._incarnation, self._audience, place, told, self.reload_after, activity))
