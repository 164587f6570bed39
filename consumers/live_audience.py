"""Who listens, found by what a message names: his user id, or a celebrity whom he follows.

Not safe for several threads. One for the streams that are live, one for each group that catches up.
Next: live_match.py.
"""

from collections.abc import Iterator, Mapping

import structlog

from consumers.live_frames import EventQueue
from consumers.live_listener import Listener, Told
from consumers.live_match import Happening, happenings, sorted_ids
from infra.errors import Undecodable
from infra.events import ActivityType, DeliveryKind, decode_activity, decode_deliveries
from infra.log_reader import DELIVERY_LOGS, Log, LogMessage
from infra.slots import Ids

OF_ACTIVITY = {ActivityType.POSTED: DeliveryKind.DELIVER, ActivityType.DELETED: DeliveryKind.RETRACT}

log = structlog.get_logger()


class Audience:
    """Listeners by user and by followed celebrity."""

    def __init__(self) -> None:
        self._members: dict[EventQueue, Listener] = {}
        self._by_user: dict[Log, dict[int, list[Listener]]] = {one: {} for one in DELIVERY_LOGS}
        self._ids: dict[Log, Ids | None] = dict.fromkeys(DELIVERY_LOGS)
        self._by_author: dict[bytes, set[Listener]] = {}
        self._indexed: dict[Listener, frozenset[int]] = {}
        self.waiting: set[Listener] = set()  # for a change of their follows to be in the copies

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Listener]:
        return iter(list(self._members.values()))

    def add(self, listener: Listener) -> None:
        """He hears from now on."""
        self._members[listener.queue] = listener
        self._by_user[listener.log].setdefault(listener.user_id, []).append(listener)
        self._ids[listener.log] = None
        self.update(listener)

    def discard(self, queue: EventQueue) -> None:
        """The listener of this queue hears no more."""
        listener = self._members.pop(queue, None)
        if listener is None:
            return
        of_log = self._by_user[listener.log]
        of_log[listener.user_id].remove(listener)
        if not of_log[listener.user_id]:
            del of_log[listener.user_id]
        self._ids[listener.log] = None
        self._unindex(listener)
        self.waiting.discard(listener)

    def update(self, listener: Listener) -> None:
        """Takes over whom of the celebrities he follows now, and whether he waits."""
        if listener.reload_after is not None:
            self.waiting.add(listener)
        else:
            self.waiting.discard(listener)
        if self._indexed.get(listener) == listener.celebrities:
            return
        self._unindex(listener)
        self._indexed[listener] = listener.celebrities
        for author_id in listener.celebrities:
            self._by_author.setdefault(_key(author_id), set()).add(listener)

    def told(self, message: LogMessage, cut: Mapping[Log, int]) -> Iterator[tuple[Listener, Told]]:
        """What a message tells to whom."""
        for listener, happened in self._heard(message):
            for told in listener.hear(message.log, message.offset, happened, cut):
                yield listener, told
            self.update(listener)

    def remember(self, message: LogMessage) -> None:
        """Gives a message to those who need to know what a stream before theirs met."""
        for listener, happened in self._heard(message):
            listener.remember(message.log, message.offset, happened)

    def _heard(self, message: LogMessage) -> Iterator[tuple[Listener, list[Happening]]]:
        try:
            if message.log in self._by_user:
                yield from self._of_deliveries(message)
            else:
                yield from self._of_activity(message)
        except Undecodable as error:  # an agent buries it
            log.warning("message not readable for streams", log=message.log, offset=message.offset, error=str(error))

    def _of_deliveries(self, message: LogMessage) -> Iterator[tuple[Listener, list[Happening]]]:
        by_user = self._by_user[message.log]
        if not by_user:
            return
        ids = self._ids[message.log]
        if ids is None:
            ids = self._ids[message.log] = sorted_ids(by_user)
        for user_id, happened in happenings(decode_deliveries(message.value), ids).items():
            for listener in by_user[user_id]:
                yield listener, happened

    def _of_activity(self, message: LogMessage) -> Iterator[tuple[Listener, list[Happening]]]:
        followers = self._by_author.get(message.key or b"")
        if not followers or message.replayed:
            return
        event = decode_activity(message.value)
        if event.type in OF_ACTIVITY:
            happened = [Happening(OF_ACTIVITY[event.type], event.other_id, False)]
            for listener in list(followers):
                yield listener, happened

    def _unindex(self, listener: Listener) -> None:
        for author_id in self._indexed.pop(listener, ()):
            followers = self._by_author[_key(author_id)]
            followers.discard(listener)
            if not followers:
                del self._by_author[_key(author_id)]


def _key(author_id: int) -> bytes:
    """The author as the activity log's messages have him."""
    return str(author_id).encode()
