"""The feed of all streams of activity of a process: one thread reads the log while somebody listens.

A stream that is resumed first reads what it missed, with a reader of its own, and is handed over once it has read as
far as this thread. What a reader has read further, the feed leaves out. Next: activity_streams.py.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import structlog

from consumers.activity_listener import ActivityListener, Call, live_tweets, told_by
from consumers.activity_position import gap, start_of
from consumers.live_catch_up import SLOWEST_POLL_S, SLOWEST_S
from consumers.live_feed import READ_S, TOLD_TO_ONE_MAX
from consumers.live_frames import EventQueue, Reason, farewell, opening, with_id
from consumers.live_lag import STUCK_S, FeedLag, Stuck
from consumers.live_telling import patiently
from consumers.tweet_stream_filter import Filter
from infra import metrics
from infra.errors import Closed, PositionLost
from infra.log_reader import ACTIVITY_LOGS, Cut, Log, LogMessage, LogReader, LogWatch
from infra.tweet_bodies import TweetBodies

MARK_EVERY_S = 15.0  # where a stream is, for its heartbeat
IDLE_S = 10.0  # the thread goes on for so long when nobody listens
CATCH_UP_AT_ONCE = 4  # readers of the past, each with its own client of Kafka; who comes then waits
JOIN_S = 2.0
RETRY_AFTER_FAILURE_MS = 1_000

Post = Callable[[Sequence[Call]], None]  # returns when the event loop has made the calls

log = structlog.get_logger()


class ActivityFeed:
    """Safe to share between threads; close it once."""

    def __init__(self, bootstrap: str, bodies: TweetBodies, post: Post) -> None:
        self.stopped = threading.Event()
        self._bootstrap = bootstrap
        self._post = post
        self._tweets_of = lambda ids: patiently(partial(live_tweets, bodies, ids), self.stopped)
        self._watch = LogWatch(bootstrap)
        self._lock = threading.Lock()  # guards the listeners, the reader and its cut
        self._listeners: dict[EventQueue, ActivityListener] = {}
        self._left: list[EventQueue] = []
        self._arriving = 0
        self._reader: LogReader | None = None
        self._thread: threading.Thread | None = None
        # Apart, so that who begins now waits for nobody who takes what he missed slowly.
        self._openings = ThreadPoolExecutor(CATCH_UP_AT_ONCE, "activity-opening")
        self._arrivals = ThreadPoolExecutor(CATCH_UP_AT_ONCE, "activity-catch-up")

    def begin(self, only: Filter, position: tuple[str, Cut] | None, queue: EventQueue) -> None:
        """Returns at once; the stream's first event comes when it has begun. Raises `Closed`."""
        try:
            (self._arrivals if position else self._openings).submit(self._bring, only, position, queue)
        except RuntimeError:
            raise Closed("the streams of this process were closed") from None

    def leave(self, queue: EventQueue) -> None:
        """The stream of this queue has ended. On the event loop, so without the lock."""
        self._left.append(queue)

    def close(self) -> None:
        """Ends the threads."""
        self.stopped.set()
        self._openings.shutdown(wait=True, cancel_futures=True)
        self._arrivals.shutdown(wait=True, cancel_futures=True)
        if self._thread is not None:
            self._thread.join(JOIN_S)
        self._watch.close()

    def _bring(self, only: Filter, position: tuple[str, Cut] | None, queue: EventQueue) -> None:
        """What goes wrong ends the stream, with a hint to come again."""
        try:
            bounds = patiently(self._watch.bounds, self.stopped)
            begins, reason = start_of(position, bounds)
            listener = ActivityListener(only, queue, bounds.incarnation, begins)
            self._expect(bounds.ends)
            try:
                if position is None:
                    self._begin_now(listener)
                else:
                    first = listener.position(begins)
                    frames = [opening(first)] + ([with_id(first, gap(reason))] if reason else [])
                    self._post([partial(queue.put, frame) for frame in frames])
                    if self._take_over(listener, begins):
                        self._catch_up(listener)
            finally:
                self._expect_no_more()
        except Closed:
            self._end([queue])
        except PositionLost as error:
            log.warning("a stream of activity ends: it is resumed where that is possible", error=str(error))
            self._end([queue])
        except Exception:
            log.exception("a stream of activity could not begin")
            self._end([queue])

    def _begin_now(self, listener: ActivityListener) -> None:
        """The feed tells it from where it is. Under the lock, so that what happens once the client knows is told to it,
        and not before."""
        with self._lock:
            if self._reader is None:
                raise PositionLost("the feed of the streams of activity has ended")
            listener.begins = {one: max(at, self._reader.cut[one]) for one, at in listener.begins.items()}
            self._post([partial(listener.queue.put, opening(listener.position(listener.begins)))])
            self._listen(listener)

    def _catch_up(self, listener: ActivityListener) -> None:
        reader, stuck = LogReader(self._bootstrap, listener.begins), Stuck()
        try:
            while listener.queue.ended is None and (behind := self._take_over(listener, reader.cut)):
                if self.stopped.is_set():
                    raise Closed("the streams of this process were closed")
                if stuck.since(behind, time.monotonic()) > STUCK_S:
                    reader.renew()
                    stuck = Stuck()
                for part in batched(reader.read(READ_S)):
                    self._post(told_by(part, [listener], reader.cut, self._tweets_of))
                    until_s = time.monotonic() + SLOWEST_S
                    while listener.queue.half_full and time.monotonic() < until_s and not self.stopped.is_set():
                        self.stopped.wait(SLOWEST_POLL_S)
                        stuck = Stuck()  # nothing was read meanwhile
        finally:
            reader.close()

    def _take_over(self, listener: ActivityListener, reached: Cut) -> Cut:
        """The feed tells it from now on, from `reached`; unless the feed has read further: then where it has, with what
        was reached there."""
        with self._lock:
            if self._reader is None:
                raise PositionLost("the feed of the streams of activity has ended")
            if behind := {one: reached[one] for one, offset in self._reader.cut.items() if reached[one] < offset}:
                return behind
            listener.begins = dict(reached)
            self._listen(listener)
            return {}

    def _listen(self, listener: ActivityListener) -> None:
        """With the lock. Who is gone by now was taken out before he was in, and would stay for ever."""
        if listener.queue.ended is None:
            self._listeners[listener.queue] = listener

    def _expect(self, ends: Mapping[Log, int]) -> None:
        """Somebody comes: the thread runs until `_expect_no_more`, from these ends on if it did not run before."""
        with self._lock:
            if self._reader is None:
                self._reader = LogReader(self._bootstrap, {one: ends[one] for one in ACTIVITY_LOGS})
                self._thread = threading.Thread(target=self._run, args=(self._reader,), name="activity", daemon=True)
                self._thread.start()
            self._arriving += 1

    def _expect_no_more(self) -> None:
        with self._lock:
            self._arriving -= 1

    def _run(self, reader: LogReader) -> None:
        lag = FeedLag(self._watch, reader, metrics.ACTIVITY_STREAM_LAG)
        mark_s = idle_s = time.monotonic()
        try:
            while not self.stopped.is_set():
                messages = reader.read(READ_S)
                listening = max(self._tell(reader, part) for part in batched(messages) or [()])
                lag.look(messages)
                now_s = time.monotonic()
                if now_s - mark_s >= MARK_EVERY_S:
                    self._mark(reader)
                    mark_s = now_s
                if listening:
                    idle_s = now_s
                elif now_s - idle_s > IDLE_S and self._is_over(reader):
                    break
        except Closed:
            pass
        except PositionLost as error:
            log.warning("streams of activity end: they are resumed where that is possible", error=str(error))
        except Exception:
            log.exception("the feed of the streams of activity failed")
        finally:
            self._end_all(reader)

    def _tell(self, reader: LogReader, messages: Sequence[LogMessage]) -> int:
        """Returns how many listen. Who is taken over meanwhile begins at or behind the reader's cut, which has moved
        before the lock is free."""
        with self._lock:
            while self._left:
                self._listeners.pop(self._left.pop(), None)
            listeners = list(self._listeners.values())
            calls = told_by(messages, listeners, reader.cut, self._tweets_of) if messages else []
        if calls:
            self._post(calls)
            metrics.ACTIVITY_STREAM_EVENTS.inc(len(calls))
        return len(listeners)

    def _mark(self, reader: LogReader) -> None:
        with self._lock:
            marks = [partial(one.queue.mark, one.position(reader.cut)) for one in self._listeners.values()]
        self._post(marks)

    def _is_over(self, reader: LogReader) -> bool:
        with self._lock:
            if self._listeners or self._arriving:
                return False
            if self._reader is reader:
                self._reader = None
            return True

    def _end_all(self, reader: LogReader) -> None:
        """After an error the streams end too; when nobody listened, another thread may be at work by now."""
        left: list[EventQueue] = []
        with self._lock:
            if self._reader is reader:
                left, self._reader = list(self._listeners), None
                self._listeners = {}
        reader.close()
        metrics.ACTIVITY_STREAM_LAG.set(0)
        self._end(left)

    def _end(self, queues: Sequence[EventQueue]) -> None:
        self._post([partial(queue.end, Reason.STOPPING, farewell(RETRY_AFTER_FAILURE_MS)) for queue in queues])


def batched(messages: Sequence[LogMessage]) -> list[Sequence[LogMessage]]:
    """Runs of a quarter of a stream's queue, so that a burst alone does not fill it."""
    return [messages[start : start + TOLD_TO_ONE_MAX] for start in range(0, len(messages), TOLD_TO_ONE_MAX)]
