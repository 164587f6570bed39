"""Dead letters on a real broker: the headers, the large ones, and a broker that is away."""

import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from infra import dead_letters
from infra.dead_letters import CUT_HEADERS_BYTES, CUT_VALUE_BYTES, DeadLetter, DeadLetters, Headers, Stage
from infra.errors import KafkaUnavailable, Undecodable
from infra.topics import ACTIVITY, DEAD_LETTER_BYTES_MAX, MESSAGE_BYTES_MAX
from streams.batches import BATCH_WAIT_S
from tests.services import Services

# Kafka Connect's names, spelled out: org.apache.kafka.connect.runtime.errors.DeadLetterQueueReporter.
CONNECT = {
    "TOPIC": "__connect.errors.topic",
    "PARTITION": "__connect.errors.partition",
    "OFFSET": "__connect.errors.offset",
    "CONNECTOR_NAME": "__connect.errors.connector.name",
    "TASK_ID": "__connect.errors.task.id",
    "STAGE": "__connect.errors.stage",
    "EXECUTING_CLASS": "__connect.errors.class.name",
    "EXCEPTION": "__connect.errors.exception.class.name",
    "EXCEPTION_MESSAGE": "__connect.errors.exception.message",
    "EXCEPTION_STACKTRACE": "__connect.errors.exception.stacktrace",
}


def failure(message: str) -> Undecodable:
    try:
        raise Undecodable(message)
    except Undecodable as error:
        return error


def letter(
    value: bytes | None, *, topic: str = ACTIVITY.name, message: str = "", headers: Headers | None = None
) -> Any:
    return DeadLetter(
        topic=topic,
        partition=3,
        offset=7,
        timestamp_ms=1_500,
        key=b"key",
        value=value,
        headers=headers or [],
        agent="fan_out",
        stage=Stage.DECODE,
        executing_class="streams.app.FanOutWork",
        reason=failure(message),
    )


def newest(services: Services, topic: str, count: int = 1) -> list[Any]:
    consumer = Consumer({"bootstrap.servers": services.kafka_bootstrap, "group.id": "test-letters"})
    end = consumer.get_watermark_offsets(TopicPartition(topic, 0))[1]
    consumer.assign([TopicPartition(topic, 0, end - count)])
    letters = [consumer.poll(20) for _ in range(count)]
    consumer.close()
    assert None not in letters
    return letters


def end_of(services: Services, topic: str) -> int:
    consumer = Consumer({"bootstrap.servers": services.kafka_bootstrap, "group.id": "test-letters"})
    end = consumer.get_watermark_offsets(TopicPartition(topic, 0), 20)[1]
    consumer.close()
    return int(end)


@pytest.fixture
def small_topic(services: Services) -> Iterator[str]:
    """A topic whose dead letters take no more than the topics themselves."""
    admin, name = AdminClient({"bootstrap.servers": services.kafka_bootstrap}), f"small-{secrets.token_hex(4)}"
    limits = {"max.message.bytes": str(MESSAGE_BYTES_MAX)}
    admin.create_topics([NewTopic(f"{name}.dlq", 1, 1, config=limits)])[f"{name}.dlq"].result(20)
    yield name
    admin.delete_topics([f"{name}.dlq"])[f"{name}.dlq"].result(20)


def test_the_header_names_are_kafka_connects() -> None:
    assert {name: getattr(dead_letters, name) for name in CONNECT} == CONNECT


def test_a_letter_has_its_message_and_every_header(services: Services) -> None:
    own: Headers = [("own", b"1"), ("own", b"2"), ("none", None), (CONNECT["TOPIC"], b"an earlier burial's")]

    DeadLetters(services.kafka_bootstrap).send([letter(None, message="\x1b no version \udcff", headers=own)])

    [found] = newest(services, ACTIVITY.dead_letters)
    assert (found.key(), found.value()) == (b"key", None)
    assert found.headers()[:3] == own[:3]
    headers = dict(found.headers()[3:])
    assert len(found.headers()) == 3 + len(headers)
    trace = headers.pop(CONNECT["EXCEPTION_STACKTRACE"])
    assert b"in failure" in trace
    assert headers == {
        "__connect.errors.topic": b"activity",
        "__connect.errors.partition": b"3",
        "__connect.errors.offset": b"7",
        "__connect.errors.connector.name": b"fan_out",
        "__connect.errors.task.id": b"3",
        "__connect.errors.stage": b"VALUE_CONVERTER",
        "__connect.errors.class.name": b"streams.app.FanOutWork",
        "__connect.errors.exception.class.name": b"infra.errors.Undecodable",
        "__connect.errors.exception.message": b"\x1b no version \\udcff",
        "__fanfold.errors.timestamp_ms": b"1500",
    }


def test_an_error_that_quotes_its_whole_input_does_not_make_the_headers_large(services: Services) -> None:
    DeadLetters(services.kafka_bootstrap).send([letter(b"v", message="x" * 3_000_000)])

    [found] = newest(services, ACTIVITY.dead_letters)
    assert sum(len(value) for _, value in found.headers()) < 20_000
    assert b"in failure" in dict(found.headers())[CONNECT["EXCEPTION_STACKTRACE"]]


@pytest.mark.parametrize("value_bytes", [MESSAGE_BYTES_MAX, 2_000_000, 2 * 1_048_576, DEAD_LETTER_BYTES_MAX - 20_000])
def test_what_any_topic_of_ours_takes_fits_its_dead_letters_whole(services: Services, value_bytes: int) -> None:
    value = b"\xff" * value_bytes

    DeadLetters(services.kafka_bootstrap).send([letter(value, message="this is no event")])

    [found] = newest(services, ACTIVITY.dead_letters)
    assert found.value() == value
    assert dict(found.headers())["__connect.errors.exception.message"] == b"this is no event"
    assert "__fanfold.errors.truncated" not in dict(found.headers())


@pytest.mark.parametrize(
    ("value", "headers", "kept"),
    [
        (b"v" * DEAD_LETTER_BYTES_MAX, [("own", b"h")], [("own", b"h")]),
        (b"v" * 100, [("own", b"h" * (DEAD_LETTER_BYTES_MAX + 1))], []),
        (None, [("own", b"h" * (DEAD_LETTER_BYTES_MAX + 1))], []),
    ],
    ids=["value", "headers", "headers and no value"],
)
def test_what_is_larger_than_the_dead_letters_take_is_cut_and_says_so(
    services: Services, value: bytes | None, headers: Headers, kept: Headers
) -> None:
    DeadLetters(services.kafka_bootstrap).send([letter(b"before"), letter(value, headers=headers), letter(b"after")])

    before, after, found = newest(services, ACTIVITY.dead_letters, 3)
    assert (before.value(), after.value()) == (b"before", b"after")
    assert found.value() == (value and value[:CUT_VALUE_BYTES])
    assert [one for one in found.headers() if one[0] == "own"] == kept
    sizes = f"value {len(value or b'')}, key 3, headers {len(headers[0][1] or b'') + 3} bytes"
    assert dict(found.headers())["__fanfold.errors.truncated"].decode() == f"was larger than the topic takes: {sizes}"
    assert max(map(len, (v for _, v in found.headers()))) < CUT_HEADERS_BYTES


def test_a_topic_of_dead_letters_that_was_made_smaller_gets_cut_ones(services: Services, small_topic: str) -> None:
    """The broker refuses them, not the client."""
    DeadLetters(services.kafka_bootstrap).send([letter(b"v" * 2_000_000, topic=small_topic)])

    [found] = newest(services, f"{small_topic}.dlq")
    assert len(found.value()) == CUT_VALUE_BYTES
    assert "value 2000000" in dict(found.headers())["__fanfold.errors.truncated"].decode()


def test_more_large_letters_than_the_senders_queue_holds_are_all_sent(services: Services) -> None:
    DeadLetters(services.kafka_bootstrap).send([letter(bytes([number]) * 2_000_000) for number in range(60)])

    assert [found.value()[0] for found in newest(services, ACTIVITY.dead_letters, 60)] == list(range(60))


class Door:
    """An address in front of the broker: it takes connections, and hands them on only once it is open."""

    def __init__(self, bootstrap: str) -> None:
        self._behind = bootstrap.split(":")
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listening.getsockname()[1]}"
        self.open = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self.open.set()
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()

    def _accept(self) -> None:
        while True:
            try:
                before = self._listening.accept()[0]
            except OSError:
                return
            threading.Thread(target=self._hand_on, args=(before,), daemon=True).start()

    def _hand_on(self, before: socket.socket) -> None:
        self.open.wait()
        behind = socket.create_connection((self._behind[0], int(self._behind[1])))
        back = threading.Thread(target=pump, args=(behind, before), daemon=True)
        back.start()
        pump(before, behind)
        back.join()
        before.close()
        behind.close()


def pump(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65_536):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)


@pytest.fixture
def door(services: Services) -> Iterator[Door]:
    """A broker that is away, and can come back."""
    made = Door(services.kafka_bootstrap)
    yield made
    made.close()


def test_a_broker_that_is_away_is_said_in_time_and_gets_each_letter_once_when_it_is_back(
    services: Services, door: Door
) -> None:
    letters = DeadLetters(door.address, taken_within_s=2.0)
    before = end_of(services, ACTIVITY.dead_letters)
    for _ in range(2):
        began_s = time.monotonic()
        with pytest.raises(KafkaUnavailable, match=r"activity\.dlq did not take 1 of 1 dead letters"):
            letters.send([letter(b"waited")])
        assert time.monotonic() - began_s < BATCH_WAIT_S
    door.open.set()

    letters.send([letter(b"waited")])

    letters.send([letter(b"last")])
    assert end_of(services, ACTIVITY.dead_letters) == before + 2
    assert [found.value() for found in newest(services, ACTIVITY.dead_letters, 2)] == [b"waited", b"last"]


def test_a_topic_of_dead_letters_that_is_missing_is_named(services: Services) -> None:
    with pytest.raises(KafkaUnavailable, match=r"no-such\.dlq .* `fanfold topics create`"):
        DeadLetters(services.kafka_bootstrap, taken_within_s=0.5).send([letter(b"v", topic="no-such")])
