"""Timelines in the three clusters: tokens and merges for rebuilds, time to live. Hides keys and routing.

A timeline is a Redis list behind a head; see lua/timelines.lua. Readers look through timeline_windows.py; the deliver
agent's own call is in streams/node_calls.py. Next: rebuild.py.
"""

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeVar

import numpy as np

from infra import redis_keys
from infra.copies import CopyState
from infra.errors import Fenced, RedisUnavailable
from infra.live_settings import SETTINGS, LiveSettings
from infra.redis_clusters import RedisClusters
from infra.redis_node import CALL_TIMEOUT_S, RedisNode
from infra.shard_map import CLUSTERS
from infra.slots import slots_of
from infra.zookeeper import Watched

# Of one call: 51,200 entries, under 0.1 s. Deliveries and a registrar's looks wait behind it; 500 timelines at once
# took most of a second, and on a busy machine so long that the node was marked down while it was filled.
MERGE_LISTS_MAX = 64
NOWHERE = -1  # instead of a node's index
RENEW_BELOW_S = 86_400  # a reader renews a timeline that lost more than this of its time to live: once a day

_DOWN = b"-down"

T = TypeVar("T")


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

    def __init__(self, clusters: RedisClusters, live: Watched[LiveSettings], fixed: LiveSettings | None = None) -> None:
        self.clusters = clusters
        self._live = live
        self._fixed = fixed

    @property
    def live(self) -> LiveSettings:
        """The live settings in force."""
        return self._fixed or self._live.value()

    def steady(self) -> "Timelines":
        """The same by the live settings of this moment, for steps that have to go by the same ones."""
        return Timelines(self.clusters, self._live, self.live)

    def living_for(self, ttl_s: int) -> "Timelines":
        """The same, whose new timelines live for so long: never longer than the live setting has it, and never shorter
        than that may be."""
        live = self.live
        shortest_s = SETTINGS["timeline_ttl_s"].low
        return Timelines(
            self.clusters, self._live, replace(live, timeline_ttl_s=max(shortest_s, min(ttl_s, live.timeline_ttl_s)))
        )

    def put_tokens(self, cluster: str, kind: Kind, users: Sequence[int], token: int, mode: str) -> dict[int, str]:
        """Puts a token on timelines of one cluster: T taken, P present, B busy, U the node cannot be written, D it is
        down, or is not open yet and has nothing to renew."""

        def call(node: RedisNode, part: list[int]) -> dict[int, str]:
            fence = self.clusters.shard_map.fence(node.name)
            letters = node.call("put_token", fence, token, mode, _page(kind, part), timeout_s=CALL_TIMEOUT_S)
            return dict(zip(part, letters.decode(), strict=True))

        return self._by_node(cluster, users, call, "U", "D")

    def merge(self, cluster: str, kind: Kind, snapshots: Sequence[Snapshot], token: int) -> dict[int, str]:
        """Merges snapshots into timelines that hold the token: M merged, L token lost, U not written, D down."""
        by_user = {snapshot.user_id: snapshot for snapshot in snapshots}
        live = self.live

        def call(node: RedisNode, part: list[int]) -> dict[int, str]:
            fence = self.clusters.shard_map.fence(node.name)
            head = (fence, token, live.timeline_entries, live.timeline_ttl_s)
            letters = ""
            for start in range(0, len(part), MERGE_LISTS_MAX):
                arguments: list[bytes | int | str] = []
                for user_id in part[start : start + MERGE_LISTS_MAX]:
                    arguments += [kind.key(user_id), by_user[user_id].floor, by_user[user_id].ids]
                letters += node.call("merge_rebuilt", *head, *arguments).decode()
            return dict(zip(part, letters, strict=True))

        return self._by_node(cluster, list(by_user), call, "U", "D")

    def lacking(self, cluster: str, kind: Kind, users: Sequence[int]) -> list[int]:
        """The users whose timeline a copy does not have: absent or under a token. So is what cannot be looked at."""

        heads = self.heads(cluster, kind, users)
        return [user_id for user_id in users if heads.get(user_id, b"-")[:1] in (b"", b"-")]

    def heads(self, cluster: str, kind: Kind, users: Sequence[int]) -> dict[int, bytes]:
        """The floor of each timeline, or "-" and a token; "" is an absent one. Without those whose copy is down or
        cannot be looked at."""

        def call(node: RedisNode, part: list[int]) -> dict[int, bytes]:
            parts = node.look("page", "", 1, "down", "", _page(kind, part))[1::2]
            return {user_id: one.partition(b" ")[0] for user_id, one in zip(part, parts, strict=True)}

        found = self._by_node(cluster, users, call, None, _DOWN)
        return {user_id: head for user_id, head in found.items() if head is not _DOWN}

    def dump(self, cluster: str, kind: Kind, users: Sequence[int]) -> dict[int, list[bytes]]:
        """Whole lists of one cluster, head first; an empty list is an absent timeline, and so is one whose copy is
        down: nobody reads it. Raises `RedisUnavailable`."""

        def call(node: RedisNode, part: list[int]) -> dict[int, list[bytes]]:
            return dict(zip(part, node.look("dump", _page(kind, part)), strict=True))

        nothing: list[bytes] = []
        answers = self._by_node(cluster, users, call, None, nothing)
        if len(answers) != len(set(users)):
            raise RedisUnavailable(f"cluster {cluster} did not answer for every timeline")
        return answers

    def forget(self, cluster: str, prefix: bytes, users: Sequence[int]) -> None:
        """Drops what one copy has of these users, whatever it is: absent is always safe. Whoever rebuilds one of them
        just then has lost his token, and starts again. Raises `RedisUnavailable` when a node may have some of it still.
        """

        def call(node: RedisNode, part: list[int]) -> dict[int, bool]:
            node.command("UNLINK", *(prefix + user_id.to_bytes(8, "big") for user_id in part))
            return dict.fromkeys(part, True)

        if len(self._by_node(cluster, users, call, None, True)) < len(set(users)):
            raise RedisUnavailable(f"cluster {cluster} did not drop all of what was to be rebuilt there")

    def renew(self, user_id: int) -> None:
        """Gives a user's timelines their whole time to live again in all copies; one that fails expires early."""
        keys = b"".join((Kind.HOME.key(user_id), Kind.USER.key(user_id), redis_keys.celebrities(user_id)))
        shard_map, ttl_s = self.clusters.shard_map, self.live.timeline_ttl_s
        self.clusters.on_each_copy(user_id, lambda node: node.call("renew", shard_map.fence(node.name), ttl_s, keys))

    def renew_user_timelines(self, authors: Sequence[int]) -> None:
        """The same for user timelines alone: their readers say nothing about their authors being active."""
        ttl_s = self.live.timeline_ttl_s

        def call(node: RedisNode, part: list[int]) -> dict[int, None]:
            node.call("renew", self.clusters.shard_map.fence(node.name), ttl_s, _page(Kind.USER, part))
            return {}

        for cluster in CLUSTERS:
            self._by_node(cluster, authors, call, None, None)

    def fill_celebrities(
        self, users: Sequence[int], read: Callable[[Sequence[int]], Mapping[int, Iterable[int]]]
    ) -> None:
        """Fills users' sets of followed celebrities in every copy that lacks them: token, fresh read, fill if mine."""
        token, shard_map, ttl_s = new_token(), self.clusters.shard_map, self.live.timeline_ttl_s
        key, fence = redis_keys.celebrities, shard_map.fence
        parts = {
            name: part for cluster in CLUSTERS for name, part in shard_map.readable_by_node(cluster, users).items()
        }
        opened = self.clusters.call_all_at_once(
            "open_celebrities", {name: [(fence(name), token, key(one)) for one in part] for name, part in parts.items()}
        )
        lacking = {
            name: [one for one, answer in zip(part, opened[name], strict=True) if answer == 1]
            for name, part in parts.items()
        }
        found = read(sorted({one for part in lacking.values() for one in part}))
        ids = {one: " ".join(map(str, members)) for one, members in found.items()}
        self.clusters.call_all_at_once(
            "fill_celebrities",
            {
                name: [(fence(name), token, key(one), ttl_s, ids[one]) for one in part]
                for name, part in lacking.items()
                if part
            },
        )

    def _by_node(
        self,
        cluster: str,
        users: Sequence[int],
        call: Callable[[RedisNode, list[int]], dict[int, T]],
        away: T | None,
        down: T,
        *,
        again: bool = True,
    ) -> dict[int, T]:
        """The answers of each user's copy in a cluster. `away` stands for a node that cannot be reached or refuses
        (None: these users are left out), `down` for a copy that is down, which is not asked. What is refused is asked
        once more by the shard map as it is now."""
        if not users:
            return {}
        shard_map = self.clusters.shard_map
        slots = slots_of(np.array(users, dtype=np.uint64))
        places = shard_map.node_indexes(cluster)[slots]
        answers: dict[int, T] = {}
        if not shard_map.copies.all_serving:
            is_down = [shard_map.copies.of(cluster, slot) is CopyState.DOWN for slot in slots.tolist()]
            answers |= {user_id: down for user_id, one in zip(users, is_down, strict=True) if one}
            places = np.where(is_down, NOWHERE, places)
        for index, name in enumerate(shard_map.nodes_of(cluster)):
            part = [users[at] for at in np.flatnonzero(places == index).tolist()]
            if not part:
                continue
            try:
                answers |= call(self.clusters.node(name), part)
            except (RedisUnavailable, Fenced) as error:
                if isinstance(error, Fenced) and again and self.clusters.is_newer_than(shard_map):
                    answers |= self._by_node(cluster, part, call, away, down, again=False)
                elif away is not None:
                    answers |= dict.fromkeys(part, away)
        return answers


def new_token() -> int:
    """A random token; exact as a Lua number is not needed, but it stays an integer that Redis packs."""
    return random.SystemRandom().randrange(1, 1 << 62)


def _page(kind: Kind, users: Sequence[int]) -> bytes:
    return redis_keys.page_of_keys(np.array(users, dtype=np.uint64), kind.prefix).tobytes()
