"""Whom a message of the logs concerns: follower ids are matched as arrays against those who listen. Pure.

No loop over followers: a message costs one search of its targets among the sorted ids of the listening users, and then
a step for each happening of somebody who listens. Next: live_listener.py.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from infra.events import Delivery, DeliveryKind
from infra.slots import Ids


class Happening(NamedTuple):
    """What a record does to one user's timelines. `alone`: it names nobody else in its chunk, as what comes of a
    follow does; a change of an author's status concerns all of his followers."""

    kind: DeliveryKind
    subject: int
    alone: bool


def sorted_ids(user_ids: Iterable[int]) -> Ids:
    """The ids of those who listen, as `happenings` needs them."""
    return np.sort(np.fromiter(user_ids, dtype=np.uint64))


def happenings(records: Sequence[Delivery], listening: Ids) -> dict[int, list[Happening]]:
    """For each listening user whom these records concern, what happens, in their order. What is to be verified was
    sent again and is no news."""
    found: dict[int, list[Happening]] = {}
    for record in (one for one in records if not one.verify):
        for user_id, happening in _of_record(record, listening):
            found.setdefault(user_id, []).append(happening)
    return found


def _of_record(record: Delivery, listening: Ids) -> Iterator[tuple[int, Happening]]:
    if not len(listening) or not len(record.targets):
        return
    targets = record.targets.astype(np.uint64)
    places = np.minimum(np.searchsorted(listening, targets), len(listening) - 1)
    hits = np.flatnonzero(listening[places] == targets)
    if not len(hits):
        return
    chunks = np.searchsorted(np.cumsum(record.counts), hits, side="right")
    users, subjects = targets[hits].tolist(), record.subjects[chunks].tolist()
    for user_id, subject, count in zip(users, subjects, record.counts[chunks].tolist(), strict=True):
        yield user_id, Happening(record.kind, subject, count == 1)
