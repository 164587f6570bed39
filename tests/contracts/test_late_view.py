"""docs/examples/late_view.py: a view that joins late has every live tweet once, whatever happens at the seam."""

import json
import os
import secrets
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from infra.composition import Stores
from infra.events import Activity, ActivityType
from infra.settings import PREFIX, Settings
from producers.publish import NewTweet, Publisher
from tests.own_log import OwnLog, own_log
from tests.waiting import wait_until

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "late_view.py"
SHOWN_WITHIN_S = 60.0  # two starts of a process on a busy machine
STOPPED_WITHIN_S = 10.0

MakeUsers = Callable[[int], list[int]]


@dataclass
class Authors:
    """Authors who post and delete, each event in the log as the relay would send it."""

    publisher: Publisher
    log: OwnLog
    ids: list[int]
    live: dict[int, int] = field(default_factory=dict)  # tweet → author

    def post(self, count: int) -> None:
        for number in range(count):
            author = self.ids[number % len(self.ids)]
            tweet = self.publisher.post(NewTweet(author, secrets.token_hex(4))).id
            self.live[tweet] = author
            self._tell(ActivityType.POSTED, author, tweet)

    def delete(self, count: int) -> None:
        """The oldest, a middle one and so on, so that both sides of the seam are met."""
        for tweet in list(self.live)[:: max(len(self.live) // count, 1)][:count]:
            author = self.live.pop(tweet)
            self.publisher.delete(tweet, author)
            self._tell(ActivityType.DELETED, author, tweet)

    def counts(self) -> dict[str, int]:
        return {str(author): count for author, count in sorted(Counter(self.live.values()).items())}

    def _tell(self, kind: ActivityType, author: int, tweet: int) -> None:
        self.log.write([Activity(kind, author, tweet, 5)])


@pytest.fixture
def authors(stores: Stores, publisher: Publisher, make_users: MakeUsers, settings: Settings) -> Authors:
    return Authors(publisher, own_log(settings.kafka_bootstrap), make_users(3))


class Program:
    """The example as a person starts it."""

    def __init__(self, settings: Settings, log: OwnLog, folder: Path) -> None:
        self._database = folder / "view.db"
        self._group = f"view-{secrets.token_hex(4)}"
        self._topic = log.topic
        self._environ = {key: value for key, value in os.environ.items() if not key.startswith(PREFIX)} | {
            f"{PREFIX}DATABASE_URL": settings.database_url,
            f"{PREFIX}KAFKA_BOOTSTRAP": settings.kafka_bootstrap,
            f"{PREFIX}ZOOKEEPER_HOSTS": settings.zookeeper_hosts,
        }

    def command(self, step: str, *words: str) -> list[str]:
        common = ["--topic", self._topic, "--group", self._group]
        return [sys.executable, str(EXAMPLE), step, str(self._database), *common, *words]

    def call(self, step: str, *words: str) -> "subprocess.CompletedProcess[str]":
        command = self.command(step, *words)
        return subprocess.run(command, env=self._environ, capture_output=True, text=True, check=False, timeout=60)

    def counts(self) -> dict[str, int]:
        shown: dict[str, int] = json.loads(self.call("show").stdout)
        return shown

    @contextmanager
    def running(self, *words: str) -> Iterator["subprocess.Popen[bytes]"]:
        with subprocess.Popen(self.command("run", *words), env=self._environ) as process:
            try:
                yield process
            finally:
                process.kill()


def test_a_view_that_joins_late_has_no_gap_and_no_double_at_the_seam(
    authors: Authors, settings: Settings, tmp_path: Path
) -> None:
    program = Program(settings, authors.log, tmp_path)
    authors.post(30)
    authors.delete(3)
    assert program.call("run", "--backfill", "any").stderr.strip().startswith("note the seam first")
    assert program.call("prepare").returncode == 0
    authors.post(30)  # behind the seam, and in the replay too
    authors.delete(6)
    replay = own_log(settings.kafka_bootstrap)
    replay.write([Activity(ActivityType.POSTED, author, tweet, 5) for tweet, author in sorted(authors.live.items())])
    authors.delete(6)  # of what the replay has
    authors.post(10)

    words = "--backfill", replay.topic
    with program.running(*words) as process:
        wait_until(lambda: bool(program.counts()) or process.poll() is not None, "the first rows", SHOWN_WITHIN_S)
        process.send_signal(signal.SIGKILL)
    authors.post(10)
    authors.delete(4)
    with program.running(*words) as process:
        wait_until(lambda: program.counts() == authors.counts(), "the view", SHOWN_WITHIN_S)
        authors.post(10)
        authors.delete(4)
        wait_until(lambda: program.counts() == authors.counts(), "the view to go on", SHOWN_WITHIN_S)
        process.terminate()
        assert process.wait(STOPPED_WITHIN_S) == 0
