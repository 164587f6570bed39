"""counters: likes from the reactions log, and retweets and replies by the activity log, into the database and the
clusters.

Input: both logs. Output: rows of likes and counts (fold.py), counts in Redis (folded_nodes.py). One process is active,
by an advisory lock; were there two, fold.py's compare and set would let one of them write. It holds nothing that the
next one needs. Next: consumers/api.py shows them.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import replace

import sqlalchemy as sa
import structlog
from confluent_kafka import Message

from infra import metrics
from infra.advisory_lock import AdvisoryLock, LockClass
from infra.counts import SHARD
from infra.dead_letters import DeadLetter, DeadLetters, Stage, class_name
from infra.errors import DependencyError, Superseded, Undecodable
from infra.events import ActivityType, decode_activity
from infra.health import Health, State
from infra.kafka_logs import ENDS_TIMEOUT_S, retentions_ms
from infra.reactions import Reaction, decode_reaction
from infra.readiness import EXIT_NOT_AGAIN
from infra.redis_clusters import RedisClusters
from infra.topics import MESSAGE_BYTES_MAX, REACTIONS
from infra.worked_logs import refuse_lost_reactions
from streams.dead_letter_share import DeadLetterShare
from streams.fold import FOLDED, Batch, FoldState, Place, Touched, fold, last_words, read_state, read_touched
from streams.fold_start import ASK_TIMEOUT_S, as_seen, begin, read_logs
from streams.folded_logs import FoldedLogs
from streams.folded_nodes import FoldedNodes

AGENT = "counters"
RETRY_S = 0.5
STORED_EVERY_ROUNDS = 4  # how far was read without effect is stored with the next fold, or a second later
# One round of a healthy process: Kafka's answers about both logs, dead letters, and a fold that waits for a lock.
ROUND_S = 3 * ASK_TIMEOUT_S + 2 * ENDS_TIMEOUT_S + 20.0
NAMES_TWEET = (ActivityType.POSTED, ActivityType.DELETED)

log = structlog.get_logger()


def gather(messages: Sequence[Message]) -> tuple[Batch, list[DeadLetter]]:
    """What a batch of messages says, and those reactions that cannot be read. An event of an author that cannot be read
    is fan_out's to bury."""
    reactions, named, letters = list[Reaction](), set[int](), list[DeadLetter]()
    for message in messages:
        try:
            if len(message.value() or b"") > MESSAGE_BYTES_MAX:
                raise Undecodable(f"the message has {len(message.value())} bytes; {MESSAGE_BYTES_MAX} are the most")
            if message.topic() == REACTIONS.name:
                reactions.append(decode_reaction(message.value()))
            else:
                event = decode_activity(message.value())
                named |= {event.other_id} if event.type in NAMES_TWEET else set()
        except Undecodable as error:
            if message.topic() == REACTIONS.name:
                letters.append(letter_of(message, error))
    return Batch(last_words(reactions), frozenset(named)), letters


def ahead(read: Mapping[Place, int], state: FoldState) -> dict[Place, int]:
    """How far was read where that is further than what is folded. A transaction's marker behind the last message counts
    as read: else a log that was idle for as long as its retention would seem to have lost something."""
    return {place: offset for place, offset in read.items() if offset > state.next_offsets[place]}


def letter_of(message: Message, reason: Undecodable) -> DeadLetter:
    """A reaction that cannot be read, as a dead letter."""
    return DeadLetter(
        topic=message.topic(),
        partition=message.partition(),
        offset=message.offset(),
        timestamp_ms=message.timestamp()[1],
        key=message.key(),
        value=message.value(),
        headers=list(message.headers() or []),
        agent=AGENT,
        stage=Stage.DECODE,
        executing_class=class_name(Counters),
        reason=reason,
    )


class Counters:
    """Folds until it is told to stop."""

    def __init__(
        self, engine: sa.Engine, clusters: RedisClusters, database_url: str, bootstrap: str, share_max: float
    ) -> None:
        self._engine = engine
        self._bootstrap = bootstrap
        self._nodes = FoldedNodes(clusters)
        self._lock = AdvisoryLock(database_url, LockClass.COUNTERS, SHARD)
        self._letters = DeadLetters(bootstrap)
        self._share = DeadLetterShare(share_max)
        self._rounds = 0  # that read something without an effect since the last fold
        self._alive: Callable[[], None] = lambda: None

    def run(self, stop: threading.Event, health: Health) -> None:
        """Waits for the lock, folds while it is ours and the servers answer, and starts again."""
        beat = health.loop("the folding", ROUND_S)
        health.describe_by(lambda: {"nodes_away": self._nodes.away})

        def alive() -> None:
            beat()
            self._lock.show_alive()

        self._alive = alive
        try:
            while not stop.is_set():
                beat()
                try:
                    self._fold_if_owned(stop, health)
                except (DependencyError, Superseded) as error:
                    self._lock.give_back()
                    log.warning("counters wait", error=str(error))
                    health.enter(State.WAITING, f"counters wait: {type(error).__name__}")
                stop.wait(RETRY_S)
        finally:
            self._lock.give_back()

    def _fold_if_owned(self, stop: threading.Event, health: Health) -> None:
        if not self._lock.try_take():
            health.enter(State.STANDBY)
            return
        state, logs_now = read_state(self._engine), read_logs(self._bootstrap)
        refuse_lost_reactions(*as_seen(state, logs_now))
        state = begin(self._engine, state, logs_now, self._alive)
        log.info("counters fold", fold=state.fold)
        self._nodes.tell(state.fold, state.fold, {})
        with closing(FoldedLogs(self._bootstrap, state.next_offsets)) as logs:
            self._rounds, retentions = 0, retentions_ms(self._bootstrap, FOLDED)
            while not stop.is_set():
                self._alive()
                messages = logs.read()
                state = self.step(state, messages, logs.positions.read)
                self._show_lag(logs, messages, retentions)
                health.enter(State.SERVING)

    def step(self, state: FoldState, messages: Sequence[Message], read: Mapping[Place, int]) -> FoldState:
        """Folds what was read, which goes up to these offsets; the state after it.

        A crash before the commit brings the messages again. After it they do not come again, and the nodes, which have
        not heard of the fold, forget their counts when the next process tells them where it begins.
        """
        batch, letters = gather(messages)
        self._bury(sum(message.topic() == REACTIONS.name for message in messages), letters)
        touched = read_touched(self._engine, batch.named, self._alive)
        batch = replace(batch, next_offsets=ahead(read, state))
        if self._has_effect(batch, touched):
            folded = fold(self._engine, state, batch, touched)
            self._nodes.tell(state.fold, folded.state.fold, folded.counts)
            self._rounds, state = 0, folded.state
        else:
            self._nodes.tell_now_and_then(state.fold)
        for topic in FOLDED:
            metrics.FOLDED.labels(topic.name).inc(sum(message.topic() == topic.name for message in messages))
        return state

    def _has_effect(self, batch: Batch, touched: Touched) -> bool:
        """Whether there is something to write now; where a log stands is worth a fold only now and then."""
        if batch.words or touched.counted or touched.dead:
            return True
        self._rounds += bool(batch.next_offsets)
        return self._rounds >= STORED_EVERY_ROUNDS

    def _bury(self, reactions: int, letters: Sequence[DeadLetter]) -> None:
        """Before the fold that goes past them: a crash in between doubles a letter at worst."""
        refusal = self._share.refuses(reactions, len(letters))
        if refusal is not None:
            log.critical("counters stop", reason=f"{refusal}, the last one at {letters[-1].place}")
            raise SystemExit(EXIT_NOT_AGAIN)
        if letters:
            self._letters.send(letters)

    def _show_lag(self, logs: FoldedLogs, messages: Sequence[Message], retentions: Mapping[str, int | None]) -> None:
        now_ms = time.time_ns() // 1_000_000
        for topic in FOLDED:
            lag, retention_ms = logs.positions.lag(topic.name), retentions[topic.name]
            metrics.COUNTERS_LAG.labels(topic.name).set(lag)
            oldest_ms = min((one.timestamp()[1] for one in messages if one.topic() == topic.name), default=now_ms)
            share = (now_ms - oldest_ms) / retention_ms if lag and retention_ms else 0
            metrics.COUNTERS_LAG_OF_RETENTION.labels(topic.name).set(max(share, 0))
