"""Messages that cannot be processed, between good ones, on real servers and a real worker process."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from confluent_kafka import KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from consumers.applied import wait_until_applied
from consumers.audit import audit
from consumers.read_timeline import TimelineReader
from consumers.tweet_stream import COMMIT_EVERY_S
from infra import dead_letters
from infra.composition import Stores, stores
from infra.dead_letters import CUT_VALUE_BYTES, STAGE
from infra.events import (
    DELIVERY_VERSION,
    VERSION,
    Activity,
    ActivityType,
    DeliveryKind,
    decode_activity,
    encode_activity,
    encode_deliveries,
    one_chunk,
)
from infra.kafka import producer_config
from infra.kafka_logs import committed_offsets
from infra.readiness import EXIT_NOT_AGAIN, EXIT_UNFINISHED
from infra.settings import Settings
from infra.slots import slot_of
from infra.stack.supervisor import Stack
from infra.topics import ACTIVITY, DELIVERIES, LOGS_OF_WORKERS, Topic
from producers.importer import import_follows
from producers.publish import NewTweet, Publisher
from streams.read_dead_letters import Buried, read_letters, reader
from tests.own_log import own_log, posts
from tests.services import fresh_folder
from tests.stack.failing_worker import FAILING_AUTHOR, HELD_AUTHOR

USERS, AUTHORS = 200, 10
APPLIED_S = 90.0
STOPPED_S = 10.0
MEMBER_STOPPED_S = 5.0
LARGEST_BYTES = 20_000_000  # what the logs are made to take
EVENT = encode_activity(Activity(ActivityType.POSTED, 1, 2, 3)).encode()
DELIVERY = encode_deliveries([one_chunk(DeliveryKind.DELIVER, 5, 6, [1])])
TWO_PARTITIONS = [next(user for user in range(1, 99) if slot_of(user) % DELIVERIES.partitions == one) for one in (0, 1)]
OF_TWO_PARTITIONS = encode_deliveries([one_chunk(DeliveryKind.DELIVER, 5, 6, TWO_PARTITIONS)])
PADDED_EVENT = EVENT[:-1] + b',"padding":"' + b"x" * 2_000_000 + b'"}'

Place = tuple[str, int, int]  # topic, partition, offset

# What is wrong: the value for each log.
BAD: Mapping[str, Mapping[str, bytes | None]] = {
    "undecodable bytes": {"activity": b"\xff\xfe not an event", "deliveries": b"\x01\xff"},
    "an unknown version": {
        "activity": b'{"version":%d,"type":"posted","author_id":"1","tweet_id":"2","published_ms":3}' % (VERSION + 1),
        "deliveries": bytes([DELIVERY_VERSION + 1]) + DELIVERY[1:],
    },
    "2,000,000 bytes": dict.fromkeys(("activity", "deliveries"), b"\x01" * 2_000_000),
    "2 MiB": dict.fromkeys(("activity", "deliveries"), b"{" * (2 << 20)),
    "a large message that could be read": {"activity": PADDED_EVENT, "deliveries": b"\x01" + bytes(2_000_000)},
    "no value": dict.fromkeys(("activity", "deliveries")),
    "timelines of two partitions": {"activity": b"no event", "deliveries": OF_TWO_PARTITIONS},
}
BEYOND = b"\x01" * 9_000_000  # larger than the dead letters take


@dataclass(frozen=True)
class Bad:
    """A stack without a worker, its stores, and what was sent that no worker can process."""

    stack: Stack
    stores: Stores
    settings: Settings
    producer: Producer

    @property
    def publisher(self) -> Publisher:
        return Publisher(self.stores)

    @contextmanager
    def worker(self, **environ: str) -> Iterator[tuple["subprocess.Popen[bytes]", Path]]:
        """A worker whose handlers fail, when it is ready; and its log."""
        folder = self.stack.data_dir
        ready, log = folder / "run" / "failing.ready", folder / "logs" / "failing.log"
        ready.unlink(missing_ok=True)
        command = [sys.executable, "-m", "tests.stack.failing_worker", str(folder)]
        with log.open("wb") as out:
            process = subprocess.Popen(
                command,
                env=os.environ | {"FANFOLD_READY_FILE": str(ready), **environ},
                stdout=out,
                stderr=out,
                cwd=Path(__file__).parents[2],
            )
        try:
            wait_for(lambda: ready.exists() or process.poll() is not None, "the worker to be ready", 60.0)
            yield process, log
        finally:
            process.kill()
            process.wait()

    def send(self, topic: Topic, partition: int, value: bytes | None) -> Place:
        """Sends one message past all our own producers, and returns where it is."""
        sent: list[Message] = []
        self.producer.produce(
            topic.name, value, b"key", partition, lambda _, message: sent.append(message), headers=[("own", b"header")]
        )
        assert self.producer.flush(20) == 0
        assert sent[0].error() is None
        return topic.name, partition, sent[0].offset()

    def letters(self) -> dict[Place, Buried]:
        """All dead letters by where their messages were; each once."""
        found: dict[Place, Buried] = {}
        with reader(self.settings.kafka_bootstrap) as consumer:
            for topic in LOGS_OF_WORKERS:
                for letter in read_letters(consumer, topic.dead_letters, 0, self.ends(topic.dead_letters)[0]):
                    place = topic.name, number(letter, dead_letters.PARTITION), number(letter, dead_letters.OFFSET)
                    assert place not in found, f"{place} was buried twice"
                    found[place] = letter
        return found

    def ends(self, topic: str, partitions: int = 1) -> list[int]:
        with reader(self.settings.kafka_bootstrap) as consumer:
            places = [TopicPartition(topic, partition) for partition in range(partitions)]
            return [int(consumer.get_watermark_offsets(place, 20)[1]) for place in places]

    def committed_when_the_broker_is_back(self) -> list[int]:
        """A broker that was away for long has to take up the group's coordination again."""
        for _ in range(60):
            try:
                return committed_offsets(self.settings.kafka_bootstrap, ACTIVITY)
            except KafkaException:
                threading.Event().wait(0.5)
        raise AssertionError("the broker did not answer within 30 s")

    def check(self) -> None:
        """Everything is acknowledged in time, and every timeline of every active user is right in every cluster."""
        wait_until_applied(self.stores.engine, self.settings.kafka_bootstrap, APPLIED_S)
        result = audit(self.stores.engine, self.stores.timelines, complete=True)
        assert result.differences == ()
        assert (result.clean, result.active_users) == (True, USERS)


def number(letter: Buried, header: str) -> int:
    return int(letter.header(header))


def wait_for(condition: Callable[[], bool], what: str, limit_s: float = 30.0) -> None:
    pause = threading.Event()
    for _ in range(int(limit_s / 0.05)):
        if condition():
            return
        pause.wait(0.05)
    raise AssertionError(f"waited {limit_s} s in vain for {what}")


def stop(process: "subprocess.Popen[bytes]") -> tuple[int, float]:
    """Asks a worker to end. Returns its exit code, and how long it took."""
    began_s = time.monotonic()
    process.terminate()
    return process.wait(60), time.monotonic() - began_s


def take_large_messages(bootstrap: str) -> None:
    """The broker's limit for a message of the two logs is 1 MiB, so larger ones need a topic that somebody changed."""
    entry = ConfigEntry("max.message.bytes", str(LARGEST_BYTES), incremental_operation=AlterConfigOpType.SET)
    resources = [
        ConfigResource(ResourceType.TOPIC, topic.name, incremental_configs=[entry]) for topic in LOGS_OF_WORKERS
    ]
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for future in admin.incremental_alter_configs(resources).values():
        future.result(20)


@pytest.fixture(scope="module")
def bad() -> Iterator[Bad]:
    folder = fresh_folder("bad-messages")
    stack = Stack(folder, roles=("registrar", "coordinator", "relay"))
    stack.start()
    try:
        with stores(stack.settings()) as opened:
            take_large_messages(stack.settings().kafka_bootstrap)
            follows = Path(folder) / "follows.tsv"
            follows.write_text("".join(f"{user}\t{author}\n" for user in range(11, 211) for author in range(1, 11)))
            import_follows(opened.engine, follows, threshold=10_000)
            for author in (FAILING_AUTHOR, HELD_AUTHOR):  # nobody follows them: the audit does not miss their tweets
                Publisher(opened).create_user(f"failing{author}", author)
            TimelineReader(opened).warm(range(11, 211))
            config = producer_config(stack.settings().kafka_bootstrap)
            large = {"message.max.bytes": LARGEST_BYTES, "queue.buffering.max.kbytes": 262_144, "log_level": 0}
            yield Bad(stack, opened, stack.settings(), Producer(config | large))
    finally:
        stack.stop()
    shutil.rmtree(folder)  # kept when a test failed in it: its logs say why


def test_bad_messages_of_every_kind_are_buried_with_headers_and_everything_else_is_applied(bad: Bad) -> None:
    sent: dict[Place, bytes | None] = {}
    with bad.worker() as (process, _):
        for thousand in range(3):
            for name in BAD:
                for topic in LOGS_OF_WORKERS:
                    for partition in range(thousand, topic.partitions, 3):  # each kind once into each partition
                        value = BAD[name][topic.name]
                        sent[bad.send(topic, partition, value)] = value
            for batch in range(10):
                bad.publisher.post_many([NewTweet(n % AUTHORS + 1, f"{thousand} {batch} {n}") for n in range(100)])
            bad.publisher.post_many([NewTweet(FAILING_AUTHOR, "one of a thousand")])
        beyond = [bad.send(topic, 3, BEYOND) for topic in LOGS_OF_WORKERS]
        bad.publisher.post_many([NewTweet(FAILING_AUTHOR, f"a whole batch {n}") for n in range(50)])
        bad.publisher.post_many([NewTweet(n % AUTHORS + 1, f"after it all {n}") for n in range(100)])
        bad.check()

        code, took_s = stop(process)
        assert code == 0
        assert took_s < STOPPED_S

    letters = bad.letters()
    for topic in LOGS_OF_WORKERS:
        committed = committed_offsets(bad.settings.kafka_bootstrap, topic)
        assert all(offset < committed[partition] for name, partition, offset in letters if name == topic.name)
    for place, value in sent.items():
        letter = letters.pop(place)
        assert (letter.key, letter.value, letter.header("own")) == (b"key", value, "header")
        assert letter.header("__connect.errors.topic") == place[0]
        assert letter.header("__connect.errors.stage") == "VALUE_CONVERTER"
        assert letter.header("__connect.errors.exception.class.name") == "infra.errors.Undecodable"
        assert letter.header("__connect.errors.exception.message")
    for place in beyond:
        letter = letters.pop(place)
        assert letter.value == BEYOND[:CUT_VALUE_BYTES]
        assert "value 9000000" in letter.header("__fanfold.errors.truncated")
    assert len(letters) == 3 + 50
    for (topic_name, _, _), letter in letters.items():
        assert topic_name == ACTIVITY.name  # a batch that only fails whole buries nothing: deliver has no letter here
        assert letter.header("__connect.errors.stage") == "TASK_PUT"
        assert letter.header("__connect.errors.connector.name") == "fan_out"
        assert letter.header("__connect.errors.exception.class.name") == "LookupError"
        assert letter.header("__connect.errors.exception.message") == "this handler cannot take a batch of 1"


def test_a_worker_ends_soon_in_the_middle_of_bad_messages_and_another_goes_on(bad: Bad) -> None:
    with bad.worker() as (process, _):
        for batch in range(5):
            bad.publisher.post_many([NewTweet(n % AUTHORS + 1, f"busy {batch} {n}") for n in range(200)])
            for partition in range(DELIVERIES.partitions):
                bad.send(DELIVERIES, partition, b"\xff")
        code, took_s = stop(process)
        assert took_s < STOPPED_S
        assert code in (0, EXIT_UNFINISHED)

    with bad.worker() as (process, _):
        bad.check()


def test_a_worker_that_would_bury_more_than_its_share_stops_and_says_why(bad: Bad) -> None:
    before = bad.ends(ACTIVITY.dead_letters)
    with bad.worker(FANFOLD_DEAD_LETTER_SHARE_MAX="0") as (process, log):
        topic, partition, offset = bad.send(ACTIVITY, 2, b"\xff no event")
        assert process.wait(30) == EXIT_NOT_AGAIN
        said = log.read_text()
    assert "agent fan_out stops: 1 of its last 1 messages (100.00%) would be dead letters" in said
    assert f"at {topic} partition {partition} offset {offset}: infra.errors.Undecodable: " in said
    assert bad.ends(ACTIVITY.dead_letters) == before
    assert committed_offsets(bad.settings.kafka_bootstrap, ACTIVITY)[partition] <= offset

    with bad.worker():
        bad.check()
    assert (topic, partition, offset) in bad.letters()


def test_burying_waits_for_a_broker_that_is_away_and_acknowledges_nothing(bad: Bad) -> None:
    folder, kafka = bad.stack.data_dir, bad.stack
    with bad.worker() as (process, log):
        bad.publisher.post_many([NewTweet(HELD_AUTHOR, "held")])
        wait_for((folder / "held").exists, "the handler to have the event")
        before = committed_offsets(bad.settings.kafka_bootstrap, ACTIVITY)
        kafka.kill("kafka", signal.SIGSTOP)
        try:
            (folder / "go").touch()
            wait_for(lambda: "dead letters wait" in log.read_text(), "the worker to say that it waits")
            code, took_s = stop(process)
        finally:
            kafka.kill("kafka", signal.SIGCONT)
    assert code == EXIT_UNFINISHED
    assert took_s < STOPPED_S
    assert bad.committed_when_the_broker_is_back() == before

    with bad.worker():
        bad.check()
    buried = [decode_activity(letter.value) for letter in bad.letters().values() if letter.header(STAGE) == "TASK_PUT"]
    assert [event.author_id for event in buried].count(HELD_AUTHOR) == 1


def test_a_member_of_another_team_s_group_stops_soon_without_the_broker(bad: Bad, tmp_path: Path) -> None:
    log = own_log(bad.settings.kafka_bootstrap)
    log.write([one for author in range(1, 21) for one in posts(author, range(1, 51))])
    handled = tmp_path / "handled"
    handled.touch()
    words = ["-m", "tests.stack.stream_member", log.bootstrap, log.topic, "away", str(handled)]
    with subprocess.Popen([sys.executable, *words], stdout=subprocess.DEVNULL) as member:
        wait_for(lambda: handled.read_text() != "", "an event")
        bad.stack.kill("kafka", signal.SIGSTOP)
        try:
            wait_for(lambda: _stands_still(handled), "the member to do what it has")
            code, took_s = stop(member)
        finally:
            bad.stack.kill("kafka", signal.SIGCONT)
    assert code == 0
    assert took_s < MEMBER_STOPPED_S


def _stands_still(file: Path) -> bool:
    before = file.read_text()
    time.sleep(COMMIT_EVERY_S)  # so a commit is under way by now
    return file.read_text() == before
