"""Write-through: what was just posted, into the caches of bodies and the authors' own user timelines.

So one reads one's own writes, and the first reader of a tweet finds its body. It is never needed: the database has the
body, and the log brings the entry. So it waits for no node that is away, and tells nobody.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import numpy as np

from infra import redis_keys
from infra.errors import Fenced, ZooKeeperUnavailable
from infra.live_settings import LiveSettings
from infra.near_nodes import NearNodes
from infra.redis_clusters import RedisClusters
from infra.redis_node import Argument
from infra.shard_map import CLUSTERS, ShardMap
from infra.slots import slot_of
from infra.tweet_bodies import Body, put_bodies
from infra.zookeeper import Watched


class WriteThrough:
    """Puts tweets into all three clusters. Safe to share between threads."""

    def __init__(
        self,
        clusters: RedisClusters,
        live: Watched[LiveSettings],
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clusters = clusters
        self._live = live
        self._near = NearNodes(clock_s)

    def put(self, tweets: Sequence[Body]) -> None:
        """Puts committed tweets where they will be read. Late or lost it does no harm: a body does not replace a
        tombstone, and an entry that was retracted is not inserted (lua/timelines.lua, put_own)."""
        with suppress(ZooKeeperUnavailable):  # nothing was ever read; an error would say that the tweets are not posted
            shard_map = self._clusters.shard_map
            if not self._put(tweets, shard_map) and self._clusters.is_newer_than(shard_map):
                self._put(tweets, self._clusters.shard_map)  # slots have moved: else no cluster would have the body

    def _put(self, tweets: Sequence[Body], shard_map: ShardMap) -> bool:
        """False when a node has refused it by its epoch; that node is well."""
        fits = True
        commands = self._near.among(self._commands(tweets, shard_map))
        for name, answers in self._clusters.commands_at_once(commands).items():
            for answer in answers:
                refused = isinstance(answer, Fenced)
                fits &= not refused
                self._near.note(name, None if refused else answer)
        return fits

    def _commands(self, tweets: Sequence[Body], shard_map: ShardMap) -> dict[str, list[tuple[Argument, ...]]]:
        length = self._live.value().timeline_entries
        commands = put_bodies(shard_map, tweets)
        own: dict[str, list[Body]] = {}
        for tweet in tweets:
            for cluster in CLUSTERS:
                own.setdefault(shard_map.node_of(cluster, slot_of(tweet.author_id)), []).append(tweet)
        for name, part in own.items():
            if name in shard_map.down_nodes:
                continue
            authors = np.array([tweet.author_id for tweet in part], dtype=np.uint64)
            page = redis_keys.page_of_keys(authors, redis_keys.USER).tobytes()
            ids = " ".join(str(tweet.id) for tweet in part)
            commands.setdefault(name, []).append(("FCALL", "put_own", 0, shard_map.fence(name), page, ids, length))
        return commands
