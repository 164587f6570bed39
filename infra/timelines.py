"""Timelines in the three clusters: tokens and merges for rebuilds, time to live. Hides keys and routing.

A timeline is a Redis list behind a head; see lua/timelines.lua. Readers look through timeline_windows.py; the deliver
agent's own call is in streams/node_calls.py. Next: rebuild.py.
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

    def renew_user_timelines(self, authors: Sequence[int]) -> None:
        """The same for user timelines alone: their readers say nothing about their authors being active."""
        epoch, ttl_s = self.clusters.shard_map.epoch, self.live.timeline_ttl_s

        def call(node: RedisNode, part: list[int]) -> dict[int, None]:
            node.call("renew", epoch, ttl_s, _page(Kind.USER, part))
            return {}

        for cluster in CLUSTERS:
            self._by_node(cluster, authors, call, None)

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
