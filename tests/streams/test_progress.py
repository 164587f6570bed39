"""Progress: lags that are zero when no message is left, markers or not, and who silently stopped."""

from collections import deque

import pytest

from infra import kafka
from streams.progress import STALLED_S, Fetched, Progress, Run, Work, lag_offsets, lag_s, oldest_open, stalled
from tests.clock import Clock

PLACE = ("deliver", 3)
NOW_MS = 1_000_000


@pytest.mark.parametrize(
    ("runs", "work", "open_"),
    [
        ([], Work(), None),
        ([Run(5, 9, 70)], Work(), Run(5, 9, 70)),
        ([Run(5, 9, 70)], Work(done=9), None),
        ([Run(5, 9, 70)], Work(done=6), Run(7, 9, 70)),
        ([Run(5, 9, 70), Run(11, 12, 80)], Work(done=9), Run(11, 12, 80)),
        ([Run(5, 9, 70), Run(11, 12, 80)], Work(done=9, batch=Run(11, 11, 80)), Run(11, 11, 80)),
        ([], Work(done=9, batch=Run(11, 11, 80)), Run(11, 11, 80)),
    ],
)
def test_the_oldest_open_message_is_the_first_fetched_one_that_is_not_worked_off(
    runs: list[Run], work: Work, open_: Run | None
) -> None:
    assert oldest_open(Fetched(20, deque(runs)), work) == open_


def test_what_is_worked_off_is_let_go() -> None:
    runs = deque(Run(first, first, 0) for first in range(100))
    oldest_open(Fetched(100, runs), Work(done=97))
    assert [run.first for run in runs] == [98, 99]


@pytest.mark.parametrize(
    ("end", "position", "open_", "lag"),
    [
        (20, 20, None, 0),  # all is worked off, and the marker before the end was read over
        (20, 18, None, 2),  # not fetched yet
        (20, 20, Run(15, 18, 0), 5),  # fetched, not worked off
        (19, 20, None, 0),  # written and read between two looks
        (None, 20, None, None),  # Kafka is away
        (20, None, None, None),  # the consumer does not know where to begin yet
    ],
)
def test_the_lag_is_counted_from_the_oldest_open_message_or_else_from_the_position(
    end: int | None, position: int | None, open_: Run | None, lag: int | None
) -> None:
    assert lag_offsets(end, position, open_) == lag


@pytest.mark.parametrize(
    ("lag", "open_", "seconds"),
    [
        (0, None, 0.0),
        (4, Run(1, 2, NOW_MS - 2_500), 2.5),
        (4, Run(1, 2, NOW_MS + 2_500), 0.0),  # another machine's clock is ahead
        (4, None, 7.0),  # not fetched: known for 7 s
    ],
)
def test_the_lag_in_seconds_is_the_age_of_the_oldest_message(lag: int, open_: Run | None, seconds: float) -> None:
    assert lag_s(lag, open_, 7.0, NOW_MS) == seconds


@pytest.mark.parametrize(
    ("quiet_s", "sentences"),
    [
        (0.0, []),
        (STALLED_S, []),
        (STALLED_S + 1, ["deliver has messages in partition 3 and has not moved for 46 s"]),
    ],
)
def test_a_partition_that_does_not_move_for_too_long_is_named(quiet_s: float, sentences: list[str]) -> None:
    assert stalled({PLACE: 100.0 - quiet_s, ("fan_out", 1): 100.0}, 100.0) == sentences


def test_a_healthy_batch_is_never_silent_for_as_long_as_a_stalled_one() -> None:
    assert 2 * kafka.CALL_TIMEOUT_S < STALLED_S


def test_a_batch_moves_when_it_begins_when_it_tries_again_and_when_it_ends() -> None:
    clock = Clock()
    progress = Progress(clock)
    progress.begin(PLACE, Run(4, 8, 70))
    assert progress.of(PLACE).moved_s == 100
    clock.now_s = 110
    progress.beat(PLACE, "nodes b1")
    assert progress.of(PLACE).moved_s == 110
    assert progress.waiting() == ["deliver 3: nodes b1"]
    clock.now_s = 120
    progress.finish(PLACE)
    assert progress.of(PLACE) == Work(done=8, moved_s=120)
    assert progress.waiting() == []


def test_partitions_that_were_given_back_are_forgotten() -> None:
    progress = Progress()
    progress.begin(PLACE, Run(4, 8, 70))
    progress.finish(PLACE)
    progress.forget()
    assert progress.of(PLACE) == Work()
