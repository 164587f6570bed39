"""Counters and the relay in this process, processes of counters to kill, and what counts must be in the end."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from consumers.applied import unfolded_messages
from consumers.audit_counts import audit_counts
from infra import outbox
from infra.composition import Stores
from infra.counts import TweetCounts
from infra.health import Health, State
from infra.settings import PREFIX, Settings
from infra.topics import ACTIVITY, REACTIONS
from producers.relay import Relay
from streams.counters import Counters
from tests.waiting import wait_until

FOLDED_WITHIN_S = 60.0
READY_WITHIN_S = 60.0  # a process starts on a busy machine


def make_counters(stores: Stores, settings: Settings) -> Counters:
    """As the command makes it."""
    return Counters(stores.engine, stores.brief, settings.database_url, settings.kafka_bootstrap, 0.01)


@contextmanager
def counting(counters: Counters) -> Iterator[Health]:
    """Counters in a thread, once they fold."""
    with _in_a_thread(counters) as health:
        wait_until(lambda: health.state is State.SERVING, "counters to fold")
        yield health


@contextmanager
def relaying(stores: Stores, settings: Settings) -> Iterator[None]:
    """A relay in a thread."""
    with _in_a_thread(Relay(stores.engine, settings.database_url, settings.kafka_bootstrap)):
        yield


@contextmanager
def _in_a_thread(role: Counters | Relay) -> Iterator[Health]:
    stop, health = threading.Event(), Health()
    thread = threading.Thread(target=role.run, args=(stop, health))
    thread.start()
    try:
        yield health
    finally:
        stop.set()
        thread.join(30)
        assert not thread.is_alive()


@contextmanager
def process_of_counters(
    settings: Settings, folder: Path, name: str = "counters"
) -> "Iterator[subprocess.Popen[bytes]]":
    """`fanfold counters`, once it is ready (folding, or standing by)."""
    ready = folder / f"{name}.ready"
    ready.unlink(missing_ok=True)
    environ = {key: value for key, value in os.environ.items() if not key.startswith(PREFIX)} | {
        "FANFOLD_DATABASE_URL": settings.database_url,
        "FANFOLD_ZOOKEEPER_HOSTS": settings.zookeeper_hosts,
        "FANFOLD_KAFKA_BOOTSTRAP": settings.kafka_bootstrap,
        "FANFOLD_READY_FILE": str(ready),
    }
    command = [sys.executable, "-m", "infra", "--data-dir", str(folder), "counters"]
    with (folder / f"{name}.log").open("ab") as said:
        process = subprocess.Popen(command, env=environ, stdout=said, stderr=said)
    try:
        wait_until(ready.exists, "a process of counters", READY_WITHIN_S)
        yield process
    finally:
        process.kill()
        process.wait()


def wait_until_counted(stores: Stores, settings: Settings) -> None:
    """Until outbox, activity and reactions are empty."""

    def is_counted() -> bool:
        return outbox.is_empty(stores.engine) and not any(
            unfolded_messages(stores.engine, settings.kafka_bootstrap, topic) for topic in (ACTIVITY, REACTIONS)
        )

    wait_until(is_counted, "everything to be folded", FOLDED_WITHIN_S)


def check_counts(stores: Stores, truth: Mapping[int, TweetCounts]) -> None:
    """Readers are shown exactly these, and the audit finds nothing wrong, in rows and in every cluster."""
    for _ in range(3):  # any cluster may be asked
        assert stores.counts.read(list(truth)) == truth
    result = audit_counts(stores.engine, stores.clusters)
    assert result.differences == ()
    assert result.wrong == 0
