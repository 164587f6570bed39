"""Waiting for counters: both logs, in words, and not without end."""

from typing import Any, cast

import pytest
import sqlalchemy as sa

from consumers.applied import wait_until_folded
from infra.errors import CheckFailed
from infra.topics import ACTIVITY, REACTIONS, Topic

ENGINE = cast(sa.Engine, None)


def test_both_logs_are_waited_for_and_it_is_said_what_for() -> None:
    left = {ACTIVITY.name: [2, 1, 0], REACTIONS.name: [1_500, 0]}
    heard: list[str] = []
    wait_until_folded(
        ENGINE, "", 60, heard.append, unfolded=lambda *asked: left[asked[2].name].pop(0), pause=lambda _: None
    )
    assert heard == [
        "2 messages of the activity log that counters has not folded",
        "1 messages of the activity log that counters has not folded",
        "1,500 messages of the reactions log that counters has not folded",
    ]
    assert left == {ACTIVITY.name: [], REACTIONS.name: []}


@pytest.mark.parametrize("behind", [ACTIVITY, REACTIONS])
def test_after_the_limit_it_says_what_is_left(behind: Topic) -> None:
    now_s = [0.0]

    def advance(pause_s: float) -> None:
        now_s[0] += pause_s

    def unfolded(*asked: Any) -> int:
        return 7 * (asked[2] is behind)

    with pytest.raises(CheckFailed, match=f"after 3 s there are still 7 messages of the {behind.name} log"):
        wait_until_folded(ENGINE, "", 3, unfolded=unfolded, pause=advance, clock=lambda: now_s[0])
    assert now_s[0] == 3
