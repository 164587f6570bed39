"""A member of a consumer group, or a reader in no group: reads batches, and commits what was worked off.

Everything happens in the calls of one thread at a time. Partitions change hands one by one (cooperative), inside
`read`: by then the caller works on nothing of what he was given before, but what waits to be tried again. What is
revoked is committed as far as it is worked off, so the next owner repeats nothing of that.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from infra.errors import InvalidInput, KafkaUnavailable, PositionLost
from infra.kafka import GROUP
from infra.kafka_logs import PARTITION_END
from infra.log_ends import PartitionEnds
from infra.log_reader import FETCHED_KB_MAX, LOST_CODES, RECONNECT_WITHIN_MS
from infra.log_start import Start, start_offsets
from infra.read_marks import ReadMarks

SESSION_MS = 6_000  # after which a member that was killed loses its partitions: the least that brokers allow
HEARTBEAT_MS = 2_000
# Between two reads, so for working off one batch: a member that takes longer loses its partitions, and its batch comes
# again elsewhere. A wait between two tries is no such time, since it reads.
BATCH_WITHIN_MS = 300_000
FETCH_WAIT_MS = 100  # after which the broker says that there is nothing more: how late the end of a log is noticed
ANSWER_WITHIN_S = 5.0  # of the broker, for committed offsets and for a commit
ASK_AGAIN_S = 0.5
ASK_TRIES_MAX = 3  # in a rebalance; all together below the time that the group waits for a member
WAIT_POLL_S = 0.1
STOP_POLL_S = 0.05
STOPPED_WITHIN_S = 0.5  # of a stop a commit has to be answered, or nobody waits for it
# Who has asked to join is answered when all others have, or are given up, and cannot leave before.
LEAVE_WITHIN_S = 3.0
NOT_NOW_CODES = (  # a commit that is tried again with the next one, or is not ours to make any more
    KafkaError.REBALANCE_IN_PROGRESS,
    KafkaError.ILLEGAL_GENERATION,
    KafkaError.UNKNOWN_MEMBER_ID,
    KafkaError._NO_OFFSET,  # noqa: SLF001
)


class GroupMember:
    """Not safe for several threads at once; close it once. `on_revoke` is told which partitions are not ours any more;
    waits are cut short once `is_stopped`.

    Raises `InvalidInput`, `NotFound` and `KafkaUnavailable` when it cannot begin where `start` says.
    """

    def __init__(
        self,
        bootstrap: str,
        topic: str,
        group: str | None,
        start: Start,
        on_revoke: Callable[[set[int]], None],
        is_stopped: Callable[[], bool],
        *,
        follow: bool = True,
    ) -> None:
        self.marks = ReadMarks()
        self._topic = topic
        self._group = group
        self._on_revoke = on_revoke
        self._is_stopped = is_stopped
        self._committing: threading.Thread | None = None  # Kafka may not have answered yet
        self._at_end: set[int] = set()
        self._held: list[Any] = []  # what came in a wait
        self._waiting = False
        self._ends = PartitionEnds(bootstrap)
        self._consumer = Consumer(_config(bootstrap, group))
        try:
            self._starts = self._beginnings(start)
            # Of a busy log no end is ever reported: each fetch has something.
            self._last = {} if follow else start_offsets(self._consumer, topic, Start.now())
        except BaseException:
            self._consumer.close()
            raise
        self._joined = False

    @property
    def is_at_end(self) -> bool:
        """Whether all of this member's partitions were read to their ends, or to where these were when it began, if it
        does not follow; never for one that has none."""
        partitions = self.marks.partitions
        return bool(partitions) and all(
            one in self._at_end or (one in self._last and self.marks.was_read_past(one, self._last[one]))
            for one in partitions
        )

    def _beginnings(self, start: Start) -> dict[int, int]:
        """Offsets that the log no longer has do no harm where the group has a place by now."""
        try:
            return start_offsets(self._consumer, self._topic, start)
        except InvalidInput:
            named = [TopicPartition(self._topic, one) for one in start.by_partition]
            if self._group is None or any(one.offset < 0 for one in self._committed(self._consumer, named)):
                raise
        return start_offsets(self._consumer, self._topic, Start.now()) | dict(start.by_partition)

    def read(self, timeout_s: float, count_max: int) -> list[Any]:
        """Messages, and reports of the end of a partition (`error()`), of partitions that may be revoked by now. Waits
        for the first one. Raises `PositionLost` when the log lacks the offset."""
        if not self._joined:
            self._join()
        if self._held:
            held, self._held = self._held, []
            return held
        first = self._consumer.poll(timeout_s)
        if first is None:
            return []
        return [first, *self._consumer.consume(count_max - 1, 0)] if count_max > 1 else [first]

    def _join(self) -> None:
        """With the first read and not before: the others wait for a member that has joined and does not read."""
        self._joined = True
        if self._group is None:
            self._take(self._starts)
            self._consumer.assign([TopicPartition(self._topic, one, at) for one, at in self._starts.items()])
        else:
            self._consumer.subscribe(
                [self._topic], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._lost
            )

    def note_read(self, messages: Sequence[Any]) -> None:
        """After those of interest were handed out: all of these were read."""
        for partition, last in {message.partition(): message for message in messages}.items():
            if last.error() is None:
                self.marks.read(partition, last.offset() + 1)
                self._at_end.discard(partition)

    def note_error(self, message: Any) -> str | None:
        """A report instead of a message: what it says when it is worth telling. The end of a partition lies behind
        transaction markers. Raises `PositionLost`, and `KafkaUnavailable` for what the client does not get over."""
        error, partition = message.error(), message.partition()
        if error.code() == PARTITION_END:
            self.marks.read(partition, message.offset())
            if self.marks.was_read_to(partition, message.offset()):  # and nothing came behind it meanwhile
                self._at_end.add(partition)
            return None
        if error.code() in LOST_CODES:
            raise PositionLost(
                f"{self._topic} {partition} does not have the offset where reading goes on ({error.str()}): it is past "
                "the topic's retention, or the topic was made anew. Nothing was skipped; say where to begin with "
                "reset_group"
            )
        if error.fatal():
            raise KafkaUnavailable(f"reading {self._topic} has ended: {error.str()}")
        text: str = error.str()
        return text

    def commit(self) -> None:
        """Commits what is worked off. Does nothing in no group, and what the broker refuses because of a rebalance is
        left for later or for the next owner. Raises `KafkaUnavailable`.

        The client may wait for a broker that is away for a minute, and a stop does not wait for that: the commit goes
        on in its thread then.
        """
        if self._group is None:
            return
        failure: list[Exception] = []

        def commit() -> None:
            try:
                self._commit_done()
            except Exception as error:  # noqa: BLE001 - it is raised below
                failure.append(error)

        # What is under way is of an earlier call, and has neither the newest offsets nor anybody to tell a failure.
        if self._has_committed(ANSWER_WITHIN_S):
            self._committing = threading.Thread(target=commit, name="commit", daemon=True)
            self._committing.start()
            if self._has_committed(ANSWER_WITHIN_S):
                if failure:
                    raise failure[0]
                return
        raise KafkaUnavailable(f"offsets of group {self._group} are not committed: Kafka does not answer")

    def _has_committed(self, within_s: float) -> bool:
        """Whether no commit is under way any more. It is waited for, and not for long once the member is stopped."""
        while self._committing is not None and self._committing.is_alive() and within_s > 0:
            self._committing.join(STOP_POLL_S)
            within_s = min(within_s, STOPPED_WITHIN_S if self._is_stopped() else within_s) - STOP_POLL_S
        return self._committing is None or not self._committing.is_alive()

    def _commit_done(self, partitions: Sequence[int] | None = None) -> None:
        offsets = self.marks.to_commit(partitions)
        if offsets:
            self._commit(offsets)

    def wait(self, seconds: float) -> None:
        """Waits as a member of the group: partitions may be revoked meanwhile. Returns early when stopped."""
        deadline_s = time.monotonic() + seconds
        if not self._has_committed(seconds):  # asked by another thread meanwhile, the client answers neither
            return
        self._waiting = True
        self._consumer.pause(self._consumer.assignment())
        try:
            while not self._is_stopped() and (left_s := deadline_s - time.monotonic()) > 0:
                message = self._consumer.poll(min(left_s, WAIT_POLL_S))
                if message is not None:
                    self._held.append(message)
        finally:
            self._waiting = False
            self._consumer.resume(self._consumer.assignment())

    def lag(self) -> dict[int, int]:
        """Offsets between what is worked off and the end of each partition, which Kafka is asked for. For any thread;
        the consumer itself must not be asked by another one than that which reads: it can stand still for good then.
        Raises `KafkaUnavailable`."""
        done = self.marks.done()
        if not done:
            return {}
        ends = self._ends.of(self._topic, done)
        return {partition: max(ends[partition] - offset, 0) for partition, offset in done.items()}

    def close(self) -> None:
        """Leaves the group after committing what is worked off. What cannot be committed comes again.

        Returns after `LEAVE_WITHIN_S` at the latest: a broker that is away is not waited for, nor are others by whom a
        rebalance is held up; leaving goes on behind it then, and the process may end.
        """
        leaving = threading.Thread(target=self._leave, name="leave-group", daemon=True)
        leaving.start()
        leaving.join(LEAVE_WITHIN_S)

    def _leave(self) -> None:
        with suppress(KafkaUnavailable, KafkaException):
            self.commit()
        with suppress(KafkaException):
            self._consumer.close()

    def _commit(self, offsets: Mapping[int, int]) -> None:
        # A crash before this brings the same events again, after it the ones behind them.
        places = [TopicPartition(self._topic, one, offset) for one, offset in offsets.items()]
        try:
            self._consumer.commit(offsets=places, asynchronous=False)
        except KafkaException as error:
            if error.args[0].code() in NOT_NOW_CODES:
                return
            raise KafkaUnavailable(
                f"offsets of group {self._group} are not committed: {error.args[0].str()}"
            ) from error
        self.marks.note_committed(dict(offsets))

    def _take(self, offsets: Mapping[int, int]) -> None:
        for partition, offset in offsets.items():
            self.marks.assign(partition, offset)
            self._at_end.discard(partition)

    def _assigned(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        committed = self._committed(consumer, partitions)
        begun = {one.partition: one.offset for one in committed if one.offset >= 0}
        new = {one.partition: self._start_of(one.partition) for one in committed if one.offset < 0}
        self._take(begun | new)
        placed = [TopicPartition(self._topic, one, offset) for one, offset in (begun | new).items()]
        consumer.incremental_assign(placed)
        if self._waiting:
            consumer.pause(placed)
        if new:  # else who takes over before the first commit would begin at a later end, and skip what was between
            with suppress(KafkaUnavailable):
                self._commit(new)

    def _start_of(self, partition: int) -> int:
        """A partition that was added since this member began is read from its beginning."""
        return self._starts.get(partition, 0)

    def _committed(self, consumer: Consumer, partitions: list[TopicPartition]) -> list[TopicPartition]:
        for number in range(ASK_TRIES_MAX):
            try:
                found: list[TopicPartition] = consumer.committed(partitions, ANSWER_WITHIN_S)
                # An error of a single partition comes as one without a place, and must not pass for that.
                if wrong := next((one.error for one in found if one.error is not None), None):
                    raise KafkaException(wrong)
                return found
            except KafkaException as error:
                if number < ASK_TRIES_MAX - 1 and not self._is_stopped():
                    time.sleep(ASK_AGAIN_S)
                else:
                    raise KafkaUnavailable(
                        f"Kafka does not say where group {self._group} goes on: {error.args[0].str()}"
                    ) from error
        raise AssertionError

    def _revoked(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        numbers = [one.partition for one in partitions]
        with suppress(KafkaUnavailable):  # then the next owner repeats what was not committed
            self._commit_done(numbers)
        self._drop(consumer, partitions)

    def _lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        """They may be somebody else's since long, so nothing is committed."""
        self._drop(consumer, partitions)

    def _drop(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        numbers = {one.partition for one in partitions}
        self.marks.revoke(numbers)
        self._held = [message for message in self._held if message.partition() not in numbers]
        self._on_revoke(numbers)
        consumer.incremental_unassign(partitions)


def _config(bootstrap: str, group: str | None) -> dict[str, str | int | bool]:
    return {
        "bootstrap.servers": bootstrap,
        "group.id": group or f"{GROUP}-reader",  # in no group it is only asked for by the client
        "partition.assignment.strategy": "cooperative-sticky",
        "session.timeout.ms": SESSION_MS,
        "heartbeat.interval.ms": HEARTBEAT_MS,
        "max.poll.interval.ms": BATCH_WITHIN_MS,
        "enable.auto.commit": False,
        "enable.auto.offset.store": False,
        "isolation.level": "read_committed",
        "auto.offset.reset": "error",
        "enable.partition.eof": True,
        "queued.max.messages.kbytes": FETCHED_KB_MAX,
        "fetch.wait.max.ms": FETCH_WAIT_MS,
        "reconnect.backoff.max.ms": RECONNECT_WITHIN_MS,
        "log_level": 3,  # errors
    }
