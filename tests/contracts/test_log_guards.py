"""The guards of the logs on a real broker: each loss made for real, refused, and mended by the command it names."""

import json
import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic
from typer.testing import CliRunner

from infra import worked_logs
from infra.accept_logs import From, accept, find_all, plan, recreate, set_offsets
from infra.cli import build_app
from infra.composition import Stores
from infra.errors import ConfigurationError, Conflict, NotFound
from infra.health import Health
from infra.kafka import producer_config
from infra.kafka_logs import retentions_ms
from infra.log_commands import count_unread
from infra.log_losses import Loss, Seen
from infra.settings import Settings
from infra.topics import ACTIVITY, DAY_MS, REACTIONS, Topic
from infra.worked_logs import note_worked, read_held, read_places, read_seen, refuse_losses
from streams.counters import Counters
from streams.positions import Positions
from tests.services import Services
from tests.waiting import wait_until

MESSAGES = 6
UNTIL = datetime(2026, 11, 26, 12, tzinfo=UTC)


class Log:
    """A topic and a group of this test's own; partition 0 has messages, and the group has worked off some."""

    def __init__(self, bootstrap: str, engine: sa.Engine) -> None:
        self.group = f"guarded-{secrets.token_hex(4)}"
        self.topic = Topic(self.group, 2, DAY_MS, "nobody", "nobody")
        self.place = self.topic.name, 0
        self.bootstrap, self.engine = bootstrap, engine
        self.admin = AdminClient({"bootstrap.servers": bootstrap})
        self.create()

    def create(self) -> None:
        name = self.topic.name
        self.admin.create_topics([NewTopic(name, self.topic.partitions, 1)])[name].result(20)
        wait_until(lambda: bool(self.admin.list_topics(name, timeout=20).topics[name].partitions), "the topic")

    def delete(self) -> None:
        self.admin.delete_topics([self.topic.name])[self.topic.name].result(20)
        wait_until(lambda: self.topic.name not in self.admin.list_topics(timeout=20).topics, "the topic to be gone")

    def write(self, count: int = MESSAGES) -> None:
        producer = Producer(producer_config(self.bootstrap))
        for _ in range(count):
            producer.produce(self.topic.name, b"x", partition=0)
        assert producer.flush(20) == 0

    def work_off(self, offset: int, until: datetime = UNTIL) -> None:
        places = [TopicPartition(*self.place, offset), TopicPartition(self.topic.name, 1, 0)]
        set_offsets(self.bootstrap, self.group, places)
        held = read_held(self.bootstrap, [self.topic])
        seen = {place: Seen(one.log_id, offset if place == self.place else 0, until) for place, one in held.items()}
        note_worked(self.engine, seen)

    def delete_before(self, offset: int) -> None:
        place = TopicPartition(*self.place, offset)
        self.admin.delete_records([place])[place].result(20)

    def next_offset(self) -> int:
        """Where a worker would go on; raises when it would refuse to."""
        return refuse_losses(self.engine, self.bootstrap, self.group, [self.topic]).next_offsets[self.place]

    def accept(self, where: From = From.RECORDED) -> list[Loss]:
        found = [
            one
            for one in find_all(self.engine, self.bootstrap, self.group, [self.topic])
            if one.topic == self.topic.name
        ]
        accept(self.engine, self.bootstrap, plan(found, where), self.group)
        return [one.loss for one in found]


@pytest.fixture
def log(services: Services, engine: sa.Engine) -> Iterator[Log]:
    made = Log(services.kafka_bootstrap, engine)
    made.write()
    made.work_off(4)
    yield made
    made.delete()


def lose_offsets(log: Log) -> None:
    log.admin.delete_consumer_groups([log.group])[log.group].result(20)


def make_anew(log: Log) -> None:
    log.delete()
    log.create()
    log.write(2)


def lose_unread(log: Log) -> None:
    log.delete_before(MESSAGES - 1)


def lose_the_end(log: Log) -> None:
    """As after an election of a broker that lagged: the log is shorter than what was worked off."""
    log.work_off(MESSAGES)
    with log.engine.begin() as connection:
        connection.execute(sa.text("UPDATE worked_logs SET next_offset = next_offset + 10"))


LOSSES: Sequence[tuple[Callable[[Log], None], Loss, str, int]] = [
    (lose_offsets, Loss.OFFSETS_GONE, "has no committed offset for .* had worked it off to 4", 4),
    (make_anew, Loss.MADE_ANEW, "partition 0 was made anew", 0),
    (lose_unread, Loss.UNREAD_LOST, "begins at offset 5, and .* has read it to offset 4", 5),
    (lose_the_end, Loss.LOG_TOO_SHORT, f"ends at offset {MESSAGES}, and .* had worked it off to 16", 0),
]


def test_what_others_work_off_while_one_starts_is_no_loss(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    def meanwhile(*asked: Any) -> Any:
        log.write()
        log.work_off(2 * MESSAGES)
        return read_places(*asked)

    monkeypatch.setattr(worked_logs, "read_places", meanwhile)
    assert log.next_offset() == 2 * MESSAGES
    assert log.accept() == []


@pytest.mark.parametrize(("lose", "loss", "sentence", "goes_on"), LOSSES, ids=[one[1] for one in LOSSES])
def test_a_loss_is_refused_with_a_sentence_until_it_is_accepted(
    log: Log, lose: Callable[[Log], None], loss: Loss, sentence: str, goes_on: int
) -> None:
    assert log.next_offset() == 4
    lose(log)

    with pytest.raises(ConfigurationError, match=f"{sentence}.*`fanfold topics accept` shows"):
        log.next_offset()
    assert loss in log.accept()
    assert log.next_offset() == goes_on
    assert read_places(log.bootstrap, log.group, [log.place])[log.place] == goes_on
    assert log.accept() == []


@pytest.mark.parametrize(("where", "goes_on"), [(From.EARLIEST, 0), (From.LATEST, MESSAGES)])
def test_reading_goes_on_at_the_end_that_is_asked_for(log: Log, where: From, goes_on: int) -> None:
    lose_offsets(log)
    log.accept(where)
    assert log.next_offset() == goes_on


def test_a_group_that_never_worked_begins_and_refuses_a_log_that_lost_its_beginning(log: Log) -> None:
    log.group = f"{log.group}-new"
    with log.engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM worked_logs"))
    assert log.next_offset() == 0
    log.delete_before(2)
    with pytest.raises(ConfigurationError, match=r"begins at offset 2, and .* never read it"):
        log.next_offset()


def test_what_only_markers_lie_before_is_no_loss(log: Log) -> None:
    log.work_off(4)
    held = read_held(log.bootstrap, [log.topic])[log.place]
    note_worked(log.engine, {log.place: Seen(held.log_id, 5, UNTIL)})
    log.delete_before(5)
    assert log.next_offset() == 5


def test_partitions_that_were_added_are_refused_and_the_topic_is_made_anew(log: Log) -> None:
    log.admin.create_partitions([NewPartitions(log.topic.name, 5)])[log.topic.name].result(20)
    wait_until(lambda: len(log.admin.list_topics(timeout=20).topics[log.topic.name].partitions) == 5, "partitions")

    with pytest.raises(ConfigurationError, match=r"has 5 partitions, .* needs 2: `fanfold topics recreate guarded-"):
        log.next_offset()
    assert count_unread(log.engine, log.bootstrap, log.topic) == MESSAGES
    recreate(log.engine, log.bootstrap, log.topic, log.create, log.group)

    assert log.next_offset() == 0
    assert read_places(log.bootstrap, log.group, [log.place])[log.place] == 0


def test_a_topic_that_a_run_before_has_deleted_and_not_made_is_made(log: Log) -> None:
    with pytest.raises(NotAgain):
        recreate(log.engine, log.bootstrap, log.topic, breaks_off, log.group)
    assert count_unread(log.engine, log.bootstrap, log.topic) is None
    log.create()
    assert count_unread(log.engine, log.bootstrap, log.topic) is None, "it is not the log that was read"

    recreate(log.engine, log.bootstrap, log.topic, log.create, log.group)

    assert log.next_offset() == 0
    assert count_unread(log.engine, log.bootstrap, log.topic) == 0


class NotAgain(Exception):
    """Raised where a process would end."""


def breaks_off() -> None:
    raise NotAgain


def test_nothing_is_accepted_while_a_member_of_the_group_reads(log: Log) -> None:
    log.accept()
    lose_offsets(log)
    member = Consumer({"bootstrap.servers": log.bootstrap, "group.id": log.group, "enable.auto.commit": False})
    try:
        member.subscribe([log.topic.name])
        wait_until(lambda: member.poll(0.1) is None and bool(member.assignment()), "the member", 30.0)
        with pytest.raises(Conflict, match="has members: stop all workers first"):
            log.accept()
    finally:
        member.close()


def test_what_a_worker_writes_down_never_goes_back_or_to_another_log(log: Log) -> None:
    seen = read_seen(log.engine)[log.place]
    later = Seen(seen.log_id, 5, UNTIL)
    note_worked(log.engine, {log.place: later})
    note_worked(log.engine, {log.place: seen})
    note_worked(log.engine, {log.place: Seen("another", 9, UNTIL)})
    assert read_seen(log.engine)[log.place] == later


def test_the_retention_is_what_the_broker_has(log: Log) -> None:
    assert retentions_ms(log.bootstrap, [ACTIVITY, log.topic]) == {"activity": 7 * DAY_MS, log.topic.name: 7 * DAY_MS}


def test_a_topic_that_is_not_there_is_named(log: Log) -> None:
    missing = Topic("no-such", 2, DAY_MS, "nobody", "nobody")
    with pytest.raises(ConfigurationError, match=r"there is no topic no-such at .*: `fanfold topics create` makes it"):
        refuse_losses(log.engine, log.bootstrap, log.group, [missing])


def command(settings: Settings, tmp_path: Path, *words: str) -> tuple[int, str, str]:
    environ = {
        "FANFOLD_DATABASE_URL": settings.database_url,
        "FANFOLD_KAFKA_BOOTSTRAP": settings.kafka_bootstrap,
        "FANFOLD_ZOOKEEPER_HOSTS": settings.zookeeper_hosts,
    }
    done = CliRunner().invoke(build_app(words[0]), ["--data-dir", str(tmp_path), *words], env=environ)
    return done.exit_code, done.stdout, str(done.exception or "")


def test_workers_and_counters_refuse_and_the_command_lets_them_go_on(
    stores: Stores, settings: Settings, engine: sa.Engine, tmp_path: Path
) -> None:
    """By what this test's own database says: the broker is everybody's."""
    bootstrap = settings.kafka_bootstrap
    held = read_held(settings.kafka_bootstrap, [ACTIVITY, REACTIONS])
    with engine.begin() as connection:
        connection.execute(sa.text("INSERT INTO folded VALUES ('reactions', 1, 'another', 5)"))
    note_worked(engine, {("activity", 2): Seen("another", 3, UNTIL)})

    with pytest.raises(ConfigurationError, match="activity partition 2 was made anew"):
        Positions(engine, bootstrap)
    with pytest.raises(ConfigurationError, match=r"reactions partition 1 was made anew: .* counters worked off"):
        Counters(engine, stores.brief, settings.database_url, bootstrap, 0.01).run(threading.Event(), Health())

    code, shown, _ = command(settings, tmp_path, "topics", "accept", "--from", "latest", "--json")
    plans = json.loads(shown)
    losses = {(one["topic"], one["partition"]): one for one in plans["partitions"]}
    assert (code, plans["executed"]) == (0, False)
    assert losses["activity", 2]["next_offset"] == held["activity", 2].end
    assert losses["reactions", 1]["reader"] == "counters"
    assert plans["then"][0] == "fanfold replay --since 2026-11-26T11:58:00Z --source database --execute"
    assert command(settings, tmp_path, "topics", "accept", "--from", "latest", "--execute")[0] == 0

    assert Positions(engine, bootstrap).find_offset("activity", 2) == held["activity", 2].end
    code, shown, _ = command(settings, tmp_path, "topics", "accept")
    assert (code, shown) == (0, "nothing is missing: workers and counters go on where they were\n")


def test_a_log_that_is_none_is_refused(settings: Settings, tmp_path: Path) -> None:
    assert command(settings, tmp_path, "topics", "recreate", "tweets")[0] == 2
    assert NotFound.exit_code == 2
