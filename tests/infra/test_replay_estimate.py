"""What a replay reads is asked in bounded time."""

from collections.abc import Mapping

import pytest
import sqlalchemy as sa

from infra import replay_sources
from infra.errors import KafkaUnavailable
from infra.log_reader import Log, LogMessage
from infra.replay_estimate import estimate
from infra.replay_jobs import Job, Plan
from infra.replay_what import Source, What


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
