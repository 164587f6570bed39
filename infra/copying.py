"""Copying: what one cluster's copy lacks, from another one's, by the one primitive: token, read the source, fill if the
token is still mine.

Deliveries stick to a timeline from the moment it holds a token. What came before that is in the source if the source
has gone as far in the log as the target had then, which both say in the same calls. What cannot be copied is left to
the database (rebuild.py). Next: repair.py.
"""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from enum import StrEnum
from functools import partial

import numpy as np

from infra import metrics
from infra.copies import CopyState
from infra.errors import Fenced, RedisUnavailable
from infra.redis_clusters import RedisClusters
from infra.redis_node import Argument
from infra.shard_map import CLUSTERS, ShardMap
from infra.slots import slots_of
from infra.timelines import Kind, Timelines, new_token
from infra.topics import DELIVERIES

PARCEL_USERS_MAX = 200  # full home and own timelines: 3.5 MB, and some 10 ms of each node's time
AT_ONCE = 4  # parcels: one is read, one is filled, and two are on the way
READS_MAX = 5  # of a source that is behind its target; a call to both arrives within milliseconds
READ_AGAIN_S = 0.02
# The first letters of the keys that are copied together, in the order in which they are filled: the home timeline comes
# last, since repair looks for it.
FAMILIES: Mapping[Kind, str] = {Kind.HOME: "fuh", Kind.USER: "u"}
TAKEN, WHOLE = "T", "W"
SOURCES_MAX = len(CLUSTERS) - 1


class Source(StrEnum):
    """Where repair reads."""

    COPY = "copy"  # and from the database what no copy can give
    DATABASE = "database"


@dataclass(frozen=True, slots=True)
class Progress:
    """The last call that a node has taken of a partition of deliveries."""

    generation: int
    call: int


@dataclass(frozen=True, slots=True)
class Parcel:
    """Users of one partition whose slots are on one node in the target's cluster, and on one in the source's."""

    target: str
    source: str
    partition: int
    users: Sequence[int]

    @property
    def page(self) -> bytes:
        """Their ids, 8 bytes each."""
        return np.array(self.users, dtype=">u8").tobytes()


def copy_timelines(timelines: Timelines, cluster: str, kind: Kind, users: Sequence[int]) -> set[int]:
    """Copies what a cluster's copy lacks of these users: with a home timeline also their own and the celebrities whom
    they follow. Returns who has all of it now; what the others lack is for whoever rebuilds it.

    Idempotent: what is there is left alone. Each user's copy is tried from one cluster, then from the other.
    """
    whole = set[int]()
    for place in range(SOURCES_MAX):
        left = [user_id for user_id in users if user_id not in whole]
        for copied in _carry_all(timelines, kind, parcels_of(timelines.clusters.shard_map, cluster, left, place)):
            whole |= copied
    metrics.COPIED.labels(cluster).inc(len(whole))
    return whole


def parcels_of(shard_map: ShardMap, cluster: str, users: Sequence[int], place: int) -> list[Parcel]:
    """Users by where their slots are. Of the other clusters, serving ones first, the one at this `place` is the source;
    who has none there is left out. Half of the slots have them in the other order, so that both work."""
    by_way: dict[tuple[str, str, int], list[int]] = {}
    for user_id, slot in zip(users, slots_of(np.array(users, dtype=np.uint64)).tolist(), strict=True):
        sources = sources_of(shard_map, cluster, slot)
        if shard_map.copies.of(cluster, slot) is not CopyState.DOWN and place < len(sources):
            way = (
                shard_map.node_of(cluster, slot),
                shard_map.node_of(sources[place], slot),
                slot % DELIVERIES.partitions,
            )
            by_way.setdefault(way, []).append(user_id)
    return [
        Parcel(*way, of_way[at : at + PARCEL_USERS_MAX])
        for way, of_way in by_way.items()
        for at in range(0, len(of_way), PARCEL_USERS_MAX)
    ]


def sources_of(shard_map: ShardMap, cluster: str, slot: int) -> list[str]:
    """The other clusters whose copy of a slot is not down, serving ones first."""
    others = [one for one in CLUSTERS if one != cluster]
    if slot // DELIVERIES.partitions % 2:
        others.reverse()
    states = {one: shard_map.copies.of(one, slot) for one in others}
    return [one for state in (CopyState.SERVING, CopyState.FILLING) for one in others if states[one] is state]


def is_fit(target: Progress | None, source: Progress | None) -> bool:
    """Whether the source had gone as far when it was read as the target had when it took the token.

    Calls count and not offsets: a run of messages may take several calls, of which only the last one has an offset.
    Another generation's calls prove nothing, and neither does a target that has taken none: calls that were made
    without it may still be on their way to the source.
    """
    return (
        target is not None
        and source is not None
        and target.generation == source.generation
        and target.call <= source.call
    )


def _carry_all(timelines: Timelines, kind: Kind, parcels: Sequence[Parcel]) -> list[set[int]]:
    """A few at the same time; who has all now, of each."""
    clusters, under_way, copied = timelines.clusters, list[Future[set[int]]](), list[set[int]]()
    for parcel in parcels:
        if len(under_way) == AT_ONCE:
            copied.append(under_way.pop(0).result())
        under_way.append(clusters.submit(partial(_carry, timelines, kind, parcel)))
    return copied + [one.result() for one in under_way]


def _carry(timelines: Timelines, kind: Kind, parcel: Parcel) -> set[int]:
    """A target that cannot be written, or refuses, gets nothing: its tokens expire."""
    clusters, length = timelines.clusters, timelines.live.timeline_entries
    shard_map, token, families = clusters.shard_map, new_token(), FAMILIES[kind]
    target, fence = clusters.node(parcel.target), shard_map.fence(parcel.target)
    try:
        taken, record = target.call("open_copying", fence, token, parcel.partition, families, parcel.page)
        letters = taken.decode()
        found: Sequence[Argument] = ()
        if TAKEN in letters:
            found = _read(clusters, parcel, shard_map, _progress(record), (families, length, parcel.page, letters))
        filled = target.call("fill_copied", fence, token, families, length, parcel.page, letters, *found).decode()
    except (RedisUnavailable, Fenced):
        return set()
    return {user_id for user_id, letter in zip(parcel.users, filled, strict=True) if letter == WHOLE}


def _read(
    clusters: RedisClusters,
    parcel: Parcel,
    shard_map: ShardMap,
    target: Progress | None,
    wanted: Sequence[Argument],
) -> Sequence[Argument]:
    """What the source has; nothing when it is not fit, also not a moment later."""
    fence = shard_map.fence(parcel.source)
    for number in range(READS_MAX):
        if number:
            time.sleep(READ_AGAIN_S)
        try:
            answer = clusters.node(parcel.source).look("read_for_copying", fence, parcel.partition, *wanted)
        except (RedisUnavailable, Fenced):
            return ()
        if is_fit(target, _progress(answer[0])):
            return answer[1:] if _is_still_so(clusters, parcel, shard_map) else ()
        if target is None:
            return ()  # waiting for the source would not help
    return ()


def _is_still_so(clusters: RedisClusters, parcel: Parcel, shard_map: ShardMap) -> bool:
    """Whether the source was not down when it was read, with certainty. What was written without it since it was marked
    counts as done 1.6 s later at the earliest (G4); before that it is sent again, and sticks."""
    certain = not clusters.cut_off  # asked before the shard map is taken, which may be old otherwise
    now = clusters.shard_map
    if not certain or now.fence(parcel.source) != shard_map.fence(parcel.source):
        return False
    cluster = parcel.source[0]
    slots = set(slots_of(np.array(parcel.users, dtype=np.uint64)).tolist())
    return all(
        now.node_of(cluster, slot) == parcel.source and now.copies.of(cluster, slot) is not CopyState.DOWN
        for slot in slots
    )


def _progress(record: Sequence[bytes | None]) -> Progress | None:
    """A control record's generation and call, as a Function has them."""
    generation, call = record
    return None if generation is None or call is None else Progress(int(generation), int(call))
