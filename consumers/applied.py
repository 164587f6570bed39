"""Waiting until everything that was published is applied: outbox, activity and deliveries empty, in this order; and
until it is counted: activity and reactions folded."""

import time
from collections.abc import Callable, Mapping

import sqlalchemy as sa

from infra import outbox
from infra.advisory_lock import LockClass, is_held
from infra.counts import SHARD
from infra.database import reading
from infra.errors import CheckFailed
from infra.kafka_logs import agent_lags, messages_from
from infra.topics import ACTIVITY, REACTIONS, Topic

WAIT_S = 120.0
POLL_S = 0.25
# Nobody has counters' lock for so long: it is not there. One that was killed is back in half of it.
COUNTERS_AWAY_S = 10.0

# A deleted original brings deletes of its retweets into the outbox, and those bring no others: hence twice.
STAGES = ("outbox", "fan_out", "outbox", "fan_out", "deliver")
_WAITING_FOR = {
    "outbox": "{:,} events in the outbox that no relay has sent",
    "fan_out": "{:,} messages of the activity log that fan_out has not acknowledged",
    "deliver": "{:,} messages of the deliveries log that deliver has not acknowledged",
}


def wait_until_applied(
    engine: sa.Engine,
    bootstrap: str,
    limit_s: float = WAIT_S,
    progress: Callable[[str], None] | None = None,
    *,
    lags: Callable[[str], Mapping[str, int]] = agent_lags,
    pause: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Waits until each stage has been empty after the one before it. `progress` hears in words what it waits for.

    Raises `CheckFailed` that says what is left after `limit_s` seconds.
    """
    deadline = clock() + limit_s
    for stage in STAGES:
        while left := outbox.unsent(engine) if stage == "outbox" else lags(bootstrap)[stage]:
            waiting_for = _WAITING_FOR[stage].format(left)
            if clock() >= deadline:
                raise CheckFailed(f"nothing was compared: after {limit_s:g} s there are still {waiting_for}")
            if progress:
                progress(waiting_for)
            pause(POLL_S)


def wait_until_folded(
    engine: sa.Engine,
    bootstrap: str,
    limit_s: float = WAIT_S,
    progress: Callable[[str], None] | None = None,
    *,
    unfolded: Callable[[sa.Engine, str, Topic], int] | None = None,
    folding: Callable[[sa.Engine], bool] | None = None,
    pause: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Waits until counters has folded both logs. Raises `CheckFailed` as `wait_until_applied` does, and soon when no
    process of counters is there."""
    folded_s = clock()
    deadline = folded_s + limit_s
    for topic in (ACTIVITY, REACTIONS):
        while left := (unfolded or unfolded_messages)(engine, bootstrap, topic):
            waiting_for = f"{left:,} messages of the {topic.name} log that counters has not folded"
            if clock() >= deadline:
                raise CheckFailed(f"no counts were compared: after {limit_s:g} s there are still {waiting_for}")
            if (folding or is_folding)(engine):
                folded_s = clock()
            elif clock() - folded_s >= COUNTERS_AWAY_S:
                why = f"no process of counters is running, and there are {waiting_for}; start `fanfold counters`"
                raise CheckFailed(f"no counts were compared: {why}")
            if progress:
                progress(waiting_for)
            pause(POLL_S)


def is_folding(engine: sa.Engine) -> bool:
    """Whether a process of counters folds."""
    return is_held(engine, LockClass.COUNTERS, SHARD)


def unfolded_messages(engine: sa.Engine, bootstrap: str, topic: Topic) -> int:
    """Messages of a log that counters has not folded."""
    with reading(engine) as connection:
        rows = connection.execute(_FOLDED, {"topic": topic.name})
        offsets = {row.partition: row.next_offset for row in rows}
    return messages_from(bootstrap, topic, [offsets.get(one, 0) for one in range(topic.partitions)])


_FOLDED = sa.text("SELECT partition, next_offset FROM folded WHERE topic = :topic")
