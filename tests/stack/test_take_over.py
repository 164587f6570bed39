"""A standby takes over from a killed or frozen relay within seconds, and the old one sends nothing once it thaws."""

import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import sqlalchemy as sa

from infra import outbox
from infra.advisory_lock import IDLE_SESSION_TIMEOUT_MS
from infra.health import State
from infra.settings import Settings
from producers.publish import NewTweet, Publisher
from producers.relay import RETRY_S
from tests.activity_log import other_ids, reading_from_now
from tests.stack.holding_relay import HELD, Place, holding_relay
from tests.stack.role_process import Process, role_process
from tests.waiting import wait_until

MakeUsers = Callable[[int], list[int]]
KILLED_TAKEN_OVER_WITHIN_S = 5.0
# The session of a frozen relay ends, a standby looks again; then it opens its producer and sends.
FROZEN_TAKEN_OVER_WITHIN_S = IDLE_SESSION_TIMEOUT_MS / 1000 + RETRY_S + 1.5


@pytest.mark.parametrize("place", list(Place))
def test_a_relay_that_froze_over_its_take_over_sends_nothing_once_it_thaws(
    settings: Settings, engine: sa.Engine, publisher: Publisher, make_users: MakeUsers, place: Place
) -> None:
    [author] = make_users(1)
    with reading_from_now(settings.kafka_bootstrap) as read, holding_relay(settings, place) as old:
        sent = [publisher.post(NewTweet(author, "it may have this one")).id]
        old.wait_for(HELD)
        old.freeze()
        with holding_relay(settings) as new:
            new.wait_for(State.SERVING)
            wait_until(lambda: outbox.unsent(engine) == 0, "the standby to take over")
            sent.append(publisher.post(NewTweet(author, "it never saw this one")).id)
            wait_until(lambda: outbox.unsent(engine) == 0, "the standby")
            old.thaw()
            assert State.SERVING not in old.wait_for(State.WAITING)
            sent.append(publisher.post(NewTweet(author, "nor this one")).id)
            wait_until(lambda: outbox.unsent(engine) == 0, "the standby, after the old relay thawed")
            twice = sent[:1] if place is Place.SENT else []
            assert other_ids(read()) == [*twice, *sent]


def fanfold_relay(settings: Settings, folder: Path, name: str) -> AbstractContextManager[Process]:
    """`fanfold relay` on these servers."""
    where = {"database_url": settings.database_url, "kafka_bootstrap": settings.kafka_bootstrap}
    return role_process("relay", where, folder, name)


@pytest.mark.parametrize(
    ("number", "limit_s"), [(signal.SIGKILL, KILLED_TAKEN_OVER_WITHIN_S), (signal.SIGSTOP, FROZEN_TAKEN_OVER_WITHIN_S)]
)
def test_a_standby_takes_over_within_seconds(
    settings: Settings,
    engine: sa.Engine,
    publisher: Publisher,
    make_users: MakeUsers,
    tmp_path: Path,
    number: signal.Signals,
    limit_s: float,
) -> None:
    [author] = make_users(1)
    with (
        reading_from_now(settings.kafka_bootstrap) as read,
        fanfold_relay(settings, tmp_path, "active") as active,
        fanfold_relay(settings, tmp_path, "standby") as standby,
    ):
        before = publisher.post(NewTweet(author, "before")).id
        wait_until(lambda: outbox.unsent(engine) == 0, "the active relay")
        active.send_signal(number)
        began_s = time.monotonic()
        after = publisher.post(NewTweet(author, "after")).id
        wait_until(lambda: outbox.unsent(engine) == 0, "the standby")
        took_s = time.monotonic() - began_s

        assert other_ids(read()) == [before, after]
        assert took_s < limit_s
        assert standby.poll() is None
