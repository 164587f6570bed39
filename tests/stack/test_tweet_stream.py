"""Three members of a group, one of them killed at random again and again, and a handler that fails on 1 of 100."""

import secrets
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest
from confluent_kafka import Consumer, TopicPartition

from infra.events import Activity, ActivityType
from tests.own_log import OwnLog, own_log
from tests.services import Services
from tests.stack.stream_member import FAILS_EVERY
from tests.waiting import wait_until

MEMBERS = 3
AUTHORS = 40
EVENTS = 6_000
ROUND_EVENTS = 1_200  # then somebody is killed
SEED = 7
ENDS_WITHIN_S = 5.0

Process = subprocess.Popen[str]


class Group:
    """Its members, and what they have handled, in the order in which they did."""

    def __init__(self, log: OwnLog, folder: Path) -> None:
        self.name = f"drill-{secrets.token_hex(4)}"
        self._log = log
        self._file = folder / "handled"
        self._file.touch()
        self.members = [self._start() for _ in range(MEMBERS)]

    def kill_one(self, rng: Random) -> None:
        """Kills a member at random and starts another one."""
        place = rng.randrange(MEMBERS)
        _end(self.members[place])
        self.members[place] = self._start()

    def stop(self) -> list[Process]:
        """Tells all members to end, each once it can be told."""
        for member in self.members:
            assert member.stdout is not None
            assert member.stdout.readline() == "ready\n"
        for member in self.members:
            member.send_signal(signal.SIGTERM)
        return self.members

    def handled(self) -> list[tuple[int, int]]:
        """Author and tweet. A killed member may have left half a line, which nobody waits for."""
        lines = self._file.read_text().split("\n")[:-1]
        return [(int(author), int(tweet)) for author, tweet in (line.split() for line in lines)]

    def count(self) -> int:
        """Different events that were handled."""
        return len(set(self.handled()))

    def end(self) -> None:
        """Kills what is left."""
        for member in self.members:
            _end(member)

    def _start(self) -> Process:
        words = ["-m", "tests.stack.stream_member", self._log.bootstrap, self._log.topic, self.name, str(self._file)]
        return Process([sys.executable, *words], stdout=subprocess.PIPE, text=True)


def _end(member: Process) -> None:
    member.kill()
    member.wait(10)
    assert member.stdout is not None
    member.stdout.close()


@contextmanager
def group_on(log: OwnLog, folder: Path) -> Iterator[Group]:
    made = Group(log, folder)
    try:
        yield made
    finally:
        made.end()


def events() -> list[Activity]:
    """The tweets of an author count up."""
    return [Activity(ActivityType.POSTED, number % AUTHORS + 1, number + 1, 1) for number in range(EVENTS)]


def letters(log: OwnLog, group: str) -> dict[int, dict[str, bytes]]:
    """The headers of the dead letters by the offset and partition of their messages."""
    topic, found = f"{log.topic}.{group}.dlq", {}
    consumer = Consumer({"bootstrap.servers": log.bootstrap, "group.id": "test-letters"})
    end = consumer.get_watermark_offsets(TopicPartition(topic, 0), 20)[1]
    consumer.assign([TopicPartition(topic, 0, 0)])
    for _ in range(end):
        message = consumer.poll(20)
        assert message is not None
        headers = dict(message.headers())
        found[int(headers["__connect.errors.exception.message"].split()[1])] = headers
    consumer.close()
    return found


@pytest.fixture
def log(services: Services) -> OwnLog:
    return own_log(services.kafka_bootstrap, partitions=8)


def test_every_event_is_handled_or_buried_and_in_order_whoever_is_killed(log: OwnLog, tmp_path: Path) -> None:
    rng, written = Random(SEED), events()
    wanted = {(one.author_id, one.other_id) for one in written if one.other_id % FAILS_EVERY}
    with group_on(log, tmp_path) as group:
        for start in range(0, EVENTS, ROUND_EVENTS):
            log.write(written[start : start + ROUND_EVENTS])
            # In the middle of the round, so that something is read and not committed.
            wait_until(lambda count=start + ROUND_EVENTS // 2: group.count() > count, "half of a round", 60)  # type: ignore[misc]
            group.kill_one(rng)
        wait_until(lambda: wanted <= set(group.handled()), "all events", 60)
        wait_until(lambda: len(letters(log, group.name)) == EVENTS // FAILS_EVERY, "all letters", 30)
        stopping = group.stop()
        stopped_s = time.monotonic()
        codes = [member.wait(30) for member in stopping]
        took_s = time.monotonic() - stopped_s
        handled, buried = group.handled(), letters(log, group.name)

    assert (codes, took_s < ENDS_WITHIN_S) == ([0] * MEMBERS, True)
    first: dict[int, list[int]] = defaultdict(list)
    for author, tweet in dict.fromkeys(handled):
        first[author].append(tweet)
    assert all(tweets == sorted(tweets) for tweets in first.values())
    assert set(buried) == set(range(FAILS_EVERY, EVENTS + 1, FAILS_EVERY))
    for headers in buried.values():
        assert headers["__connect.errors.connector.name"] == group.name.encode()
        assert headers["__connect.errors.exception.class.name"] == b"ValueError"
    assert len(handled) < 2 * len(wanted)  # a kill repeats what was not committed, and no more
