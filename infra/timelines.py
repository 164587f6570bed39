"""Timelines in the three clusters: pages for readers, tokens and merges for rebuilds. Hides keys and routing.

A timeline is a Redis list behind a head; see lua/timelines.lua. The deliver agent's own call is in
streams/node_calls.py. Next: rebuild.py.
"""

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np

from infra import redis_keys
from infra.errors import Fenced, RedisUnavailable
from infra.live_settings import LiveSettings
from infra.redis_clusters import RedisClusters
from infra.redis_node import RedisNode
from infra.shard_map import CLUSTERS
from infra.slots import slots_of
from infra.zookeeper import Watched

RENEW_BELOW_S = 86_400  # a reader renews a timeline that lost more than this of its time to live: once a day


class Kind(StrEnum):
    """Which timeline of a user."""

    HOME = "home"
    USER = "user"

    @property
    def prefix(self) -> bytes:
        """The letter and colon that its keys begin with."""
        return redis_keys.HOME if self is Kind.HOME else redis_keys.USER

    def key(self, user_id: int) -> bytes:
        """The key of one user's timeline."""
        return self.prefix + user_id.to_bytes(8, "big")


@dataclass(frozen=True, slots=True)
class TimelinePage:
    """What one copy holds. `entries` are ids, newest first. `floor` is None when the timeline is absent or under a
    token; above it the copy holds everything. `celebrities` is None when unknown."""

    floor: int | None
    rebuilding: bool
    time_left_s: int
    entries: list[int]
    celebrities: list[int] | None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One user's timeline as the database has it: ids ascending, separated by spaces; complete above the floor."""

    user_id: int
    floor: int
    ids: str


class Timelines:
    """All timelines. Safe to share between threads."""

    def __init__(self, clusters: RedisClusters, live: Watched[LiveSettings]) -> None:
        self.clusters = clusters
        self._live = live

    @property
    def live(self) -> LiveSettings:
        """The live settings in force."""
        return self._live.value()

    def page(self, kind: Kind, user_id: int, cursor: int | None, wanted: int) -> TimelinePage:
        """A page from any copy: the first that holds the timeline, else an absent one.

        Raises `RedisUnavailable` when no copy answers.
        """
        arguments: list[bytes | int | str] = [kind.key(user_id), "" if cursor is None else cursor, wanted]
        if kind is Kind.HOME:
            arguments.append(redis_keys.celebrities(user_id))
        found: TimelinePage | None = None
        failure: RedisUnavailable | None = None
        for cluster in random.sample(CLUSTERS, len(CLUSTERS)):
            try:
                answer = self.clusters.node_for(cluster, user_id).look("page", *arguments)
            except RedisUnavailable as error:
                failure = error
                continue
            page = _decode_page(answer, kind)
            if page.floor is not None:
                return page
            if found is None or page.rebuilding:
                found = page
        if found is None:
            raise failure or RedisUnavailable("no Redis cluster is known")
        return found

    def put_tokens(self, cluster: str, kind: Kind, users: Sequence[int], token: int, mode: str) -> dict[int, str]:
        """Puts a token on timelines of one cluster: T taken, P present, B busy, U the node cannot be written."""

        def call(node: RedisNode, part: list[int]) -> dict[int, str]:
            epoch = self.clusters.shard_map.epoch
            letters = node.call("put_token", epoch, token, mode, _page(kind, part))
            return dict(zip(part, letters.decode(), strict=True))

        return self._by_node(cluster, users, call, "U")

    def merge(self, cluster: str, kind: Kind, snapshots: Sequence[Snapshot], token: int) -> dict[int, str]:
        """Merges snapshots into timelines that hold the token: M merged, L token lost, U not written."""
        by_user = {snapshot.user_id: snapshot for snapshot in snapshots}
        live = self.live

        def call(node: RedisNode, part: list[int]) -> dict[int, str]:
            arguments: list[bytes | int | str] = []
            for user_id in part:
                arguments += [kind.key(user_id), by_user[user_id].floor, by_user[user_id].ids]
            head = (self.clusters.shard_map.epoch, token, live.timeline_entries, live.timeline_ttl_s)
            letters = node.call("merge_rebuilt", *head, *arguments)
            return dict(zip(part, letters.decode(), strict=True))

        return self._by_node(cluster, list(by_user), call, "U")

    def dump(self, cluster: str, kind: Kind, users: Sequence[int]) -> dict[int, list[bytes]]:
        """Whole lists of one cluster, head first; an empty list is an absent timeline. Raises `RedisUnavailable`."""

        def call(node: RedisNode, part: list[int]) -> dict[int, list[bytes]]:
            return dict(zip(part, node.look("dump", _page(kind, part)), strict=True))

        answers = self._by_node(cluster, users, call, [])
        if len(answers) != len(set(users)):
            raise RedisUnavailable(f"cluster {cluster} did not answer for every timeline")
        return answers

    def renew(self, user_id: int) -> None:
        """Gives a user's timelines their whole time to live again in all copies; one that fails expires early."""
        keys = b"".join((Kind.HOME.key(user_id), Kind.USER.key(user_id), redis_keys.celebrities(user_id)))
        epoch, ttl_s = self.clusters.shard_map.epoch, self.live.timeline_ttl_s
        self.clusters.on_each_cluster(user_id, lambda node: node.call("renew", epoch, ttl_s, keys))

    def fill_celebrities(self, user_id: int, read: Callable[[], Iterable[int]]) -> None:
        """Fills a user's set of followed celebrities in every copy that lacks it: token, fresh read, fill if mine."""
        token, epoch = new_token(), self.clusters.shard_map.epoch
        key = redis_keys.celebrities(user_id)
        opened = self.clusters.on_each_cluster(user_id, lambda node: node.call("open_celebrities", epoch, token, key))
        ids = " ".join(map(str, read()))
        lacking = {
            cluster: self.clusters.node_for(cluster, user_id) for cluster, answer in opened.items() if answer == 1
        }
        ttl_s = self.live.timeline_ttl_s
        self.clusters.at_once(lacking, lambda node: node.call("fill_celebrities", epoch, token, key, ttl_s, ids))

    def _by_node(
        self, cluster: str, users: Sequence[int], call: Callable[[RedisNode, list[int]], dict[int, Any]], away: Any
    ) -> dict[int, Any]:
        if not users:
            return {}
        shard_map = self.clusters.shard_map
        places = shard_map.node_indexes(cluster)[slots_of(np.array(users, dtype=np.uint64))]
        answers: dict[int, Any] = {}
        for index, name in enumerate(shard_map.nodes_of(cluster)):
            part = [users[at] for at in np.flatnonzero(places == index).tolist()]
            if not part:
                continue
            try:
                answers |= call(self.clusters.node(name), part)
            except (RedisUnavailable, Fenced):
                if away != []:
                    answers |= dict.fromkeys(part, away)
        return answers


def new_token() -> int:
    """A random token; exact as a Lua number is not needed, but it stays an integer that Redis packs."""
    return random.SystemRandom().randrange(1, 1 << 62)


def _page(kind: Kind, users: Sequence[int]) -> bytes:
    return redis_keys.page_of_keys(np.array(users, dtype=np.uint64), kind.prefix).tobytes()


def _decode_page(answer: list[Any], kind: Kind) -> TimelinePage:
    head, time_left_s, entries, members = answer
    celebrities = None
    if kind is Kind.HOME and b"0" in members:
        celebrities = [int(member) for member in members if member != b"0"]
    present = head != b"" and not head.startswith(b"-")
    return TimelinePage(
        floor=int(head) if present else None,
        rebuilding=head.startswith(b"-"),
        time_left_s=time_left_s,
        entries=[int(entry) for entry in entries] if present else [],
        celebrities=celebrities,
    )
