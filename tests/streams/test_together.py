"""What is known of partitions whose batches a round tries to handle in one go."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest

from infra.topics import DELIVERIES
from streams.app import DELIVER_ROUNDS, _add_agent
from streams.progress import PROGRESS

PLACES = [("deliver", 0), ("deliver", 1)]


def state() -> list[str]:
    works = [PROGRESS.of(place) for place in PLACES]
    return ["in line" if work.in_line else "at work" if work.batch else "idle" for work in works]


def event(partition: int) -> Any:
    return SimpleNamespace(message=SimpleNamespace(partition=partition, offset=3, timestamp=1.0, generation_id=1))


@pytest.mark.parametrize("done", [True, False])
def test_partitions_are_at_work_together_and_back_in_line_when_each_has_to_be_handled_for_itself(done: bool) -> None:
    """A round that hangs must not look like one that waits for its turn, nor the other way round."""
    seen: list[list[str]] = []

    def handle_together(_: Sequence[Any], __: Any) -> bool:
        seen.append(state())
        return done

    handling: Any = SimpleNamespace(
        agent="deliver",
        patience=lambda: lambda: 0.0,
        handle=lambda *_: seen.append(state()),
        handle_together=handle_together,
    )
    app: Any = SimpleNamespace(topic=lambda *_, **__: None, agent=lambda *_, **__: lambda function: function)
    for place in PLACES:
        PROGRESS.line_up(place)
    with ThreadPoolExecutor(1) as threads:
        parts: Any = SimpleNamespace(threads=threads)
        rounds = _add_agent(app, parts, DELIVERIES, handling, DELIVER_ROUNDS, lambda _: True)
        process: Any = rounds._process
        asyncio.run(process([[event(0)], [event(1)]]))

    one_by_one = [["at work", "in line"], ["idle", "at work"]]
    assert seen == [["at work", "at work"], *([] if done else one_by_one)]
    assert state() == ["idle", "idle"]
    PROGRESS.forget()
