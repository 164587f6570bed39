"""The comparison of one copy of a home timeline with the database: what G3 says, as pure functions.

Input: a Redis list (head first, entries ascending) and the ids that the database expects. Next: audit_report.py.
"""

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from consumers.audit_report import Findings, State

TRIM_SLACK = 64  # entries that a list may hold above the length, since it is trimmed lazily (lua/timelines.lua)
REFILL_BELOW = 0.5  # of the length: removals that leave fewer above a floor must have led to a rebuild

ABSENT = b""  # the text of a list that is not there


@dataclass(frozen=True, slots=True)
class Expected:
    """What the database expects of one user's home timeline: the newest `limit` ids, or all when there are fewer.
    `ids` is text, ascending, separated by spaces."""

    user_id: int
    ids: bytes
    count: int
    limit: int

    @property
    def whole(self) -> bool:
        """Whether no older id exists."""
        return self.count < self.limit


def limit_for(length: int) -> int:
    """One more than a list of this length can hold, so that a list with all of them cannot be a whole one."""
    return length + TRIM_SLACK + 1


def text_of(listed: Sequence[bytes]) -> bytes:
    """A list as one text, head first; `ABSENT` when it is not there. A fifth of the memory, and quick to compare."""
    return b" ".join(listed)


def state_of(text: bytes) -> State:
    """What the head says."""
    if text == ABSENT:
        return State.ABSENT
    return State.REBUILDING if text.startswith(b"-") else State.PRESENT


def agrees(text: bytes, expected: Expected, length: int) -> bool:
    """Whether a present list is surely exact, without a look at each entry. False means: look closely."""
    head, _, entries = text.partition(b" ")
    if head == b"0":
        return expected.whole and entries == expected.ids
    if not head.isdigit() or text.count(b" ") < length or not expected.ids.endswith(entries):
        return False
    older, oldest = expected.ids[: len(expected.ids) - len(entries)], entries.partition(b" ")[0]
    if int(oldest) <= int(head):
        return False
    if not older:
        return expected.whole
    return older.endswith(b" ") and int(older[:-1].rpartition(b" ")[2]) <= int(head)


def compare(listed: Sequence[bytes], expected: Expected, length: int, floor_max: int = 0) -> Findings:
    """Entry by entry. `floor_max` is the highest floor that removals can explain; see audit_truth.read_floors.

    `expected` must reach further than the list is long: more than it holds then stands above its floor.
    """
    state = state_of(text_of(listed))
    if state is not State.PRESENT:
        return Findings(state)
    head, entries = listed[0], listed[1:]
    ids = [int(one) for one in expected.ids.split()]
    floor = int(head) if head.isdigit() else 0
    wanted = {b"%d" % one for one in ids if one > floor}
    times = Counter(entries)
    hidden = [] if _is_lawful(floor, len(wanted), ids, length, floor_max) else [i for i in ids[-length:] if i <= floor]
    foreign = [one for one in times if one not in wanted] + ([] if head.isdigit() else [head])
    return Findings(
        state,
        len(entries),
        missing=(*map(str, hidden), *_texts(sorted(wanted - times.keys(), key=int))),
        duplicate=_texts([one for one, count in times.items() for _ in range(count - 1)]),
        unexpected=_texts(foreign),
        misordered=_texts(_out_of_order([one for one in entries if times[one] == 1 and one in wanted])),
    )


def _is_lawful(floor: int, above: int, ids: Sequence[int], length: int, floor_max: int) -> bool:
    """Whether a floor is at or below the newest `length` ids, or rose above them only by removals."""
    newest = ids[-length:]
    if not newest or floor < newest[0] or (floor == newest[0] and len(newest) == length):
        return True
    return above >= length * REFILL_BELOW and floor <= floor_max


def _out_of_order(entries: Sequence[bytes]) -> Iterator[bytes]:
    """Entries that stand after a newer one. Ids that are not there once, or not expected, are other differences."""
    for before, one in itertools.pairwise(entries):
        if int(one) < int(before):
            yield one


def _texts(values: "Sequence[bytes] | Iterator[bytes]") -> tuple[str, ...]:
    return tuple(one.decode("ascii", "backslashreplace") for one in values)
