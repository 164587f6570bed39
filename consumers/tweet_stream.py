"""`TweetStream`: the activity of all authors as typed events, for other teams to build on.

    options = StreamOptions(group="mentions", only=Filter(text="@ann"))
    with TweetStream(bootstrap, options, stores.bodies) as stream:
        stream.stop_on_signals()
        stream.run(notify)

Every event is handled at least once, and those of one author in order; a handler makes its effect idempotent by
`partition` and `offset`. What a replay has sent is left out. Members of a group share the partitions. Reading, waiting
and committing happen in the calls of whoever iterates; what is read ahead is one batch here and up to 16 MiB in
librdkafka.
Next: tweet_stream_reading.py, tweet_stream_handling.py.
"""

import asyncio
import signal
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from random import SystemRandom
from typing import Any, Self, TypeVar

from consumers.tweet_stream_events import Event
from consumers.tweet_stream_handling import AWAY, Handle, Retries, handled
from consumers.tweet_stream_letters import GroupLetters
from consumers.tweet_stream_options import Commit, StreamHealth, StreamOptions
from consumers.tweet_stream_reading import EventReader, Item, warn_unreadable
from infra.errors import Closed, DependencyError, InvalidInput, KafkaUnavailable, Undecodable
from infra.group_member import GroupMember
from infra.tweet_bodies import TweetBodies

POLL_S = 0.2  # a stop is noticed within it
READ_MESSAGES_MAX = 5_000  # looked at together: some milliseconds of work
BATCH_EVENTS_MAX = 500
COMMIT_EVERY_S = 1.0  # what a kill may repeat

T = TypeVar("T")


class _Stopped(Exception):
    """Raised when the stream is stopped while it waits."""


class TweetStream:
    """Events of the activity log. One thread, or one task, iterates; `stop`, `lag` and `health` are for any thread.

    `bodies` (`stores.bodies`) gives posted events their tweets; a filter by text needs it. Raises `InvalidInput` for an
    offset that the log does not have, `NotFound` without the topic, `KafkaUnavailable`. Iterating raises `PositionLost`
    when the log no longer has what comes next: nothing is skipped, see `reset_group`; and `KafkaUnavailable` when the
    broker does not say where a partition goes on that it hands out. While a server is away it waits otherwise.
    """

    def __init__(self, bootstrap: str, options: StreamOptions | None = None, bodies: TweetBodies | None = None) -> None:
        self._options = options or StreamOptions()
        self._reader = EventReader(self._options.only, bodies, self._note_unreadable, self._patiently)
        self._letters = GroupLetters(bootstrap, self._options.topic, self._options.group or "")
        self._buffer: deque[Item] = deque()
        self._given: dict[int, int] = {}  # the offset handed out last of each partition
        self._open: list[Item] = []  # handed out last, and not processed yet
        self._failure: BaseException | None = None
        self._lock = threading.RLock()  # held while reading, waiting and committing, by whoever iterates or closes
        self._stopped = False  # no threading.Event: a signal's handler must not wait for a lock
        self._closed = False
        self._commit_due_s = time.monotonic() + COMMIT_EVERY_S
        self._health = StreamHealth()
        self._member = GroupMember(
            bootstrap,
            self._options.topic,
            self._options.group,
            self._options.start,
            self._forget,
            lambda: self._stopped,
            follow=self._options.follow,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.to_thread(self.close)

    def __iter__(self) -> Iterator[Event]:
        """One event after the other, until the stream is stopped, or at the end when it does not follow. Who begins to
        iterate anew gets once more what he was working on when he broke off."""
        self._give_again()
        while self._ready():
            [item] = self._taken(1)
            yield item.event
            self._finish([item.event])

    def batches(self, events_max: int = BATCH_EVENTS_MAX) -> Iterator[list[Event]]:
        """What there is, up to so many events at once and never none; processed when the next batch is asked for."""
        self._give_again()
        while self._ready():
            batch = [item.event for item in self._taken(events_max)]
            yield batch
            self._finish(batch)

    async def __aiter__(self) -> AsyncIterator[Event]:
        """The same as iterating, for coroutines."""
        self._give_again()
        while await self._ready_async():
            [item] = self._taken(1)
            yield item.event
            await self._finish_async([item.event])

    async def batches_async(self, events_max: int = BATCH_EVENTS_MAX) -> AsyncIterator[list[Event]]:
        """The same as `batches`, for coroutines."""
        self._give_again()
        while await self._ready_async():
            batch = [item.event for item in self._taken(events_max)]
            yield batch
            await self._finish_async(batch)

    def run(self, handle: Handle, retries: Retries | None = None) -> None:
        """Calls `handle` with each event until the stream is stopped. Needs a group.

        What it raises is tried again after waits with jitter, up to `retries.tries_max` times in all; then the event
        goes to `<topic>.<group>.dlq` and the next one is handled. A `DependencyError` is tried again without end. While
        it waits the stream stays in its group. An event whose handling was broken off by a stop, or whose partition
        went to another member in a wait, is not processed and comes again.
        """
        if self._options.group is None:
            raise InvalidInput("run needs a group, which dead letters are named after: StreamOptions(group=…)")
        self._give_again()
        while self._ready():
            [item] = self._taken(1)
            if handled(self, self._letters, item, handle, retries or Retries()):
                self._finish([item.event])

    def commit(self, event: Event | None = None) -> None:
        """Moves the group's place behind this event and those before it in its partition, or behind everything that
        was handed out. Raises `KafkaUnavailable`."""
        with self._lock:
            self._check_open()
            done = dict(self._given) if event is None else {event.partition: event.offset}
            for partition, offset in done.items():
                self._member.marks.finish(partition, offset)
            self._member.commit()

    def lag(self) -> dict[int, int]:
        """For each partition of this member, offsets between what is processed and the end of the log. They count
        transaction markers too, of which there is one for every few events; 0 says that nothing is left. Kafka is asked
        for the ends. Raises `KafkaUnavailable`."""
        return {} if self._closed else self._member.lag()

    def health(self) -> StreamHealth:
        """How it goes."""
        partitions = () if self._closed else tuple(self._member.marks.partitions)
        lag = None
        with suppress(KafkaUnavailable):
            lag = sum(self.lag().values())
        return replace(self._health, running=not self._stopped, partitions=partitions, lag=lag)

    def stop(self) -> None:
        """Iterating ends after the event that is being processed. For any thread, and for signals' handlers."""
        self._stopped = True

    def stop_on_signals(self) -> None:
        """SIGTERM and Ctrl-C stop the stream. Call it in the main thread."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.stop())

    def close(self) -> None:
        """Commits what was processed and leaves the group; what was not comes again, here or elsewhere."""
        self.stop()
        with self._lock:
            if not self._closed:
                self._closed = True
                self._buffer.clear()
                self._member.close()

    @property
    def stopped(self) -> bool:
        """Whether it is."""
        return self._stopped

    def wait(self, seconds: float, because: str) -> None:
        """Used by `run`: waits as a member of the group, and says in `health` what for."""
        with self._lock:
            self._health = replace(self._health, waiting_for=because)
            if not self._closed:
                self._member.wait(seconds)

    def still_has(self, event: Event) -> bool:
        """Used by `run`: whether the event is still this member's to process."""
        return self._member.marks.is_out(event.partition, event.offset)

    def note_buried(self) -> None:
        """Used by `run`."""
        self._health = replace(self._health, buried=self._health.buried + 1)

    def _taken(self, events_max: int) -> list[Item]:
        items = [self._buffer.popleft() for _ in range(min(max(events_max, 1), len(self._buffer)))]
        for item in items:
            self._given[item.event.partition] = item.event.offset
        self._open = items
        return items

    def _give_again(self) -> None:
        """What is not processed comes before what is behind it: to process that would count it as processed."""
        self._buffer.extendleft(reversed([item for item in self._open if self.still_has(item.event)]))
        self._open = []

    async def _ready_async(self) -> bool:
        """What a call that was cancelled has read stays in the buffer."""
        if self._buffer and not self._stopped:
            return True
        return await asyncio.to_thread(self._ready)

    def _ready(self) -> bool:
        """Whether an event is in the buffer, which it is waited for; False when the stream is stopped or at its end."""
        with self._lock:
            if self._failure is not None:
                raise Closed("the stream has ended with an error; open another one") from self._failure
            try:
                while not self._stopped and not self._buffer:
                    self._commit_when_due()
                    if not self._options.follow and self._member.is_at_end:
                        return False
                    self._take(self._member.read(POLL_S, READ_MESSAGES_MAX))
            except _Stopped:
                return False
            except BaseException as error:
                if self._stopped and isinstance(error, KafkaUnavailable):
                    return False  # a rebalance that was broken off
                self._failure = error  # what was read with it is nowhere: to go on would skip that
                raise
            return not self._stopped

    def _take(self, messages: Sequence[Any]) -> None:
        """What of these is wanted goes into the buffer. Nothing counts as read before that is done."""
        items, reports = self._reader.wanted(messages)
        for item in items:
            if item.event.partition in self._member.marks:  # it may have gone meanwhile
                self._member.marks.hand_out(item.event.partition, item.event.offset)
                self._buffer.append(item)
        self._member.note_read(messages)
        for report in reports:
            if said := self._member.note_error(report):
                self._health = replace(self._health, waiting_for=said)

    def _note_unreadable(self, message: Any, error: Undecodable) -> None:
        self._health = replace(self._health, unreadable=self._health.unreadable + 1)
        if self._options.group is None:
            warn_unreadable(message, error)
        elif message.partition() in self._member.marks:
            self._patiently(lambda: self._letters.bury_unreadable(message, error))

    def _patiently(self, call: Callable[[], T]) -> T:
        """The result, once the servers that it needs answer. Raises `_Stopped`."""
        for wait_s in AWAY.waits_s(SystemRandom()):
            try:
                return call()
            except DependencyError as error:
                self.wait(wait_s, str(error))
                if self._stopped:
                    raise _Stopped from None
        raise AssertionError

    def _finish(self, events: Sequence[Event]) -> None:
        self._open = []
        self._health = replace(self._health, events=self._health.events + len(events), waiting_for=None)
        if self._options.commit is Commit.BY_HAND:
            return
        with self._lock, suppress(_Stopped):
            for partition, offset in {event.partition: event.offset for event in events}.items():
                self._member.marks.finish(partition, offset)
            if self._options.commit is Commit.AFTER_EACH and not self._closed:
                self._patiently(self._member.commit)

    async def _finish_async(self, events: Sequence[Event]) -> None:
        if self._options.commit is Commit.AFTER_EACH:
            await asyncio.to_thread(self._finish, events)
        else:
            self._finish(events)

    def _commit_when_due(self) -> None:
        if self._options.commit is Commit.ON_ITS_OWN and time.monotonic() >= self._commit_due_s:
            self._patiently(self._member.commit)
            self._commit_due_s = time.monotonic() + COMMIT_EVERY_S

    def _forget(self, partitions: set[int]) -> None:
        """Somebody else is to process what waits here of these."""
        for partition in partitions:
            self._given.pop(partition, None)
        kept = [item for item in self._buffer if item.event.partition not in partitions]
        self._buffer.clear()
        self._buffer.extend(kept)

    def _check_open(self) -> None:
        if self._closed:
            raise Closed("the stream is closed; open another one")
