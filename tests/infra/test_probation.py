"""How long a node that was dropped stays out."""

from itertools import count

from infra.live_settings import LiveSettings
from infra.probation import FIRST_S, LONGEST_S, STEADY_S, Probation
from tests.clock import Clock


def dropped(probation: Probation, clock: Clock, after_s: float, times: int) -> list[float]:
    """For how long it stays out each time when it is dropped so long after it came back."""
    found = []
    for _ in range(times):
        clock.now_s += after_s
        wait_s = probation.left_s(f"incarnation {next(NUMBERS)}")
        clock.now_s += max(wait_s, 0.0)
        probation.note_back()
        found.append(wait_s)
    return found


NUMBERS = count()


def test_a_node_that_is_dropped_for_the_first_time_comes_back_at_once() -> None:
    assert Probation(Clock()).left_s("first") == 0.0


def test_one_that_is_dropped_soon_after_it_came_back_stays_out_longer_each_time() -> None:
    clock = Clock()
    waits_s = dropped(Probation(clock), clock, 3.0, 7)

    assert waits_s == [0.0, FIRST_S, 2 * FIRST_S, 4 * FIRST_S, 8 * FIRST_S, LONGEST_S, LONGEST_S]


def test_one_that_was_well_for_long_begins_anew() -> None:
    clock = Clock()
    probation = Probation(clock)
    dropped(probation, clock, 3.0, 4)

    assert dropped(probation, clock, STEADY_S, 1) == [0.0]
    assert dropped(probation, clock, 3.0, 1) == [FIRST_S]


def test_the_time_runs_from_when_it_was_first_seen_as_dropped() -> None:
    clock = Clock()
    probation = Probation(clock)
    probation.note_back()

    left_s = [probation.left_s("one")]
    clock.now_s += 0.5
    left_s.append(probation.left_s("one"))

    assert left_s == [FIRST_S, FIRST_S - 0.5]


def test_it_alone_never_lasts_until_the_node_leaves_the_ring() -> None:
    assert LiveSettings().leave_after_s > LONGEST_S
