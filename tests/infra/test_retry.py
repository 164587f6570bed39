"""Waits between tries: they grow, they are drawn anew, they end."""

from itertools import islice
from random import Random

import pytest

from infra.retry import Backoff, retried

BACKOFF = Backoff(first_s=0.1, max_s=0.5)


def test_each_wait_stays_below_a_bound_that_doubles_up_to_a_limit() -> None:
    drawn = [list(islice(BACKOFF.waits_s(Random(seed)), 6)) for seed in range(2_000)]

    for bound_s, waits_s in zip((0.1, 0.2, 0.4, 0.5, 0.5, 0.5), zip(*drawn, strict=True), strict=True):
        assert 0 <= min(waits_s) < 0.05 * bound_s  # full jitter: down to nothing
        assert 0.95 * bound_s < max(waits_s) <= bound_s


def test_two_who_failed_together_do_not_wait_the_same() -> None:
    first, second = (list(islice(BACKOFF.waits_s(Random(seed)), 5)) for seed in (1, 2))

    assert first != second


@pytest.mark.parametrize(("failures", "tries", "succeeds"), [(0, 1, True), (2, 3, True), (3, 3, False), (9, 3, False)])
def test_a_step_is_tried_once_more_after_each_wait_and_no_more(failures: int, tries: int, succeeds: bool) -> None:
    tried, waited = list[int](), list[float]()

    def step() -> str:
        tried.append(1)
        if len(tried) <= failures:
            raise ZeroDivisionError(f"try {len(tried)}")
        return "done"

    def wait(wait_s: float, error: Exception) -> None:
        assert str(error) == f"try {len(tried)}"
        waited.append(wait_s)

    if succeeds:
        assert retried(step, iter((0.1, 0.2)), wait) == "done"
    else:
        with pytest.raises(ZeroDivisionError, match="try 3"):
            retried(step, iter((0.1, 0.2)), wait)

    assert len(tried) == tries
    assert waited == [0.1, 0.2][: tries - 1]


def test_what_another_try_cannot_mend_is_raised_at_once() -> None:
    def step() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        retried(step, iter((0.1,)), lambda *_: pytest.fail("it waited"), on=KeyError)
