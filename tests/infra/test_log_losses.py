"""The guards of the logs as a table: where a reader would go on against what Kafka has."""

from datetime import UTC, datetime

import pytest

from infra.accept_logs import From, Step, plan
from infra.log_losses import COUNTERS, Finding, Held, Loss, Seen, advice, judge, refusal

UNTIL = datetime(2026, 11, 26, 12, tzinfo=UTC)
ONE, TWO = "log one", "log two"


@pytest.mark.parametrize(
    ("committed", "seen", "held", "loss"),
    [
        (None, None, Held(ONE, 0, 0), None),
        (None, None, Held(ONE, 0, 9), None),
        (None, None, Held(ONE, 4, 9), Loss.UNREAD_LOST),
        (7, None, Held(ONE, 0, 9), None),
        (7, None, Held(ONE, 7, 9), None),
        (7, None, Held(ONE, 8, 9), Loss.UNREAD_LOST),
        (7, Seen(ONE, 8), Held(ONE, 8, 9), None),  # a transaction's marker, which nobody acknowledges
        (7, Seen(ONE, 8), Held(ONE, 9, 9), Loss.UNREAD_LOST),
        (9, Seen(ONE, 2), Held(ONE, 5, 9), None),  # what was seen is older than what was committed
        (7, Seen(ONE, 7), Held(ONE, 0, 6), Loss.LOG_TOO_SHORT),
        (3, Seen(ONE, 7), Held(ONE, 0, 6), Loss.LOG_TOO_SHORT),
        (None, Seen(ONE, 7), Held(ONE, 0, 9), Loss.OFFSETS_GONE),
        (None, Seen(ONE, 0), Held(ONE, 0, 3), None),  # nothing was there to be read
        (None, Seen(ONE, 7), Held(ONE, 7, 9), None),
        (None, Seen(ONE, 7), Held(ONE, 8, 9), Loss.UNREAD_LOST),
        (None, Seen(TWO, 7), Held(ONE, 0, 9), Loss.MADE_ANEW),
        (7, Seen(TWO, 7), Held(ONE, 0, 9), Loss.MADE_ANEW),
    ],
)
def test_what_is_missing_is_told_from_what_is_not(
    committed: int | None, seen: Seen | None, held: Held, loss: Loss | None
) -> None:
    assert judge(committed, seen, held) is loss


def finding(loss: Loss, committed: int | None = 7, seen: Seen | None = None, reader: str = "group fanfold") -> Finding:
    return Finding(reader, "activity", 3, loss, committed, seen or Seen(ONE, 7, UNTIL), Held(ONE, 2, 9))


@pytest.mark.parametrize(
    ("one", "where", "next_offset"),
    [
        (finding(Loss.OFFSETS_GONE, None), From.RECORDED, 7),
        (finding(Loss.OFFSETS_GONE, None, Seen(ONE, 1)), From.RECORDED, 2),
        (finding(Loss.MADE_ANEW), From.RECORDED, 2),
        (finding(Loss.LOG_TOO_SHORT), From.RECORDED, 2),
        (finding(Loss.OFFSETS_GONE, None), From.EARLIEST, 2),
        (finding(Loss.OFFSETS_GONE, None), From.LATEST, 9),
        (finding(Loss.MADE_ANEW, reader=COUNTERS), From.LATEST, 2),
    ],
)
def test_reading_goes_on_where_it_is_said_and_skips_nothing_unless_told_to(
    one: Finding, where: From, next_offset: int
) -> None:
    assert plan([one], where) == [Step(one, next_offset)]


@pytest.mark.parametrize(
    ("loss", "committed", "sentence"),
    [
        (Loss.OFFSETS_GONE, None, "group fanfold has no committed offset for activity partition 3 any more, and had"),
        (Loss.MADE_ANEW, 7, "activity partition 3 was made anew: it is not the log that group fanfold worked off"),
        (Loss.UNREAD_LOST, 1, "begins at offset 2, and group fanfold has read it to offset 1: what lay between"),
        (Loss.UNREAD_LOST, None, "begins at offset 2, and group fanfold never read it"),
        (Loss.LOG_TOO_SHORT, 12, "activity partition 3 ends at offset 9, and group fanfold had worked it off to 12"),
    ],
)
def test_a_refusal_names_the_values_and_the_command_that_mends_it(
    loss: Loss, committed: int | None, sentence: str
) -> None:
    text = refusal([finding(loss, committed)])
    assert sentence in text
    assert "Nothing was skipped. `fanfold topics accept` shows" in text
    assert ", and 1 more partitions have a loss" in refusal([finding(loss, committed)] * 2)


def test_what_was_lost_is_sent_again_from_the_last_moment_that_all_was_worked_off() -> None:
    later = Seen(ONE, 7, datetime(2026, 11, 26, 13, tzinfo=UTC))
    assert list(advice([finding(Loss.MADE_ANEW, seen=later), finding(Loss.UNREAD_LOST)])) == [
        "fanfold replay --since 2026-11-26T11:58:00Z --source database --execute",
        "fanfold rebuild --active",
        "fanfold audit",
    ]
    assert next(advice([finding(Loss.UNREAD_LOST, seen=Seen(ONE, 7))])) == "fanfold rebuild --active"
    assert list(advice([finding(Loss.OFFSETS_GONE, None)])) == []
    assert list(advice([finding(Loss.UNREAD_LOST, reader=COUNTERS)])) == []
