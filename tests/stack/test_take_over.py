"""A standby takes over from a killed or frozen relay within seconds, and the old one sends nothing once it thaws."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from infra import outbox
from infra.advisory_lock import IDLE_SESSION_TIMEOUT_MS
from infra.health import State
from infra.settings import PREFIX, Settings
from producers.publish import NewTweet, Publisher
from producers.relay import RETRY_S
from tests.activity_log import other_ids, reading_from_now
from tests.stack.holding_relay import HELD, Place, holding_relay
from tests.waiting import wait_until

MakeUsers = Callable[[int], list[int]]
Process = subprocess.Popen[bytes]

READY_WITHIN_S = 60.0  # imports on a busy machine
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


@contextmanager
def fanfold_relay(settings: Settings, folder: Path, name: str) -> Iterator[Process]:
    """`fanfold relay` on these servers, once it serves or stands by; killed at the end."""
    ready = folder / f"{name}.ready"
    environ = {key: value for key, value in os.environ.items() if not key.startswith(PREFIX)} | {
        "FANFOLD_DATABASE_URL": settings.database_url,
        "FANFOLD_KAFKA_BOOTSTRAP": settings.kafka_bootstrap,
        "FANFOLD_READY_FILE": str(ready),
    }
    command = [sys.executable, "-m", "infra", "--data-dir", str(folder), "relay"]
    with (folder / f"{name}.log").open("wb") as out, Process(command, env=environ, stdout=out, stderr=out) as process:
        try:
            wait_until(ready.exists, f"{name} to be ready", READY_WITHIN_S)
            yield process
        finally:
            process.kill()


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
