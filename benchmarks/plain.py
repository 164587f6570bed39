"""The peer of `bench deliveries`: fan-out as most people write it with redis-py, without any guarantee."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from time import monotonic

import redis

from benchmarks.warm_state import Chunk
from infra.redis_clusters import RedisClusters
from infra.redis_keys import home_timeline
from infra.slots import slot_of

TIMEOUT_S = 60.0


def measure_plain(clusters: RedisClusters, chunks: Sequence[Chunk], length: int) -> float:
    """Deliveries a second: for each tweet and cluster, one pipeline a node with RPUSHX and LTRIM for each follower."""
    addresses = clusters.shard_map.addresses
    clients = {name: redis.Redis.from_url(url, socket_timeout=TIMEOUT_S) for name, url in addresses.items()}

    def deliver(cluster: str, chunk: Chunk) -> None:
        pipelines: dict[str, redis.client.Pipeline] = {}
        for follower in chunk.followers.tolist():
            name = clusters.shard_map.node_of(cluster, slot_of(follower))
            if name not in pipelines:
                pipelines[name] = clients[name].pipeline(transaction=False)
            pipelines[name].rpushx(home_timeline(follower), str(chunk.tweet_id))
            pipelines[name].ltrim(home_timeline(follower), -length, -1)
        for pipeline in pipelines.values():
            pipeline.execute()

    began_s = monotonic()
    try:
        with ThreadPoolExecutor(len(clusters.shard_map.placement)) as threads:
            for chunk in chunks:
                for done in [threads.submit(deliver, cluster, chunk) for cluster in clusters.shard_map.placement]:
                    done.result()
    finally:
        for client in clients.values():
            client.close()
    return sum(len(chunk.followers) for chunk in chunks) / (monotonic() - began_s)
