"""Looks into timelines: what the copies hold beside a cursor, one call a node for any number of lists.

Any copy will do; the next one is asked for what a copy lacks or a node does not answer. Writes nothing.
Next: consumers/timeline_source.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from infra import redis_keys
from infra.errors import RedisUnavailable
from infra.redis_clusters import RedisClusters, in_any_order
from infra.redis_node import Argument
from infra.slots import slot_of

# Celebrities whose user timelines one page merges: 1,000 parts of a page are 1 to 2 ms of each of two nodes' time, and
# 500 kB. Who follows more gets his pages from the database, which looks at each author once.
CELEBRITIES_MAX = 1_000
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
    arguments = (*_words(span), keys, redis_keys.celebrities(user_id), CELEBRITIES_MAX)
    found: HomeLook | None = None
    failure: RedisUnavailable | None = None
    shard_map, slot = clusters.shard_map, slot_of(user_id)
    for cluster in in_any_order():
        name = shard_map.node_of(cluster, slot)
        answer = _answers(clusters, {name: arguments})[name]
        if isinstance(answer, RedisUnavailable):
            failure = answer
            continue
        look = _decode_home(answer)
        found = look if found is None else _together(found, look)
        if found.whole:
            return found
    if found is None:
        raise failure or RedisUnavailable("no Redis cluster is known")
    return found


def look_user_timelines(clusters: RedisClusters, authors: Sequence[int], span: Span) -> dict[int, Window]:
    """A window of each author's user timeline; absent where no copy holds it. Raises `RedisUnavailable` when no copy of
    one answers."""
    words, shard_map = _words(span), clusters.shard_map
    found: dict[int, Window] = {}
    answered: set[int] = set()
    failure: RedisUnavailable | None = None
    left = list(authors)
    for cluster in in_any_order():
        parts = shard_map.by_node(cluster, left)
        calls = {name: (*words, b"".join(map(redis_keys.user_timeline, part))) for name, part in parts.items()}
        for name, answer in _answers(clusters, calls).items():
            if isinstance(answer, RedisUnavailable):
                failure = answer
                continue
            answered.update(parts[name])
            windows = map(_decode, answer[::2], answer[1::2])
            found |= {one: window for one, window in zip(parts[name], windows, strict=True) if window.floor is not None}
        left = [author for author in left if author not in found]
        if not left:
            return found
    if failure is not None and not answered.issuperset(left):
        raise failure
    return found | dict.fromkeys(left, ABSENT)


def _answers(clusters: RedisClusters, calls: Mapping[str, Sequence[Argument]]) -> dict[str, Any]:
    """Each node's answer, or the `RedisUnavailable` that it is; another error is raised."""
    commands = {name: [("FCALL_RO", "page", 0, *arguments)] for name, arguments in calls.items()}
    answers = {name: of_node[0] for name, of_node in clusters.commands_at_once(commands).items()}
    for answer in answers.values():
        if isinstance(answer, Exception) and not isinstance(answer, RedisUnavailable):
            raise answer
    return answers


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
