"""Where folding begins: the offsets that the last fold left, if the logs still have what comes next; if not, counts are
made anew from the tables, and a line in the log says what was lost.

Input: the state in the database, and what Kafka says of the two logs. Output: a state that both agree on.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import sqlalchemy as sa
import structlog
from confluent_kafka.admin import OffsetSpec

from infra.database import reading, transaction
from infra.kafka_logs import admin_client, kafka_errors, log_offsets, topic_ids
from infra.log_losses import Held, Seen
from infra.topics import ACTIVITY, Topic
from infra.worked_logs import need_logs
from streams.fold import FOLDED, FoldState, Place, raise_fold, recount, remove_likes, write_offsets

ASK_TIMEOUT_S = 10.0
RECOUNT_TWEETS = 5_000  # of one transaction: 0.1 s

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Log:
    """A topic as Kafka has it: its id, which another topic of the same name does not have, and what each partition
    holds, from the first offset to the one after the last."""

    id: str
    ranges: Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class Gap:
    """Messages of a partition, from the offset `first` on, that were never folded and are not there any more."""

    topic: str
    partition: int
    first: int
    why: str


@dataclass(frozen=True, slots=True)
class Start:
    """The state to go on from, what is missing before it, and whether there never was one."""

    state: FoldState
    gaps: Sequence[Gap]
    is_first: bool


def plan_start(state: FoldState, logs: Mapping[str, Log]) -> Start:
    """Compares what was folded with what the logs hold. A log that is read for the first time has no gap if it still
    has its first message, or if the tables say what it said (activity)."""
    next_offsets: dict[Place, int] = {}
    gaps = []
    for topic, found in logs.items():
        for partition, (low, high) in enumerate(found.ranges):
            place = topic, partition
            known = state.next_offsets.get(place)
            why = _why_gap(known, state.log_ids.get(topic), found.id, low, high)
            if known is None and topic == ACTIVITY.name:
                why = ""
            if why:
                gaps.append(Gap(topic, partition, known or 0, why))
            next_offsets[place] = low if why or known is None else known
    log_ids = {topic: found.id for topic, found in logs.items()}
    return Start(replace(state, next_offsets=next_offsets, log_ids=log_ids), gaps, not state.next_offsets)


def as_seen(state: FoldState, logs: Mapping[str, Log]) -> tuple[dict[Place, Seen], dict[Place, Held]]:
    """The same two as the guards of the logs take them."""
    seen = {place: Seen(state.log_ids[place[0]], offset) for place, offset in state.next_offsets.items()}
    held = {
        (topic, partition): Held(found.id, *range_)
        for topic, found in logs.items()
        for partition, range_ in enumerate(found.ranges)
    }
    return seen, held


def _why_gap(known: int | None, known_id: str | None, log_id: str, low: int, high: int) -> str:
    """Empty when there is none."""
    if known is None:
        return "its first messages are past their retention" if low > 0 else ""
    if known_id != log_id:
        return "the topic was made anew"
    if known < low:
        return f"offset {low} is the first that is not past its retention"
    return f"the log ends at offset {high}" if known > high else ""


def begin(engine: sa.Engine, state: FoldState, logs: Mapping[str, Log], alive: Callable[[], None]) -> FoldState:
    """The state to go on from. Where something is missing, all counts are made anew first, by folds that no node hears
    of: so every node has missed some, and forgets its counts. Raises `Superseded`."""
    start = plan_start(state, logs)
    if not start.gaps and start.state.next_offsets == state.next_offsets:
        return start.state
    for gap in start.gaps:
        log.error(
            "messages were lost before they were folded",
            topic=gap.topic,
            partition=gap.partition,
            first_offset=gap.first,
            reason=gap.why,
        )
    current = count_anew(engine, start.state, alive)
    settled = replace(current, fold=current.fold + 1)
    with transaction(engine) as connection:
        raise_fold(connection, current.fold, settled.fold)
        write_offsets(connection, settled, settled.next_offsets)
    log.info("counts were made anew from the tables", first=start.is_first, gaps=len(start.gaps))
    return settled


def count_anew(engine: sa.Engine, state: FoldState, alive: Callable[[], None]) -> FoldState:
    """Makes every tweet's counts anew, some in each transaction; the state with the number of the last one. Killed on
    the way, it begins again. Raises `Superseded`."""
    above = 0
    while True:
        alive()
        with reading(engine) as connection:
            ids = list(connection.execute(_SOME, {"above": above, "limit": RECOUNT_TWEETS}).scalars())
            live = set(connection.execute(_LIVE, {"ids": ids}).scalars())
        if not ids:
            return state
        remove_likes(engine, [tweet_id for tweet_id in ids if tweet_id not in live], alive)
        with transaction(engine) as connection:
            raise_fold(connection, state.fold, state.fold + 1)
            connection.execute(_REMOVE_DEAD, {"ids": ids})
            recount(connection, ids)
            connection.execute(_RECOUNT_LIKES, {"ids": ids})
        state, above = replace(state, fold=state.fold + 1), ids[-1]


def read_logs(bootstrap: str) -> dict[str, Log]:
    """What Kafka says of both logs. Raises `KafkaUnavailable`."""
    with kafka_errors(bootstrap):
        admin = admin_client(bootstrap, ASK_TIMEOUT_S)
        need_logs(admin, bootstrap, FOLDED)
        ids = topic_ids(admin, FOLDED, ASK_TIMEOUT_S)
        firsts = log_offsets(admin, FOLDED, OffsetSpec.earliest(), ASK_TIMEOUT_S)
        ends = log_offsets(admin, FOLDED, OffsetSpec.latest(), ASK_TIMEOUT_S)
    return {topic.name: Log(ids[topic.name], _ranges(topic, firsts, ends)) for topic in FOLDED}


def _ranges(topic: Topic, firsts: Mapping[Place, int], ends: Mapping[Place, int]) -> list[tuple[int, int]]:
    return [(firsts[topic.name, one], ends[topic.name, one]) for one in range(topic.partitions)]


# Only tweets that may have counts, or have some that they should not have.
_SOME = sa.text(
    """
    SELECT id FROM (
        (SELECT reply_to AS id FROM tweets WHERE reply_to > :above AND deleted_at IS NULL
         GROUP BY reply_to ORDER BY reply_to LIMIT :limit)
        UNION
        (SELECT retweet_of FROM tweets WHERE retweet_of > :above
         GROUP BY retweet_of ORDER BY retweet_of LIMIT :limit)
        UNION
        (SELECT tweet_id FROM tweet_counts WHERE tweet_id > :above ORDER BY tweet_id LIMIT :limit)
        UNION
        (SELECT tweet_id FROM likes WHERE tweet_id > :above GROUP BY tweet_id ORDER BY tweet_id LIMIT :limit)
    ) AS counted ORDER BY id LIMIT :limit
    """
)
_LIVE = sa.text("SELECT id FROM tweets WHERE id = ANY (CAST(:ids AS bigint[])) AND deleted_at IS NULL")
_REMOVE_DEAD = sa.text(
    """
    DELETE FROM tweet_counts WHERE tweet_id = ANY (CAST(:ids AS bigint[]))
      AND NOT EXISTS (SELECT FROM tweets WHERE id = tweet_id AND deleted_at IS NULL)
    """
)
# After the recount, which made a row for each live one.
_RECOUNT_LIKES = sa.text(
    """
    UPDATE tweet_counts SET likes = (SELECT count(*) FROM likes WHERE likes.tweet_id = tweet_counts.tweet_id)
    WHERE tweet_counts.tweet_id = ANY (CAST(:ids AS bigint[]))
    """
)
