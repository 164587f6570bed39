"""What is committed lies behind all that was worked off and before all that was not, whatever the order of calls."""

from hypothesis import given
from hypothesis import strategies as st

from infra.read_marks import ReadMarks

PARTITION = 3


def marks_from(offset: int) -> ReadMarks:
    made = ReadMarks()
    made.assign(PARTITION, offset)
    return made


def test_what_is_of_no_interest_counts_once_nothing_before_it_is_out() -> None:
    marks = marks_from(10)
    marks.hand_out(PARTITION, 12)
    marks.read(PARTITION, 20)
    assert marks.to_commit() == {}

    marks.finish(PARTITION, 12)

    assert marks.to_commit() == {PARTITION: 20}


def test_a_later_one_finishes_those_before_it() -> None:
    marks = marks_from(0)
    for offset in (1, 2, 5):
        marks.hand_out(PARTITION, offset)
    marks.read(PARTITION, 9)

    marks.finish(PARTITION, 2)

    assert marks.to_commit() == {PARTITION: 3}
    assert [marks.is_out(PARTITION, offset) for offset in (1, 2, 5)] == [False, False, True]


def test_what_was_committed_is_not_committed_again() -> None:
    marks = marks_from(0)
    marks.read(PARTITION, 5)
    marks.note_committed(marks.to_commit())
    assert marks.to_commit() == {}


def test_a_partition_that_went_and_came_back_begins_anew() -> None:
    marks = marks_from(0)
    marks.hand_out(PARTITION, 0)
    marks.read(PARTITION, 9)
    marks.revoke([PARTITION])
    marks.finish(PARTITION, 0)  # by whoever was still at it
    assert (marks.partitions, PARTITION in marks, marks.is_out(PARTITION, 0)) == ([], False, False)

    marks.assign(PARTITION, 4)

    assert (marks.done(), marks.to_commit()) == ({PARTITION: 4}, {})


@given(st.lists(st.tuples(st.booleans(), st.booleans()), max_size=40))
def test_nothing_that_is_out_is_ever_behind_the_committed_offset(steps: list[tuple[bool, bool]]) -> None:
    """Each step reads a message, which is wanted or not, and then finishes the oldest that is out, or does not."""
    marks, out = marks_from(0), list[int]()
    for offset, (wanted, finishes) in enumerate(steps):
        if wanted:
            marks.hand_out(PARTITION, offset)
            out.append(offset)
        marks.read(PARTITION, offset + 1)
        if finishes and out:
            marks.finish(PARTITION, out.pop(0))
        assert marks.done()[PARTITION] == (out[0] if out else offset + 1) or _only_unwanted_between(marks, out, steps)


def _only_unwanted_between(marks: ReadMarks, out: list[int], steps: list[tuple[bool, bool]]) -> bool:
    done = marks.done()[PARTITION]
    return done <= out[0] and not any(wanted for wanted, _ in steps[done : out[0]])
