"""The feed of all streams of a process: one thread reads both logs while somebody listens.

A stream begins in live_catch_up.py, which reads the past for a group of them and hands them over here, once it has read
as far as this thread. Events go out by live_telling.py. Next: live_streams.py.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import structlog

from consumers.live_audience import Audience
from consumers.live_frames import EventQueue, Reason, farewell
from consumers.live_lag import FeedLag
from consumers.live_listener import Listener, Told
from consumers.live_telling import Payloads, Teller
from infra import metrics
from infra.celebrities import USERS_MAX
from infra.errors import Closed, DependencyError, PositionLost
from infra.log_reader import Cut, Log, LogMessage, LogReader, LogWatch

READ_S = 0.1  # for the first message of a read; a stop and the timed work below wait no longer
TOLD_AT_ONCE_MAX = 5_000  # events that are handed to the event loop in one go, and whose tweets are held meanwhile
TOLD_TO_ONE_MAX = 64  # of these to one stream: a quarter of its queue, so that a burst alone does not fill it
MARK_EVERY_S = 15.0  # where a stream is, for its heartbeat
APPLIED_EVERY_S = 0.25  # while somebody waits for a change of his follows to be in the copies
AGAIN_S = 2.0  # when Kafka did not say
CELEBRITIES_EVERY_S = 60.0  # what no record told of is known after so long
IDLE_S = 10.0  # the thread goes on for so long when nobody listens
JOIN_S = 2.0
RETRY_AFTER_FAILURE_MS = 1_000

Celebrities = Callable[[Sequence[int]], Mapping[int, frozenset[int]]]

log = structlog.get_logger()


class LiveFeed:
    """Reads the logs for those who have caught up. `lock` guards `cut` and who is in the audience."""

    def __init__(self, bootstrap: str, celebrities: Celebrities, payloads: Payloads, post: Callable[..., None]) -> None:
        self.bootstrap = bootstrap
        self.celebrities = celebrities
        self.stopped = threading.Event()
        self.watch = LogWatch(bootstrap)
        self.teller = Teller(payloads, post, self.stopped)
        self._lock = threading.Lock()
        self._audience = Audience()
        self._left: list[EventQueue] = []
        self._arriving = 0
        self._reader: LogReader | None = None
        self._thread: threading.Thread | None = None

    def expect(self, ends: Mapping[Log, int]) -> None:
        """Somebody catches up: the thread runs until `expect_no_more`, from these ends on if it did not run before."""
        with self._lock:
            if self._reader is None and not self.stopped.is_set():
                self._reader = LogReader(self.bootstrap, ends)
                self._thread = threading.Thread(target=self._run, args=(self._reader,), name="streams", daemon=True)
                self._thread.start()
            self._arriving += 1

    def expect_no_more(self) -> None:
        """Whoever caught up is here, or gone."""
        with self._lock:
            self._arriving -= 1

    def cut(self) -> Cut:
        """How far the thread has read. Raises `PositionLost` when it has ended with an error."""
        reader = self._reader
        if reader is None:
            raise PositionLost("the live feed has ended")
        return dict(reader.cut)

    def take_over(self, listeners: Sequence[Listener], reached: Cut) -> bool:
        """Tells these from now on, who were told what is before `reached`. False when this thread has read further."""
        with self._lock:
            cut = self.cut()
            if any(reached[log] < offset for log, offset in cut.items()):
                return False
            for listener in listeners:
                if listener.queue.ended is None:
                    listener.go_on_from(reached)
                    self._audience.add(listener)
            return True

    def leave(self, queue: EventQueue) -> None:
        """The stream of this queue has ended."""
        self._left.append(queue)

    def close(self) -> None:
        """Ends the thread."""
        self.stopped.set()
        if self._thread is not None:
            self._thread.join(JOIN_S)
        self.watch.close()

    def _run(self, reader: LogReader) -> None:
        timed = _Timed(self, reader)
        try:
            while not self.stopped.is_set() and not self._over(timed):
                messages = reader.read(READ_S)
                with self._lock:
                    work_off(reader, messages, self._audience, self.teller)
                timed.work(messages)
        except Closed:
            pass
        except PositionLost as error:
            log.warning("streams end: they are resumed where that is possible", error=str(error))
        except Exception:
            log.exception("the feed of the streams failed")
        finally:
            self._end(reader)

    def _over(self, timed: "_Timed") -> bool:
        """Whether nobody listens; who comes after that starts another thread."""
        with self._lock:
            while self._left:
                self._audience.discard(self._left.pop())
            if self._arriving or len(self._audience) or timed.idle_s() < IDLE_S:
                return False
            self._reader = None
            return True

    def _end(self, reader: LogReader) -> None:
        """After an error the streams end too; when nobody listened, another thread may be at work by now."""
        left: list[EventQueue] = []
        with self._lock:
            if self._reader is reader:
                left = [listener.queue for listener in self._audience]
                self._audience, self._reader = Audience(), None
        reader.close()
        metrics.STREAM_LAG.set(0)
        end_streams(left, self.teller)

    def mark(self, cut: Cut) -> None:
        """Says to each stream where it is, for its next heartbeat."""
        with self._lock:
            marks = [partial(one.queue.mark, one.position(cut)) for one in self._audience]
        self.teller.post(marks)

    def tell_reloads(self, cut: Cut) -> None:
        """Those whose follows changed, once the copies have it."""
        with self._lock:
            logs = {listener.log for listener in self._audience.waiting}
        if not logs:
            return
        applied = self.watch.applied(logs)
        told: list[tuple[Listener, Told]] = []
        with self._lock:
            for listener in list(self._audience.waiting):
                if reload := listener.reload(cut, applied):
                    told.append((listener, reload))
                    self._audience.update(listener)
        self.teller.tell(told)

    def refresh(self, user_ids: Sequence[int], cut: Cut) -> None:
        """Takes over whom of the celebrities these users follow by the database, which is ahead of the logs."""
        found = self.celebrities(user_ids)
        told: list[tuple[Listener, Told]] = []
        with self._lock:
            for listener in self._audience:
                if listener.user_id in found and (reload := listener.follow_only(found[listener.user_id], cut)):
                    told.append((listener, reload))
                    self._audience.update(listener)
        self.teller.tell(told)

    @property
    def size(self) -> int:
        """How many streams are live."""
        return len(self._audience)

    def user_ids(self) -> list[int]:
        """Who listens."""
        with self._lock:
            return sorted({listener.user_id for listener in self._audience})


class _Timed:
    """What the feed's thread does beside reading, each now and then. Errors of servers leave it for the next time."""

    def __init__(self, feed: LiveFeed, reader: LogReader) -> None:
        self._feed = feed
        self._reader = reader
        now_s = time.monotonic()
        self._due_s = {"mark": now_s, "applied": now_s, "celebrities": now_s + CELEBRITIES_EVERY_S}
        self._to_refresh: list[int] = []
        self._lag = FeedLag(feed.watch, reader)
        self._somebody_s = now_s

    def idle_s(self) -> float:
        """For how long nobody has listened."""
        return time.monotonic() - self._somebody_s

    def work(self, messages: Sequence[LogMessage]) -> None:
        if self._feed.size:
            self._somebody_s = time.monotonic()
        try:
            if self._is_due("mark", MARK_EVERY_S):
                self._feed.mark(self._reader.cut)
            if self._is_due("applied", APPLIED_EVERY_S):
                self._feed.tell_reloads(self._reader.cut)
            self._refresh_some()
        except DependencyError as error:
            log.warning("streams wait for a server", error=str(error))
            self._due_s["applied"] = time.monotonic() + AGAIN_S
        self._lag.look(messages)

    def _refresh_some(self) -> None:
        """A batch of users a time, so that events are not held up for long."""
        if not self._to_refresh and self._is_due("celebrities", CELEBRITIES_EVERY_S):
            self._to_refresh = self._feed.user_ids()
        batch, self._to_refresh = self._to_refresh[:USERS_MAX], self._to_refresh[USERS_MAX:]
        if batch:
            self._feed.refresh(batch, self._reader.cut)

    def _is_due(self, what: str, every_s: float) -> bool:
        now_s = time.monotonic()
        if now_s < self._due_s[what]:
            return False
        self._due_s[what] = now_s + every_s
        return True


def work_off(reader: LogReader, messages: Sequence[LogMessage], audience: Audience, teller: Teller) -> None:
    """Tells what these messages tell, in their order, and moves the reader's cut behind each of them."""
    told: list[tuple[Listener, Told]] = []
    of_one: dict[Listener, int] = {}
    for message in messages:
        if message.value is not None:
            for listener, one in audience.told(message, reader.cut):
                told.append((listener, one))
                of_one[listener] = of_one.get(listener, 0) + 1
                if len(told) >= TOLD_AT_ONCE_MAX or of_one[listener] >= TOLD_TO_ONE_MAX:
                    teller.tell(told)
                    told, of_one = [], {}
        reader.cut[message.log] = message.next_offset
    teller.tell(told)


def end_streams(queues: Sequence[EventQueue], teller: Teller) -> None:
    """Ends these streams with a hint to come again, which they do with their position."""
    last = farewell(RETRY_AFTER_FAILURE_MS)
    teller.post([partial(queue.end, Reason.STOPPING, last) for queue in queues])
