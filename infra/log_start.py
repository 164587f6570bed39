"""Where reading a log begins: now, at the beginning, at a time, or at given offsets; as text and as an offset for each
partition. Used by whoever reads on behalf of people and other teams."""

import re
import reprlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Self

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from infra.errors import InvalidInput, KafkaUnavailable, NotFound
from infra.shown_text import time_text

ANSWER_WITHIN_S = 10.0  # of the broker, to a question; on a busy machine some take a second
ASK_AGAIN_S = 0.2
# A topic that was just made, or whose broker came back: its leaders are known in a moment.
LEADER_NOT_YET = (KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE)
CLOCKS_APART_MS = 5_000  # a time that is less than this ahead is now: clocks differ by that much
OFFSET_MAX = (1 << 63) - 1

_AGO = re.compile(r"(\d{1,9})([smhd])", re.ASCII)
_UNIT_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_OFFSETS = re.compile(r"\d{1,9}:\d{1,19}(?:,\d{1,9}:\d{1,19})*", re.ASCII)
FORMS = "now, beginning, a time such as 2026-01-31T12:00Z, 10m (ago; also s, h, d), or offsets such as 0:120,3:57"


class StartKind(StrEnum):
    """What a start names."""

    NOW = "now"
    BEGINNING = "beginning"
    TIME = "time"
    OFFSETS = "offsets"


@dataclass(frozen=True, slots=True)
class Start:
    """Where to begin; make one with the methods below. `time_ms` counts from 1970 in UTC."""

    kind: StartKind
    time_ms: int = 0
    by_partition: Mapping[int, int] = field(default_factory=dict)

    @classmethod
    def now(cls) -> Self:
        """At the end of the log."""
        return cls(StartKind.NOW)

    @classmethod
    def beginning(cls) -> Self:
        """At the oldest message that the log still has."""
        return cls(StartKind.BEGINNING)

    @classmethod
    def at(cls, when: datetime, now_ms: int) -> Self:
        """At the first message from that time on, by the times of Kafka. A time without a zone is taken as UTC. Raises
        `InvalidInput` for a time in the future."""
        aware = when if when.tzinfo is not None else when.replace(tzinfo=UTC)
        time_ms = int(aware.timestamp() * 1000)
        if time_ms > now_ms + CLOCKS_APART_MS:
            raise InvalidInput(
                f"{time_text(time_ms)} is in the future (it is {time_text(now_ms)}): name a time before now"
            )
        if time_ms < 0:
            raise InvalidInput(f"{time_text(time_ms)} is before 1970: `beginning` names the oldest message")
        return cls(StartKind.TIME, time_ms)

    @classmethod
    def offsets(cls, by_partition: Mapping[int, int]) -> Self:
        """At these offsets; a partition that is not named begins now."""
        return cls(StartKind.OFFSETS, by_partition=dict(by_partition))


def parse_start(text: str, now_ms: int) -> tuple[Start, str]:
    """What a person wrote, and a sentence to tell him when something was taken for granted, else an empty one. Raises
    `InvalidInput`."""
    word = text.strip()
    if word in (StartKind.NOW, StartKind.BEGINNING):
        return Start(StartKind(word)), ""
    if ago := _AGO.fullmatch(word):
        return Start(StartKind.TIME, max(now_ms - int(ago[1]) * _UNIT_MS[ago[2]], 0)), ""
    if _OFFSETS.fullmatch(word):
        return Start.offsets(_parsed_offsets(word)), ""
    try:
        when = datetime.fromisoformat(word)
    except ValueError:
        raise InvalidInput(f"{reprlib.repr(text)} says not where to begin: name {FORMS}") from None
    start = Start.at(when, now_ms)
    said = "" if when.tzinfo is not None else f"{word} has no zone and is taken as UTC: {time_text(start.time_ms)}"
    return start, said


def _parsed_offsets(word: str) -> dict[int, int]:
    pairs = [(int(partition), int(offset)) for partition, offset in (pair.split(":") for pair in word.split(","))]
    found = dict(pairs)
    if len(found) != len(pairs):
        raise InvalidInput(f"{reprlib.repr(word)} names a partition twice")
    if max(found.values()) > OFFSET_MAX:
        raise InvalidInput(f"{reprlib.repr(word)} names an offset above {OFFSET_MAX}, the largest one of Kafka")
    return found


def start_offsets(consumer: Consumer, topic: str, start: Start) -> dict[int, int]:
    """The offset of each partition of a topic. Raises `InvalidInput` for an offset that the log does not have,
    `NotFound` without the topic, `KafkaUnavailable`."""
    give_up_s = time.monotonic() + ANSWER_WITHIN_S
    while True:
        try:
            return _resolved(consumer, topic, _partitions(consumer, topic), start)
        except KafkaException as error:
            if error.args[0].code() not in LEADER_NOT_YET or time.monotonic() > give_up_s:
                text = error.args[0].str()
                raise KafkaUnavailable(f"Kafka does not say where {topic} begins and ends: {text}") from error
            time.sleep(ASK_AGAIN_S)


def _partitions(consumer: Consumer, topic: str) -> Sequence[int]:
    found = consumer.list_topics(topic, ANSWER_WITHIN_S).topics[topic]
    if found.error is not None:
        raise NotFound(f"there is no topic {topic}: `fanfold topics create` makes those of Fanfold")
    return sorted(found.partitions)


def _resolved(consumer: Consumer, topic: str, partitions: Sequence[int], start: Start) -> dict[int, int]:
    bounds = {one: consumer.get_watermark_offsets(TopicPartition(topic, one), ANSWER_WITHIN_S) for one in partitions}
    ends = {one: high for one, (_, high) in bounds.items()}
    match start.kind:
        case StartKind.NOW:
            return ends
        case StartKind.BEGINNING:
            return {one: low for one, (low, _) in bounds.items()}
        case StartKind.TIME:
            asked = [TopicPartition(topic, one, start.time_ms) for one in partitions]
            places = consumer.offsets_for_times(asked, ANSWER_WITHIN_S)
            for one in places:
                if one.error is not None:  # it has no offset either, and must not pass for the end
                    raise KafkaException(one.error)
            return {one.partition: one.offset if one.offset >= 0 else ends[one.partition] for one in places}
        case StartKind.OFFSETS:
            for partition, offset in start.by_partition.items():
                _check_offset(topic, partition, offset, bounds)
            return ends | dict(start.by_partition)


def _check_offset(topic: str, partition: int, offset: int, bounds: Mapping[int, tuple[int, int]]) -> None:
    if partition not in bounds:
        raise InvalidInput(f"{topic} has no partition {partition}; it has 0 to {max(bounds)}")
    low, high = bounds[partition]
    if not low <= offset <= high:
        raise InvalidInput(f"{topic} {partition} does not have offset {offset}; it has {low} to {high}")
