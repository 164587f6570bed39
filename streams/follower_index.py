"""Follower index: the followers of the authors of one activity partition, packed by deliveries partition.

Held per activity partition and consumer generation, filled by one query for all misses, kept fresh by the follow
events of that partition (they are keyed by the author), bounded in bytes; the least recently used author goes first.
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from infra import metrics
from infra.database import reading
from infra.slots import Ids, slots_of
from infra.topics import DELIVERIES

INDEX_BYTES_MAX = 32 * 1_048_576  # of one activity partition: 8 of them hold 30 million follows
OVERHEAD_BYTES = 300  # of one author beside his ids: two array objects and a dict entry

_FOLLOWERS = sa.text(
    "SELECT author_id, follower_id FROM follows WHERE author_id = ANY (CAST(:authors AS bigint[])) ORDER BY author_id"
)


@dataclass(frozen=True, slots=True, eq=False)
class PackedFollowers:
    """One author's followers: `ids` sorted by deliveries partition, `bounds[p]:bounds[p + 1]` are partition p's."""

    ids: Ids
    bounds: npt.NDArray[np.uint32]

    def by_partition(self) -> Iterator[tuple[int, Ids]]:
        """(partition, ids) for every partition that has followers."""
        for partition in np.flatnonzero(np.diff(self.bounds)):
            yield int(partition), self.ids[self.bounds[partition] : self.bounds[partition + 1]]

    @property
    def size_bytes(self) -> int:
        """What it costs to hold."""
        return self.ids.nbytes + self.bounds.nbytes + OVERHEAD_BYTES


def partitions_of(ids: Ids) -> npt.NDArray[np.int64]:
    """The deliveries partition of each owner."""
    return slots_of(ids) % DELIVERIES.partitions


def pack(ids: Ids) -> PackedFollowers:
    """Packs follower ids, in any order."""
    partitions = partitions_of(ids)
    order = np.argsort(partitions, kind="stable")
    counts = np.bincount(partitions, minlength=DELIVERIES.partitions)
    bounds = np.concatenate(([0], np.cumsum(counts))).astype(np.uint32)
    return PackedFollowers(ids[order].astype(">u8"), bounds)


class FollowerIndex:
    """One partition's index. Not safe for several threads."""

    def __init__(self, engine: sa.Engine, bytes_max: int = INDEX_BYTES_MAX) -> None:
        self._engine = engine
        self._bytes_max = bytes_max
        self._bytes = 0
        self._authors: OrderedDict[int, PackedFollowers] = OrderedDict()

    def get_all(self, authors: Iterable[int]) -> dict[int, PackedFollowers]:
        """The followers of each author, from memory, else from the database as it is now."""
        wanted = set(authors)
        missing = [author for author in wanted if author not in self._authors]
        metrics.INDEX_LOOKUPS.labels("hit").inc(len(wanted) - len(missing))
        metrics.INDEX_LOOKUPS.labels("miss").inc(len(missing))
        found = {author: self._authors[author] for author in wanted if author in self._authors}
        for author in found:
            self._authors.move_to_end(author)
        loaded = self._load(missing) if missing else {}
        for author, followers in loaded.items():
            self._put(author, followers)
        return found | loaded

    def set_following(self, author: int, changes: Mapping[int, bool]) -> None:
        """Takes the current state of some pairs of one author: follower → whether he follows."""
        followers = self._authors.get(author)
        if followers is None:
            return
        changed = np.array(list(changes), dtype=np.uint64)
        kept = followers.ids[~np.isin(followers.ids.astype(np.uint64), changed)]
        added = np.array([follower for follower, following in changes.items() if following], dtype=np.uint64)
        self._put(author, pack(np.concatenate((kept.astype(np.uint64), added))))

    def close(self) -> None:
        """Forgets everything."""
        metrics.INDEX_BYTES.dec(self._bytes)
        self._bytes = 0
        self._authors.clear()

    def _load(self, authors: Sequence[int]) -> dict[int, PackedFollowers]:
        with reading(self._engine) as connection:
            rows = connection.execute(_FOLLOWERS, {"authors": authors}).fetchall()
        table = np.array([tuple(row) for row in rows], dtype=np.uint64).reshape(-1, 2)
        wanted = np.array(sorted(authors), dtype=np.uint64)
        starts = np.searchsorted(table[:, 0], wanted, side="left")
        ends = np.searchsorted(table[:, 0], wanted, side="right")
        return {int(author): pack(table[start:end, 1]) for author, start, end in zip(wanted, starts, ends, strict=True)}

    def _put(self, author: int, followers: PackedFollowers) -> None:
        before = self._authors.pop(author, None)
        change = followers.size_bytes - (before.size_bytes if before else 0)
        self._authors[author] = followers
        while self._bytes + change > self._bytes_max and len(self._authors) > 1:
            _, dropped = self._authors.popitem(last=False)
            change -= dropped.size_bytes
        self._bytes += change
        metrics.INDEX_BYTES.inc(change)
