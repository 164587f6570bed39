"""How a replay reads the log: in bounded time, and all partitions side by side."""

import math
from collections.abc import Mapping

import pytest
import sqlalchemy as sa

from infra import replay_sources
from infra.errors import KafkaUnavailable
from infra.log_reader import Log, LogMessage
from infra.replay_estimate import estimate
from infra.replay_jobs import Job, Plan
from infra.replay_sources import PAGE_ROWS, mixed
from infra.replay_what import Source, What


class Reader:
    """Hands out what it is given, read by read, and then nothing."""

    def __init__(self, *reads: list[LogMessage]) -> None:
        self._reads = list(reads)

    def read(self, timeout_s: float) -> list[LogMessage]:
        return self._reads.pop(0) if self._reads else []


class Silent:
    """A reader whose client asks for nothing any more."""

    def __init__(self, bootstrap: str, start: Mapping[Log, int], fetched_bytes: int) -> None:
        pass

    def read(self, timeout_s: float) -> list[LogMessage]:
        return []

    def close(self) -> None:
        pass


def test_a_log_that_gives_nothing_any_more_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_sources, "LogReader", Silent)
    job = Job(0, What(Source.LOG), Plan(offsets={0: (0, 5)}), 1, 0, 0, 0)

    with pytest.raises(KafkaUnavailable, match=r"Kafka at nobody:1 has given nothing of the log for 20 s"):
        estimate(sa.create_engine("sqlite://"), "nobody:1", job)


def of_partition(partition: int, *offsets: int) -> list[LogMessage]:
    return [LogMessage(("activity", partition), one, one + 1, None, b"x", 0) for one in offsets]


def test_a_page_has_messages_of_all_partitions_in_turn_each_in_its_order() -> None:
    reader = Reader(of_partition(0, 1, 2, 3), of_partition(5, 7, 8), of_partition(3, 4))

    page = mixed(reader, math.inf)  # type: ignore[arg-type]

    assert [(one.log[1], one.offset) for one in page] == [(0, 1), (5, 7), (3, 4), (0, 2), (5, 8), (0, 3)]


def test_a_page_is_collected_for_a_bounded_time_and_up_to_a_bounded_size() -> None:
    endless = [of_partition(0, one) for one in range(2 * PAGE_ROWS)]

    assert len(mixed(Reader(*endless), 0.0)) == 1  # type: ignore[arg-type]
    assert len(mixed(Reader(*endless), math.inf)) == PAGE_ROWS  # type: ignore[arg-type]
