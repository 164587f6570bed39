"""What most processes open: the database, ZooKeeper's watched values, the clusters and the stores over them."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import sqlalchemy as sa

from infra.coalescing import Coalescing
from infra.counts import Counts
from infra.database import make_engine
from infra.live_settings import watch_live_settings
from infra.reaction_log import ReactionLog
from infra.redis_clusters import RedisClusters
from infra.settings import Settings
from infra.shard_maps import ShardMaps
from infra.timelines import Timelines
from infra.tweet_bodies import TweetBodies
from infra.write_through import WriteThrough
from infra.zookeeper import ZooKeeper

BRIEF_TIMEOUT_S = 0.5  # a call takes milliseconds; on a busy machine it can wait for some hundred


@dataclass(frozen=True, slots=True)
class Stores:
    """Open connections of one process; close them once."""

    engine: sa.Engine
    zookeeper: ZooKeeper
    shard_maps: ShardMaps
    clusters: RedisClusters
    timelines: Timelines
    bodies: TweetBodies
    brief: RedisClusters  # with short time-outs, for what can be left out
    write_through: WriteThrough
    counts: Counts
    reactions: ReactionLog  # connects to Kafka at the first reaction
    filling: Coalescing[int] = field(default_factory=Coalescing)  # timelines that readers here rebuild

    def close(self) -> None:
        """Closes everything, the last opened first."""
        self.reactions.close()
        self.brief.close()
        self.clusters.close()
        self.shard_maps.close()
        self.zookeeper.close()
        self.engine.dispose()


def open_stores(settings: Settings) -> Stores:
    """Raises `StackError` when an address is missing, `ZooKeeperUnavailable` when ZooKeeper does not answer."""
    engine = make_engine(settings.need("database_url"))
    zookeeper = ZooKeeper(settings.need("zookeeper_hosts"))
    maps = ShardMaps(zookeeper)
    live = watch_live_settings(zookeeper)
    clusters, brief = RedisClusters(maps, nodes_at_once=settings.nodes_at_once), RedisClusters(maps, BRIEF_TIMEOUT_S)
    timelines, bodies = Timelines(clusters, live), TweetBodies(clusters, engine)
    write_through, counts = WriteThrough(brief, live), Counts(brief, engine)
    reactions = ReactionLog(partial(settings.need, "kafka_bootstrap"))
    return Stores(engine, zookeeper, maps, clusters, timelines, bodies, brief, write_through, counts, reactions)


@contextmanager
def stores(settings: Settings) -> Iterator[Stores]:
    """Open stores that are closed at the end."""
    opened = open_stores(settings)
    try:
        yield opened
    finally:
        opened.close()
