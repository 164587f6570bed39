"""`fanfold dlq` on a real broker."""

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, NewTopic
from typer.testing import CliRunner

from infra.dead_letters import DeadLetter, DeadLetters, Stage
from infra.errors import NotFound, Undecodable
from infra.events import Activity, ActivityType, encode_activity
from infra.settings import Settings
from infra.topics import ACTIVITY, DELIVERIES, Topic
from streams import dlq_commands
from streams.read_dead_letters import look, read_one, reader
from tests.services import Services

EVENT = encode_activity(Activity(ActivityType.POSTED, 1, 2, 3)).encode()


def bury(services: Services, *values: bytes | None, topic: str = ACTIVITY.name) -> None:
    DeadLetters(services.kafka_bootstrap).send(
        [
            DeadLetter(topic, 3, 120 + number, 1_500, b"42", value, [], "fan_out", Stage.DECODE, "X", Undecodable("no"))
            for number, value in enumerate(values)
        ]
    )


@pytest.fixture
def letters(services: Services) -> Iterator[str]:
    """A topic with dead letters of this test's own."""
    name = f"letters-{secrets.token_hex(4)}"
    admin, limits = AdminClient({"bootstrap.servers": services.kafka_bootstrap}), {"max.message.bytes": "8388608"}
    admin.create_topics([NewTopic(f"{name}.dlq", 1, 1, config=limits)])[f"{name}.dlq"].result(20)
    while not admin.list_topics(f"{name}.dlq", timeout=20).topics[f"{name}.dlq"].partitions:
        continue  # the broker hears of it a moment after the controller
    yield name
    admin.delete_topics([f"{name}.dlq"])[f"{name}.dlq"].result(20)


def fanfold(
    services: Services, tmp_path: Path, *words: str, bootstrap: str = ""
) -> "subprocess.CompletedProcess[bytes]":
    environ = os.environ | {"FANFOLD_KAFKA_BOOTSTRAP": bootstrap or services.kafka_bootstrap}
    command = [sys.executable, "-m", "infra", "--data-dir", str(tmp_path), "dlq", *words]
    return subprocess.run(command, capture_output=True, check=False, env=environ, timeout=60)


def test_a_list_has_the_counts_and_the_newest_letters_first(services: Services, letters: str) -> None:
    with reader(services.kafka_bootstrap) as consumer:
        empty = look(consumer, f"{letters}.dlq", 20)
        bury(services, *[b"x" * size for size in range(30)], None, topic=letters)
        full, counted = look(consumer, f"{letters}.dlq", 5), look(consumer, f"{letters}.dlq", 0)

    assert (empty.count, empty.oldest_ms, empty.newest) == (0, None, ())
    assert (full.count, counted.count, counted.newest) == (31, 31, ())
    assert [line.letter.offset for line in full.newest] == [30, 29, 28, 27, 26]
    assert [line.value_bytes for line in full.newest] == [None, 29, 28, 27, 26]
    assert full.newest[0].letter.header("__connect.errors.offset") == "150"
    assert full.oldest_ms is not None
    assert full.newest_ms == full.newest[0].letter.time_ms >= full.oldest_ms


def test_a_letter_is_found_by_its_offset_and_a_wrong_offset_is_told_the_right_ones(
    services: Services, letters: str
) -> None:
    with reader(services.kafka_bootstrap) as consumer:
        with pytest.raises(NotFound, match=r"holds no dead letters, so there is none at offset 0"):
            read_one(consumer, f"{letters}.dlq", 0)
        bury(services, b"a", b"b" * 5_000_000, topic=letters)

        assert read_one(consumer, f"{letters}.dlq", 1).value == b"b" * 5_000_000
        with pytest.raises(NotFound, match=r"no dead letter at offset 2; it holds the offsets 0 to 1"):
            read_one(consumer, f"{letters}.dlq", 2)


def test_json_is_exactly_one_object(services: Services, tmp_path: Path) -> None:
    bury(services, EVENT)

    listed = fanfold(services, tmp_path, "list", "--topic", "activity", "--limit", "1", "--json")
    [yard] = json.loads(listed.stdout)["topics"]
    [newest] = yard["letters"]
    shown = fanfold(services, tmp_path, "show", "activity.dlq", str(newest["offset"]), "--json")

    assert (listed.returncode, shown.returncode, listed.stderr, shown.stderr) == (0, 0, b"", b"")
    letter = json.loads(shown.stdout)
    assert letter["original"] == {
        "topic": "activity",
        "partition": 3,
        "offset": 120,
        "time": "1970-01-01T00:00:01.500Z",
    }
    assert letter["value"] == EVENT.decode()
    assert letter["decoded"]["tweet_id"] == "2"
    assert {header["name"] for header in letter["headers"]} >= {"__connect.errors.exception.stacktrace"}


def test_people_get_tables_and_a_file_gets_the_bytes_as_they_are(services: Services, tmp_path: Path) -> None:
    value = bytes(range(256)) * 10
    bury(services, value, topic=DELIVERIES.name)

    listed = fanfold(services, tmp_path, "list")
    offset = json.loads(fanfold(services, tmp_path, "list", "--topic", "deliveries", "--json").stdout)["topics"][0][
        "letters"
    ][0]["offset"]
    shown = fanfold(services, tmp_path, "show", "deliveries", str(offset))
    raw = fanfold(services, tmp_path, "show", "deliveries", str(offset), "--value", "raw")

    assert b"deliveries.dlq: " in listed.stdout
    assert b"deliveries/3/120" in listed.stdout
    assert b"infra.errors.Undecodable: no" in listed.stdout
    assert b"00000010  10 11 12" in shown.stdout
    assert (raw.returncode, raw.stdout) == (0, value)


@pytest.mark.parametrize(
    ("words", "code", "sentence"),
    [
        (("list", "--topic", "tweets"), 2, "'tweets' is not a log with dead letters; those are activity, deliveries"),
        (("list", "--limit", "1001"), 2, "'1001' is not a number of letters, which is from 0 to 1000"),
        (("list", "--limit", "all"), 2, "'all' is not a number of letters"),
        (("show", "activity", "x"), 2, "'x' is not an offset, which is a whole number from 0"),
        (("show", "activity", "9223372036854775808"), 2, "'9223372036854775808' is not an offset"),
        (("show", "activity", "-1"), 2, "No such option"),
        (("show", "activity", "999999999"), 2, "activity.dlq"),
        (("show", "activity", "0", "--value", "xml"), 2, "'xml' is not one of 'raw', 'hex', 'text'"),
    ],
)
def test_a_mistake_names_the_value_and_the_rule(
    services: Services, tmp_path: Path, words: tuple[str, ...], code: int, sentence: str
) -> None:
    done = fanfold(services, tmp_path, *words)

    assert (done.returncode, done.stdout) == (code, b"")
    said = " ".join(done.stderr.decode().replace("│", " ").split())
    assert sentence in said
    assert "Traceback" not in said


def test_a_broker_that_cannot_be_reached_is_one_sentence_and_exit_3(services: Services, tmp_path: Path) -> None:
    done = fanfold(services, tmp_path, "list", bootstrap="127.0.0.1:1")

    assert (done.returncode, done.stdout) == (3, b"")
    assert done.stderr.decode().startswith("fanfold: Kafka at 127.0.0.1:1 does not answer: ")
    assert done.stderr.count(b"\n") == 1


def test_a_topic_that_is_missing_is_told_how_to_make(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dlq_commands, "TOPICS", [Topic("nowhere", 1, 1, "nobody", "nobody")])

    done = CliRunner().invoke(dlq_commands.group, ["list"], obj=Settings(kafka_bootstrap=services.kafka_bootstrap))

    assert isinstance(done.exception, NotFound)
    assert str(done.exception) == "there is no topic nowhere.dlq: a group's is made with its first dead letter"


def test_bytes_are_not_written_to_a_terminal(services: Services, tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    environ = os.environ | {"FANFOLD_KAFKA_BOOTSTRAP": services.kafka_bootstrap}
    command = [sys.executable, "-m", "infra", "--data-dir", str(tmp_path), "dlq", "show", "activity", "0"]
    done = subprocess.run(
        [*command, "--value", "raw"], stdout=theirs, stderr=subprocess.PIPE, check=False, env=environ, timeout=60
    )
    os.close(theirs)
    os.close(ours)

    assert done.returncode == 2
    assert b"send them to a file or a pipe" in done.stderr
