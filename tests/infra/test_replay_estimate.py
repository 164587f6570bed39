"""What a replay would do is asked in bounded time."""

from itertools import repeat

import pytest
import sqlalchemy as sa

from infra import replay_estimate
from infra.errors import KafkaUnavailable
from infra.replay_jobs import Counts, Job, Plan, Position
from infra.replay_sources import Page
from infra.replay_what import Source, What


def test_a_log_that_gives_nothing_any_more_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay_estimate, "SILENT_MAX_S", 0.05)
    monkeypatch.setattr(replay_estimate, "pages", lambda *_: repeat(Page([], Position(), Counts())))
    job = Job(0, What(Source.LOG), Plan(), 1, 0, 0, 0)

    with pytest.raises(KafkaUnavailable, match=r"Kafka at nobody:1 has given nothing of the log for 0\.05 s"):
        replay_estimate.estimate(sa.create_engine("sqlite://"), "nobody:1", job)
