"""A worker and logs that lost something, for real: it never skips anything, and goes on when nothing is lost."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from consumers.applied import wait_until_applied
from consumers.audit import audit
from consumers.read_timeline import TimelineReader
from infra.composition import Stores, stores
from infra.kafka import GROUP
from infra.log_losses import Held
from infra.readiness import EXIT_UNFINISHED
from infra.settings import Settings
from infra.stack.roles import fanfold_command
from infra.stack.supervisor import Stack
from infra.topics import ACTIVITY, DELIVERIES, LOGS_OF_WORKERS
from infra.worked_logs import read_held, read_seen
from producers.publish import NewTweet, Publisher
from tests.services import fresh_folder
from tests.waiting import wait_until

READY_S = 60.0
ENDED_S = 30.0
APPLIED_S = 60.0
EXIT_USE = 2
AUTHOR, READER = 1, 2

Process = subprocess.Popen[bytes]


@dataclass(frozen=True)
class Logs:
    """A stack without a worker, with one author and one reader."""

    stack: Stack
    stores: Stores
    settings: Settings

    @property
    def admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.settings.kafka_bootstrap})

    @contextmanager
    def worker(self, name: str) -> Iterator[Process]:
        """A worker that is ready; its log is the file of that name."""
        ready = self.stack.data_dir / "run" / f"{name}.ready"
        with self.log_of(name).open("wb") as out:
            environ = os.environ | {"FANFOLD_READY_FILE": str(ready)}
            command = fanfold_command(self.stack.data_dir, "worker")
            with Process(command, env=environ, stdout=out, stderr=out) as process:
                try:
                    wait_until(lambda: ready.exists() or process.poll() is not None, "the worker", READY_S)
                    yield process
                finally:
                    process.kill()

    def log_of(self, name: str) -> Path:
        return self.stack.data_dir / "logs" / f"{name}.log"

    def fanfold(self, *words: str) -> "subprocess.CompletedProcess[str]":
        command = fanfold_command(self.stack.data_dir, *words)
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    def accept(self) -> str:
        """What the command says, once the session of a worker that ended itself is over."""
        done = self.fanfold("topics", "accept", "--execute")
        while "has members: stop all workers first" in done.stderr:
            done = self.fanfold("topics", "accept", "--execute")
        assert done.returncode == 0, done.stderr
        return done.stdout

    def post(self, text: str) -> None:
        with Publisher(self.stores) as publisher:
            publisher.post(NewTweet(AUTHOR, text))

    def check(self) -> None:
        wait_until_applied(self.stores.engine, self.settings.kafka_bootstrap, APPLIED_S)
        result = audit(self.stores.engine, self.stores.timelines, complete=True)
        assert (result.differences, result.clean) == ((), True)

    def delete_everything_before_the_end(self) -> None:
        """As a retention does."""
        held = read_held(self.settings.kafka_bootstrap, LOGS_OF_WORKERS)
        places = [TopicPartition(*place, one.end) for place, one in held.items()]
        admin = self.admin  # a client that nobody holds answers nobody
        for future in admin.delete_records(places).values():
            future.result(20)

    def is_noted_to_its_end(self) -> bool:
        """Whether what was worked off is on record, behind the markers that nobody acknowledges."""
        held, seen = read_held(self.settings.kafka_bootstrap, LOGS_OF_WORKERS), read_seen(self.stores.engine)
        return all(place in seen and seen[place].next_offset == one.end for place, one in held.items())


@pytest.fixture
def logs() -> Iterator[Logs]:
    folder = fresh_folder("lost-logs")
    stack = Stack(folder, roles=("registrar", "coordinator", "relay"))
    stack.start()
    try:
        with stores(stack.settings()) as opened:
            with Publisher(opened) as publisher:
                for user in (AUTHOR, READER):
                    publisher.create_user(f"u{user}", user)
                publisher.follow(READER, AUTHOR)
            TimelineReader(opened).warm([READER])
            yield Logs(stack, opened, stack.settings())
    finally:
        stack.stop()
    shutil.rmtree(folder)  # kept when a test failed in it: its logs say why


def test_a_worker_goes_on_behind_markers_and_refuses_what_it_did_not_read(logs: Logs) -> None:
    with logs.worker("first") as process:
        logs.post("one")
        logs.check()
        wait_until(logs.is_noted_to_its_end, "what is worked off to be on record", READY_S)
        process.terminate()
        process.wait(ENDED_S)
    logs.delete_everything_before_the_end()  # only markers lie behind the committed offsets

    with logs.worker("second") as process:
        logs.post("two")
        logs.check()
        process.send_signal(signal.SIGSTOP)  # shorter than its session
        logs.post("three")
        wait_until(lambda: sum(one.end - one.start for one in held(logs, ACTIVITY.name)) >= 4, "the relay")
        logs.delete_everything_before_the_end()
        process.send_signal(signal.SIGCONT)
        assert process.wait(ENDED_S) == EXIT_UNFINISHED
    assert "what lay between is past its retention, unread" in logs.log_of("second").read_text()

    with logs.worker("third") as process:
        assert process.wait(ENDED_S) == EXIT_USE
    assert "`fanfold topics accept` shows every partition" in logs.log_of("third").read_text()
    assert "then: fanfold rebuild --active" in logs.accept()
    with logs.worker("fourth"):
        assert logs.fanfold("rebuild", "--active").returncode == 0
        logs.check()


def held(logs: Logs, topic: str) -> list[Held]:
    found = read_held(logs.settings.kafka_bootstrap, [ACTIVITY, DELIVERIES])
    return [one for place, one in found.items() if place[0] == topic]


def test_a_worker_refuses_to_begin_anew_when_the_groups_offsets_are_gone(logs: Logs) -> None:
    with logs.worker("first") as process:
        logs.post("one")
        logs.check()
        wait_until(logs.is_noted_to_its_end, "what is worked off to be on record", READY_S)
        process.terminate()
        process.wait(ENDED_S)
    admin = logs.admin
    admin.delete_consumer_groups([GROUP])[GROUP].result(20)

    with logs.worker("second") as process:
        assert process.wait(ENDED_S) == EXIT_USE
    assert "group fanfold has no committed offset for activity partition" in logs.log_of("second").read_text()
    assert "then: " not in logs.accept()
