"""Waiting for counters: both logs, in words, and not without end."""

from collections.abc import Callable
from typing import cast

import pytest
import sqlalchemy as sa

from consumers.applied import COUNTERS_AWAY_S, POLL_S, wait_until_folded
from infra.errors import CheckFailed
from infra.topics import ACTIVITY, REACTIONS, Topic

ENGINE = cast(sa.Engine, None)


def test_both_logs_are_waited_for_and_it_is_said_what_for() -> None:
    left = {ACTIVITY.name: [2, 1, 0], REACTIONS.name: [1_500, 0]}
    heard: list[str] = []
    wait_until_folded(
        *(ENGINE, "", 60, heard.append),
        unfolded=lambda *asked: left[asked[2].name].pop(0),
        folding=lambda _: True,
        pause=lambda _: None,
    )
    assert heard == [
        "2 messages of the activity log that counters has not folded",
        "1 messages of the activity log that counters has not folded",
        "1,500 messages of the reactions log that counters has not folded",
    ]
    assert left == {ACTIVITY.name: [], REACTIONS.name: []}


class Clock:
    """A clock that a pause moves on."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def read(self) -> float:
        return self.now_s

    def pause(self, pause_s: float) -> None:
        self.now_s += pause_s


def behind_in(topic: Topic) -> Callable[..., int]:
    """Seven messages of this log are left for ever."""
    return lambda *asked: 7 * (asked[2] is topic)


@pytest.mark.parametrize("behind", [ACTIVITY, REACTIONS])
def test_after_the_limit_it_says_what_is_left(behind: Topic) -> None:
    clock = Clock()
    with pytest.raises(CheckFailed, match=f"after 3 s there are still 7 messages of the {behind.name} log"):
        wait_until_folded(
            *(ENGINE, "", 3),
            unfolded=behind_in(behind),
            folding=lambda _: True,
            pause=clock.pause,
            clock=clock.read,
        )
    assert clock.now_s == 3


def test_without_a_process_of_counters_it_says_so_soon() -> None:
    clock = Clock()
    sentence = "no process of counters is running, and there are 7 messages .* start `fanfold counters`"
    with pytest.raises(CheckFailed, match=sentence):
        wait_until_folded(
            *(ENGINE, "", 120),
            unfolded=behind_in(REACTIONS),
            folding=lambda _: False,
            pause=clock.pause,
            clock=clock.read,
        )
    assert clock.now_s == COUNTERS_AWAY_S


def test_one_that_starts_again_is_waited_for() -> None:
    clock = Clock()
    with pytest.raises(CheckFailed, match="after 60 s there are still"):
        wait_until_folded(
            *(ENGINE, "", 60),
            unfolded=behind_in(ACTIVITY),
            folding=lambda _: clock.now_s % COUNTERS_AWAY_S < POLL_S,
            pause=clock.pause,
            clock=clock.read,
        )


def test_without_anything_to_fold_nobody_needs_counters() -> None:
    wait_until_folded(ENGINE, "", 0, unfolded=lambda *_: 0, folding=lambda _: False)
