"""How many dead letters are allowed."""

import pytest

from infra.settings import Settings
from streams.dead_letter_share import WINDOW_MESSAGES, DeadLetterShare
from streams.rounds import BATCH_MESSAGES_MAX

DEFAULT = Settings().dead_letter_share_max


def test_by_default_one_batch_may_fail_whole_and_a_second_one_not() -> None:
    share = DeadLetterShare(DEFAULT)

    assert share.letters_max >= BATCH_MESSAGES_MAX
    assert share.refuses(BATCH_MESSAGES_MAX, BATCH_MESSAGES_MAX) is None
    assert share.refuses(BATCH_MESSAGES_MAX, BATCH_MESSAGES_MAX)


def test_the_reason_names_the_counts_and_the_share() -> None:
    share = DeadLetterShare(DEFAULT)
    share.refuses(1_000, 950)

    assert share.refuses(1_000, 51) == (
        "1,001 of its last 2,000 messages (50.05%) would be dead letters, and at most 1,000 in 100,000 (1.00%) may"
    )


@pytest.mark.parametrize(("failing_of_200", "stops"), [(1, False), (2, False), (3, True)])
def test_a_share_below_the_limit_is_allowed_for_ever_and_one_above_it_is_not(failing_of_200: int, stops: bool) -> None:
    share = DeadLetterShare(0.01)

    refusals = [share.refuses(200, failing_of_200) for _ in range(10_000)]

    assert any(refusals) is stops


def test_a_long_good_past_does_not_pay_for_a_bad_present() -> None:
    share = DeadLetterShare(0.01)
    for _ in range(50_000):
        share.refuses(200, 0)

    assert share.refuses(WINDOW_MESSAGES, 1_000) is None
    assert share.refuses(1_000, 750)


@pytest.mark.parametrize(("share_max", "letters", "stops"), [(0.0, 0, False), (0.0, 1, True), (1.0, 200, False)])
def test_nothing_and_everything_may_be_buried(share_max: float, letters: int, stops: bool) -> None:
    share = DeadLetterShare(share_max)

    assert any(share.refuses(200, letters) for _ in range(1_000)) is stops
