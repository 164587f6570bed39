"""What a hedge waits for, how many there are, and what becomes of late replies."""

from typing import Any

from infra.errors import RedisUnavailable
from infra.hedging import (
    DELAY_S_FIRST,
    DELAY_S_MAX,
    DELAY_S_MIN,
    LOOK_EVERY_CALLS,
    SAVED_MAX,
    SHARE_MAX,
    WINDOW_CALLS,
    Budget,
    Delay,
)
from infra.late_replies import LATE_MAX, LATE_S_MAX, LOOK_EVERY_S, LateReplies


def test_the_delay_is_the_95th_percentile_of_the_last_calls() -> None:
    delay = Delay()
    assert delay.seconds == DELAY_S_FIRST
    for _ in range(WINDOW_CALLS):
        delay.note(0.09)
    for number in range(WINDOW_CALLS):
        delay.note(0.03 if number % 10 == 0 else 0.001)

    assert delay.seconds == 0.03


def test_the_delay_stays_in_its_bounds() -> None:
    delay = Delay()
    for _ in range(WINDOW_CALLS):
        delay.note(0.000_1)
    assert delay.seconds == DELAY_S_MIN
    for _ in range(WINDOW_CALLS):
        delay.note(5.0)
    assert delay.seconds == DELAY_S_MAX


def test_the_window_is_bounded() -> None:
    delay = Delay()
    for _ in range(3 * WINDOW_CALLS + LOOK_EVERY_CALLS):
        delay.note(0.001)
    assert len(delay._took_s) == WINDOW_CALLS


def test_when_every_call_is_late_only_a_share_is_sent_twice() -> None:
    budget, hedged, calls = Budget(), 0, 10_000
    for _ in range(calls):
        budget.earn()
        if budget.spend():
            budget.earn()
            hedged += 1

    assert hedged <= calls * SHARE_MAX / (1 - SHARE_MAX) + SAVED_MAX + 2


class Late:
    """A reply that comes when the test says so."""

    def __init__(self) -> None:
        self.answers: list[Any] | None = None
        self.dropped = self.broken = False

    def poll(self) -> list[Any] | None:
        if self.broken:
            raise RedisUnavailable("the connection is closed")
        return self.answers

    def drop(self) -> None:
        self.dropped = True


class Clock:
    """Seconds."""

    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def never_lost() -> None:
    raise AssertionError("one was lost")


def test_a_node_is_late_until_the_last_late_reply_has_come() -> None:
    clock = Clock()
    late, first, second = LateReplies(never_lost, clock), Late(), Late()
    assert not late.any()
    late.add(first)
    late.add(second)
    for reply in (first, second):
        clock.now_s += 2 * LOOK_EVERY_S
        assert late.any()
        reply.answers = [b"answer"]
    clock.now_s += 2 * LOOK_EVERY_S
    assert not late.any()
    assert not first.dropped


def test_a_late_reply_whose_connection_is_closed_or_that_never_comes_is_forgotten() -> None:
    clock = Clock()
    lost = list[float]()
    late, broken, never = LateReplies(lambda: lost.append(clock.now_s), clock), Late(), Late()
    broken.broken = True
    late.add(broken)
    late.add(never)
    clock.now_s = LATE_S_MAX / 2
    assert late.any()
    clock.now_s = LATE_S_MAX
    assert not late.any()
    assert (broken.dropped, never.dropped, lost) == (False, True, [LATE_S_MAX])


def test_late_replies_are_bounded() -> None:
    late, replies = LateReplies(never_lost, Clock()), [Late() for _ in range(LATE_MAX + 3)]
    for reply in replies:
        late.add(reply)
    assert [reply.dropped for reply in replies] == [False] * LATE_MAX + [True] * 3
    late.close()
    assert all(reply.dropped for reply in replies)
