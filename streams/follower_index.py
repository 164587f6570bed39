"""Follower index: the followers of the authors of one activity partition, packed by deliveries partition.

Held per activity partition and consumer generation, filled by one query for all misses, kept fresh by the follow
events of that partition (they are keyed by the author), bounded in bytes; the least recently used authors go first.
What it holds is never older than the events that were read, but may be newer: ARCHITECTURE.md, decision 15.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from infra import metrics
from infra.database import driver_cursor, reading
from infra.slots import Ids, slots_of
from infra.topics import DELIVERIES

# One author beside his packed followers: a bytes object 33, its rounding up to 8, the key (an int of 19 digits) 48, and
# a place in a dict that has just grown 60.
AUTHOR_BYTES = 149
# Of one activity partition. An eighth of a million authors with 10 million follows is 125,000 × (149 + 16) +
# 1,250,000 × 8 = 31 MB; a worker that has all 8 partitions holds 268 MB at most.
INDEX_BYTES_MAX = 32 * 1_048_576
EVICTED_SHARE = 64  # at the limit one author in so many goes at once: finding a dict's first entry takes a search
LOAD_AUTHORS_MAX = 10_000  # of one query: 200 kB of ids in its text
LOAD_IDS_MAX = 65_536  # packed at once, with 5 MB of work space; an author with more is packed alone
SMALL_FOLLOWERS_MAX = 255  # what a byte can count

# One row an author with all his followers' ids, 8 bytes each and big-endian: no row a follow, no loop over follows.
# The inner SELECT makes it look up each author in the index follows_by_author, whatever the statistics say.
_FOLLOWERS = """
    COPY (
        SELECT id, (SELECT string_agg(int8send(follower_id), '') FROM follows WHERE author_id = wanted.id)
        FROM unnest(CAST(%s AS bigint[])) AS wanted (id)
    ) TO STDOUT (FORMAT binary)
"""


@dataclass(frozen=True, slots=True, eq=False)
class PackedFollowers:
    """One author's followers, sorted by deliveries partition: where each partition ends, then the ids.

    An end takes one byte up to `SMALL_FOLLOWERS_MAX` followers, above it four; an id takes eight, big-endian.
    """

    packed: bytes

    @property
    def ids(self) -> Ids:
        """All of them; partition p's are `ids[bounds[p]:bounds[p + 1]]`."""
        return np.frombuffer(self.packed, ">u8", offset=DELIVERIES.partitions * self._ends_type.itemsize)

    @property
    def bounds(self) -> npt.NDArray[np.int64]:
        """`DELIVERIES.partitions` + 1 places in `ids`."""
        return np.concatenate(([0], self._ends)).astype(np.int64)

    def by_partition(self) -> Iterator[tuple[int, Ids]]:
        """(partition, ids) for every partition that has followers."""
        ids, start = self.ids, 0
        for partition, end in enumerate(self._ends.tolist()):
            if end > start:
                yield partition, ids[start:end]
                start = end

    @property
    def size_bytes(self) -> int:
        """What it costs to hold."""
        return len(self.packed) + AUTHOR_BYTES

    @property
    def _ends(self) -> npt.NDArray[np.unsignedinteger]:
        return np.frombuffer(self.packed, self._ends_type, DELIVERIES.partitions)

    @property
    def _ends_type(self) -> np.dtype[np.unsignedinteger]:
        return _SMALL if len(self.packed) <= _SMALL_BYTES_MAX else _LARGE


_SMALL, _LARGE = np.dtype(np.uint8), np.dtype(np.uint32)
_SMALL_BYTES_MAX = DELIVERIES.partitions * _SMALL.itemsize + SMALL_FOLLOWERS_MAX * 8


def partitions_of(ids: Ids) -> npt.NDArray[np.int64]:
    """The deliveries partition of each owner."""
    return slots_of(ids) % DELIVERIES.partitions


def pack(ids: Ids) -> PackedFollowers:
    """Packs one author's follower ids, in any order."""
    [packed] = pack_all([ids.astype(">u8").tobytes()])
    return packed


def pack_all(authors: Sequence[bytes]) -> Iterator[PackedFollowers]:
    """Packs many authors at once; each comes as his followers' ids, 8 bytes each and big-endian, in any order."""
    sizes = np.fromiter(map(len, authors), np.int64, len(authors)) // 8
    ids = np.frombuffer(b"".join(authors), ">u8")
    places = np.repeat(np.arange(len(authors)) * DELIVERIES.partitions, sizes) + partitions_of(ids)
    counts = np.bincount(places, minlength=len(authors) * DELIVERIES.partitions)
    ends = np.cumsum(counts.reshape(len(authors), DELIVERIES.partitions), axis=1)
    yield from _joined(ends, ids[np.argsort(places)])


def with_changes(followers: PackedFollowers, changes: Mapping[int, bool]) -> PackedFollowers:
    """The followers after some changes (follower → whether he follows), at the cost of copying them once."""
    named = np.fromiter(changes, np.uint64, len(changes)).astype(">u8")
    stays = ~np.isin(followers.ids.view(np.uint64), named.view(np.uint64))  # equal in any byte order
    new = pack(named[np.fromiter(changes.values(), np.bool_, len(changes))])
    ends = np.concatenate(([0], np.cumsum(stays)))[followers.bounds[1:]]
    ids = np.insert(followers.ids[stays], np.repeat(ends, np.diff(new.bounds)), new.ids)
    [changed] = _joined((ends + new.bounds[1:]).reshape(1, -1), ids)
    return changed


def _joined(ends: npt.NDArray[np.int64], ids: Ids) -> Iterator[PackedFollowers]:
    """One for each row of `ends`; the ids are theirs in turn."""
    data, at = ids.tobytes(), 0
    small, large = ends.astype(_SMALL).tobytes(), ends.astype(_LARGE).tobytes()
    small_step, large_step = (DELIVERIES.partitions * kind.itemsize for kind in (_SMALL, _LARGE))
    for row, followers in enumerate(ends[:, -1].tolist()):
        is_small = followers <= SMALL_FOLLOWERS_MAX
        bounds, step = (small, small_step) if is_small else (large, large_step)
        yield PackedFollowers(bounds[row * step : (row + 1) * step] + data[at : at + followers * 8])
        at += followers * 8


class FollowerIndex:
    """One partition's index in one generation. Not safe for several threads."""

    def __init__(self, engine: sa.Engine, bytes_max: int = INDEX_BYTES_MAX) -> None:
        self._engine = engine
        self._bytes_max = bytes_max
        self._bytes = 0
        self._held: dict[int, bytes] = {}  # author → packed followers, the least recently used first

    def get_all(self, authors: Iterable[int]) -> dict[int, PackedFollowers]:
        """The followers of each author, from memory, else from the database as it is now."""
        found: dict[int, PackedFollowers] = {}
        missing: list[int] = []
        for author in set(authors):
            packed = self._held.pop(author, None)
            if packed is None:
                missing.append(author)
            else:
                self._held[author] = packed
                found[author] = PackedFollowers(packed)
        metrics.INDEX_LOOKUPS.labels("hit").inc(len(found))
        metrics.INDEX_LOOKUPS.labels("miss").inc(len(missing))
        for start in range(0, len(missing), LOAD_AUTHORS_MAX):
            for loaded in self._load(missing[start : start + LOAD_AUTHORS_MAX]):
                found |= loaded
        return found

    def set_following(self, author: int, changes: Mapping[int, bool]) -> None:
        """Takes the current state of some pairs of one author: follower → whether he follows."""
        self.set_all_following({author: changes})

    def set_all_following(self, changes: Mapping[int, Mapping[int, bool]]) -> None:
        """Takes the current state of some pairs: author → follower → whether he follows. Idempotent.

        Authors that are not held are left out: they are loaded as they are then.
        """
        held = ((author, self._held.get(author), pairs) for author, pairs in changes.items())
        self._put({author: with_changes(PackedFollowers(old), new) for author, old, new in held if old is not None})

    def close(self) -> None:
        """Forgets everything."""
        self._drop_oldest(len(self._held))

    def _load(self, authors: Sequence[int]) -> Iterator[dict[int, PackedFollowers]]:
        with metrics.INDEX_LOAD_SECONDS.time():
            for block in _blocks(read_followers(self._engine, authors)):
                loaded = dict(zip(block, pack_all(list(block.values())), strict=True))
                metrics.INDEX_ROWS.inc(sum(map(len, block.values())) // 8)
                self._put(loaded)
                yield loaded

    def _put(self, authors: Mapping[int, PackedFollowers]) -> None:
        """Holds these as the most recently used, and lets others go. One author is held whatever his size."""
        bytes_before, held_before = self._bytes, len(self._held)
        for author, followers in authors.items():
            old = self._held.pop(author, None)
            self._held[author] = followers.packed
            self._bytes += followers.size_bytes - (0 if old is None else PackedFollowers(old).size_bytes)
        metrics.INDEX_BYTES.inc(self._bytes - bytes_before)
        metrics.INDEX_AUTHORS.inc(len(self._held) - held_before)
        while self._bytes > self._bytes_max and len(self._held) > 1:
            evicted = max(1, len(self._held) // EVICTED_SHARE)
            self._drop_oldest(evicted)
            metrics.INDEX_EVICTIONS.inc(evicted)

    def _drop_oldest(self, count: int) -> None:
        dropped = [self._held.pop(author) for author in list(islice(self._held, count))]
        size_bytes = sum(PackedFollowers(packed).size_bytes for packed in dropped)
        self._bytes -= size_bytes
        metrics.INDEX_BYTES.dec(size_bytes)
        metrics.INDEX_AUTHORS.dec(len(dropped))


def read_followers(engine: sa.Engine, authors: Sequence[int]) -> Iterator[tuple[int, bytes]]:
    """(author, his followers' ids as `pack_all` wants them) for each of up to `LOAD_AUTHORS_MAX` authors, as of now."""
    with (
        reading(engine) as connection,
        driver_cursor(connection) as cursor,
        cursor.copy(_FOLLOWERS, (list(authors),)) as copy,
    ):
        copy.set_types(["int8", "bytea"])
        for author, ids in copy.rows():
            yield author, ids or b""


def _blocks(authors: Iterable[tuple[int, bytes]]) -> Iterator[dict[int, bytes]]:
    """Authors together that have about `LOAD_IDS_MAX` followers."""
    block: dict[int, bytes] = {}
    room = LOAD_IDS_MAX * 8
    for author, ids in authors:
        if len(ids) > room and block:
            yield block
            block, room = {}, LOAD_IDS_MAX * 8
        block[author] = ids
        room -= len(ids)
    if block:
        yield block
