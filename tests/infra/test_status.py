"""On which side of the threshold an author is, and the way between the sides."""

import pytest

from infra.status import Standing, Status, next_standing, side

PUSH, BOTH, PULL = Status
THRESHOLD = 100


@pytest.mark.parametrize(
    ("now", "followers", "belongs"),
    [
        (PUSH, 100, PUSH),
        (PUSH, 101, PULL),
        (PULL, 101, PULL),
        (PULL, 100, PULL),
        (PULL, 81, PULL),
        (PULL, 80, PUSH),
        (PUSH, 0, PUSH),
        (PULL, 0, PUSH),
    ],
)
def test_at_the_threshold_an_author_is_pushed_and_at_four_fifths_of_it_he_is_again(
    now: Status, followers: int, belongs: Status
) -> None:
    assert side(now, followers, THRESHOLD) is belongs


@pytest.mark.parametrize(
    ("standing", "followers", "after"),
    [
        (Standing(), 100, None),
        (Standing(), 101, Standing(BOTH, PUSH)),
        (Standing(PUSH, BOTH), 101, Standing(BOTH, PUSH)),
        (Standing(BOTH, PUSH), 101, Standing(PULL, BOTH)),
        (Standing(BOTH, PUSH), 81, Standing(PULL, BOTH)),
        (Standing(BOTH, PUSH), 80, Standing(PUSH, BOTH)),
        (Standing(PULL, BOTH), 81, None),
        (Standing(PULL, BOTH), 80, Standing(BOTH, PULL)),
        (Standing(PULL), 80, Standing(BOTH, PULL)),
        (Standing(BOTH, PULL), 80, Standing(PUSH, BOTH)),
        (Standing(BOTH, PULL), 100, Standing(PUSH, BOTH)),
        (Standing(BOTH, PULL), 101, Standing(PULL, BOTH)),
    ],
)
def test_the_way_to_the_other_side_is_through_both(standing: Standing, followers: int, after: Standing | None) -> None:
    assert next_standing(standing, followers, THRESHOLD) == after


@pytest.mark.parametrize("threshold", [1, 2, 3, 5])
def test_nobody_swings_around_one_number(threshold: int) -> None:
    for followers in range(2 * threshold + 2):
        for now in (PUSH, PULL):
            there = side(now, followers, threshold)
            assert side(there, followers, threshold) is there
