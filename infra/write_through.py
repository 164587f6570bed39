"""Write-through: what was just posted, into the caches of bodies and the authors' own user timelines.

So one reads one's own writes, and the first reader of a tweet finds its body. It is never needed: the database has the
body, and the log brings the entry. So it waits for no node that is away, and tells nobody.
"""

import time
from collections.abc import Callable, Sequence

import numpy as np

from infra import redis_keys
from infra.errors import ZooKeeperUnavailable
from infra.live_settings import LiveSettings
from infra.near_nodes import NearNodes
from infra.redis_clusters import RedisClusters
from infra.redis_node import Argument
from infra.shard_map import CLUSTERS
from infra.slots import slot_of
from infra.tweet_bodies import BODY_TTL_S, Body, encode_body
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
        try:
            commands = self._commands(tweets)
        except ZooKeeperUnavailable:  # no placement was written yet; an error would say that the tweets are not posted
            return
        for name, answers in self._clusters.commands_at_once(self._near.among(commands)).items():
            for answer in answers:
                self._near.note(name, answer)

    def _commands(self, tweets: Sequence[Body]) -> dict[str, list[tuple[Argument, ...]]]:
        shard_map, length = self._clusters.shard_map, self._live.value().timeline_entries
        commands: dict[str, list[tuple[Argument, ...]]] = {}
        own: dict[str, list[Body]] = {}
        for tweet in tweets:
            data = encode_body(tweet)
            for cluster in CLUSTERS:
                name = shard_map.node_of(cluster, slot_of(tweet.id))
                command = ("SET", redis_keys.body(tweet.id), data, "EX", BODY_TTL_S, "NX")
                commands.setdefault(name, []).append(command)
                own.setdefault(shard_map.node_of(cluster, slot_of(tweet.author_id)), []).append(tweet)
        for name, part in own.items():
            authors = np.array([tweet.author_id for tweet in part], dtype=np.uint64)
            page = redis_keys.page_of_keys(authors, redis_keys.USER).tobytes()
            ids = " ".join(str(tweet.id) for tweet in part)
            commands.setdefault(name, []).append(("FCALL", "put_own", 0, shard_map.epoch, page, ids, length))
        return commands
