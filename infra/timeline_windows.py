"""Looks into timelines: what the copies hold beside a cursor, one call a node for any number of lists.

Any serving copy will do; the next one is asked for what a copy lacks or a node does not answer in time. A reader who is
cut off from ZooKeeper may not know which copy missed a write: he takes the one that has applied most of its log (G4).
Writes nothing. Next: consumers/timeline_source.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from infra import redis_keys
from infra.applied_offsets import NOTHING_APPLIED, applied_offsets
from infra.ask_copies import Orders, Question, ask_copies, spread
from infra.redis_clusters import RedisClusters
from infra.redis_node import Argument
from infra.shard_map import COPIES_MIN, ShardMap
from infra.slots import slot_of
from infra.topics import DELIVERIES

# Celebrities whose user timelines one page merges: 1,000 parts of a page are 1 to 2 ms of each of two nodes' time, and
# 500 kB. Who follows more gets his pages from the database, which looks at each author once.
CELEBRITIES_MAX = 1_000
PAGE = ("FCALL_RO", "page", 0)
CURSOR_DIGITS = 19  # of every tweet id: the Functions compare ids as strings


@dataclass(frozen=True, slots=True)
class Span:
    """Up to `count` entries next to a cursor: below it (None: the newest), or `upwards` from it on. What is beyond
    `until` is not needed, since as many are known on this side of it."""

    cursor: int | None
    count: int
    upwards: bool = False
    until: int | None = None


@dataclass(frozen=True, slots=True)
class Window:
    """What one copy of a timeline holds of a span: ids, ascending. `floor` is None when the timeline is absent or under
    a token; above it the copy holds everything."""

    floor: int | None
    time_left_s: int
    ids: Sequence[int]


ABSENT = Window(None, 0, ())


@dataclass(frozen=True, slots=True)
class HomeLook:
    """A user's home and user timeline, and the celebrities whom he follows: None when unknown, and not named when they
    are `too_many`."""

    home: Window
    own: Window
    celebrities: Sequence[int] | None
    too_many: bool = False

    @property
    def whole(self) -> bool:
        """Whether both timelines are present and the celebrities known."""
        return self.home.floor is not None and self.own.floor is not None and self.celebrities is not None


def look_home(clusters: RedisClusters, user_id: int, span: Span) -> HomeLook:
    """All that is in a user's slot, by one call. Raises `RedisUnavailable` when no copy answers."""
    keys = redis_keys.home_timeline(user_id) + redis_keys.user_timeline(user_id)
    command = (*PAGE, *_words(span), keys, redis_keys.celebrities(user_id), CELEBRITIES_MAX)
    found: list[HomeLook] = []

    def take(_: str, ids: Sequence[int], answer: Any) -> Sequence[int]:
        look = _decode_home(answer)
        found[:] = [_together(found[0], look) if found else look]
        return () if found[0].whole else ids

    orders = _orders(clusters, [user_id])
    outcome = ask_copies(clusters, orders, [user_id], Question("home", lambda _: command, take))
    if found:
        return found[0]
    if outcome.failure is not None:
        raise outcome.failure
    return HomeLook(ABSENT, ABSENT, None)  # no copy may be read: the database can


def look_user_timelines(clusters: RedisClusters, authors: Sequence[int], span: Span) -> dict[int, Window]:
    """A window of each author's user timeline; absent where no copy holds it. Raises `RedisUnavailable` when no copy of
    one answers."""
    words = _words(span)
    found: dict[int, Window] = {}

    def command(part: Sequence[int]) -> Sequence[Argument]:
        return (*PAGE, *words, b"".join(map(redis_keys.user_timeline, part)))

    def take(_: str, part: Sequence[int], answer: Any) -> Sequence[int]:
        windows = map(_decode, answer[::2], answer[1::2])
        present = {one: window for one, window in zip(part, windows, strict=True) if window.floor is not None}
        found.update(present)
        return () if len(present) == len(part) else [one for one in part if one not in present]

    orders = _orders(clusters, authors)
    outcome = ask_copies(clusters, orders, authors, Question("user", command, take))
    if outcome.failure is not None and outcome.unanswered:
        raise outcome.failure
    # Also when no copy may be read: the database can.
    return found | {author: ABSENT for author in authors if author not in found}


def _orders(clusters: RedisClusters, ids: Sequence[int]) -> Orders:
    """In which order the copies of these ids are asked. Whether the shard map is certain is asked before it is taken:
    the other way round it may be the one from before a check that has just come."""
    cut_off, shard_map = clusters.cut_off, clusters.shard_map
    if not cut_off:
        return spread(shard_map, ids)
    applied = applied_offsets(clusters, shard_map)
    return Orders(shard_map, (), {slot: _by_applied(shard_map, slot, applied) for slot in set(map(slot_of, ids))})


def _by_applied(shard_map: ShardMap, slot: int, applied: Mapping[str, Sequence[int]]) -> Sequence[str]:
    """The clusters whose node has applied most of the slot's partition; another one may have missed a write. None when
    fewer than two copies say how far they are: one copy of a slot is down at most, and it may be the only one that
    answers, or the only one that was not emptied since the last delivery."""
    offsets = {
        cluster: applied[name][slot % DELIVERIES.partitions]
        for cluster in shard_map.in_order(slot)
        if (name := shard_map.node_of(cluster, slot)) in applied
    }
    known = [offset for offset in offsets.values() if offset != NOTHING_APPLIED]
    if len(known) < COPIES_MIN:
        return []
    return [cluster for cluster, offset in offsets.items() if offset == max(known)]


def _words(span: Span) -> tuple[Argument, ...]:
    return _digits(span.cursor), span.count, "up" if span.upwards else "down", _digits(span.until)


def _digits(any_id: int | None) -> str:
    return "" if any_id is None else f"{any_id:0{CURSOR_DIGITS}}"


def _decode_home(answer: Sequence[Any]) -> HomeLook:
    home_left_s, home, own_left_s, own, size, text = answer
    members = text.split()
    celebrities = [int(member) for member in members if member != b"0"] if b"0" in members else None
    too_many = celebrities is not None and size > CELEBRITIES_MAX + 1  # one of them is the sentinel
    return HomeLook(_decode(home_left_s, home), _decode(own_left_s, own), celebrities, too_many)


def _decode(time_left_s: int, part: bytes) -> Window:
    if not part or part.startswith(b"-"):
        return ABSENT
    floor, *ids = map(int, part.split())
    return Window(floor, time_left_s, ids)


def _together(first: HomeLook, other: HomeLook) -> HomeLook:
    """What either has."""
    known = first if first.celebrities is not None else other
    return replace(
        first if first.home.floor is not None else other,
        own=first.own if first.own.floor is not None else other.own,
        celebrities=known.celebrities,
        too_many=known.too_many,
    )
