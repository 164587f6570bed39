"""Where folding begins, as a table: what was folded against what the logs hold."""

import pytest

from infra.topics import ACTIVITY, REACTIONS
from streams.fold import FoldState
from streams.fold_start import Log, plan_start

PLACE = (REACTIONS.name, 0)
OTHER = (ACTIVITY.name, 0)


def logs(reactions: Log, activity: Log) -> dict[str, Log]:
    return {ACTIVITY.name: activity, REACTIONS.name: reactions}


QUIET = Log("one", [(0, 5)])


@pytest.mark.parametrize(
    ("known", "log", "goes_on_at", "why"),
    [
        (7, Log("one", [(0, 9)]), 7, None),
        (9, Log("one", [(0, 9)]), 9, None),
        (7, Log("one", [(7, 9)]), 7, None),
        (7, Log("one", [(8, 9)]), 8, "offset 8 is the first that is not past its retention"),
        (7, Log("one", [(0, 6)]), 0, "the log ends at offset 6"),
        (7, Log("two", [(0, 9)]), 0, "the topic was made anew"),
        (None, Log("one", [(0, 9)]), 0, None),
        (None, Log("one", [(4, 9)]), 4, "its first messages are past their retention"),
    ],
)
def test_a_partition_goes_on_where_it_was_or_says_what_is_missing(
    known: int | None, log: Log, goes_on_at: int, why: str | None
) -> None:
    offsets = {OTHER: 5} | ({} if known is None else {PLACE: known})
    state = FoldState(3, offsets, {ACTIVITY.name: "one", REACTIONS.name: "one"})
    start = plan_start(state, logs(log, QUIET))
    assert start.state.next_offsets == {OTHER: 5, PLACE: goes_on_at}
    assert [(gap.topic, gap.partition, gap.why) for gap in start.gaps] == ([] if why is None else [(*PLACE, why)])
    assert not start.is_first


def test_activity_that_was_never_read_is_no_gap_since_the_tables_say_what_it_said() -> None:
    start = plan_start(FoldState(0, {}, {}), logs(Log("one", [(0, 9)]), Log("two", [(6, 9)])))
    assert start.gaps == []
    assert start.is_first
    assert start.state.next_offsets == {OTHER: 6, PLACE: 0}
    assert start.state.log_ids == {ACTIVITY.name: "two", REACTIONS.name: "one"}
