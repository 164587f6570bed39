"""What most processes open: the database, ZooKeeper's watched values, the clusters and the stores over them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import sqlalchemy as sa

from infra.counts import Counts
from infra.database import make_engine
from infra.live_settings import LiveSettings, decode_live_settings
from infra.reaction_log import ReactionLog
from infra.redis_clusters import RedisClusters
from infra.settings import Settings
from infra.shard_map import ShardMap, decode_shard_map
from infra.timelines import Timelines
from infra.tweet_bodies import TweetBodies
from infra.write_through import WriteThrough
from infra.zookeeper import LIVE_SETTINGS_PATH, PLACEMENT_PATH, Watched, ZooKeeper

BRIEF_TIMEOUT_S = 0.5  # a call takes milliseconds; on a busy machine it can wait for some hundred


@dataclass(frozen=True, slots=True)
class Stores:
    """Open connections of one process; close them once."""

    engine: sa.Engine
    zookeeper: ZooKeeper
    clusters: RedisClusters
    timelines: Timelines
    bodies: TweetBodies
    brief: RedisClusters  # with short time-outs, for what can be left out
    write_through: WriteThrough
    counts: Counts
    reactions: ReactionLog  # connects to Kafka at the first reaction

    def close(self) -> None:
        """Closes everything, the last opened first."""
        self.reactions.close()
        self.brief.close()
        self.clusters.close()
        self.zookeeper.close()
        self.engine.dispose()


def open_stores(settings: Settings) -> Stores:
    """Raises `StackError` when an address is missing, `ZooKeeperUnavailable` when ZooKeeper does not answer."""
    engine = make_engine(settings.need("database_url"))
    zookeeper = ZooKeeper(settings.need("zookeeper_hosts"))
    shard_map: Watched[ShardMap] = Watched(zookeeper, PLACEMENT_PATH, decode_shard_map)
    live: Watched[LiveSettings] = Watched(zookeeper, LIVE_SETTINGS_PATH, decode_live_settings)
    clusters, brief = RedisClusters(shard_map), RedisClusters(shard_map, BRIEF_TIMEOUT_S)
    timelines, bodies = Timelines(clusters, live), TweetBodies(clusters, engine)
    write_through, counts = WriteThrough(brief, live), Counts(brief, engine)
    reactions = ReactionLog(partial(settings.need, "kafka_bootstrap"))
    return Stores(engine, zookeeper, clusters, timelines, bodies, brief, write_through, counts, reactions)


@contextmanager
def stores(settings: Settings) -> Iterator[Stores]:
    """Open stores that are closed at the end."""
    opened = open_stores(settings)
    try:
        yield opened
    finally:
        opened.close()
