"""Deliveries: how many the database asks for, and how many the three clusters acknowledged.

Input: tables, and the control records that the deliver agent's Function keeps. Output: numbers for the demo.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import sqlalchemy as sa

from infra import redis_keys
from infra.database import reading
from infra.redis_clusters import RedisClusters
from infra.shard_map import CLUSTERS
from infra.topics import DELIVERIES

_EXPECTED = sa.text(
    """
    SELECT coalesce(sum(posted.tweets * reached.followers), 0)
    FROM (
        SELECT t.author_id, count(*) AS tweets
        FROM tweets AS t LEFT JOIN tweets AS o ON o.id = t.retweet_of
        WHERE t.deleted_at IS NULL AND (t.retweet_of IS NULL OR o.id IS NOT NULL AND o.deleted_at IS NULL)
        GROUP BY t.author_id
    ) AS posted
    JOIN users AS author ON author.id = posted.author_id AND author.status <> 'pull'
    JOIN (
        SELECT pair.author_id, count(*) AS followers
        FROM follows AS pair JOIN users AS reader ON reader.id = pair.follower_id
        WHERE reader.active_until > now()
        GROUP BY pair.author_id
    ) AS reached ON reached.author_id = posted.author_id
    """
)


@dataclass(frozen=True, slots=True)
class Delivered:
    """Home timeline entries that the Functions answered for: one number for each partition, in each cluster."""

    by_cluster: Mapping[str, tuple[int, ...]]

    @property
    def deliveries(self) -> int:
        """Entries that all three clusters acknowledged."""
        return sum(map(min, *self.by_cluster.values()))

    @property
    def copies(self) -> int:
        """Clusters in which every counted delivery was acknowledged."""
        most = tuple(map(max, *self.by_cluster.values()))
        return sum(numbers == most for numbers in self.by_cluster.values())


def expected_deliveries(engine: sa.Engine) -> int:
    """Live tweets of authors who are no celebrities, times their active followers."""
    with reading(engine) as connection:
        return int(connection.execute(_EXPECTED).scalar_one())


def delivered(clusters: RedisClusters) -> Delivered:
    """What every node's control records count. Raises `RedisUnavailable`."""
    questions = [("HGET", redis_keys.control(partition), "delivered") for partition in range(DELIVERIES.partitions)]
    by_cluster = {}
    for cluster in CLUSTERS:
        answers = [clusters.node(name).commands(questions) for name in clusters.shard_map.nodes_of(cluster)]
        by_cluster[cluster] = tuple(
            sum(int(number or 0) for number in numbers) for numbers in zip(*answers, strict=True)
        )
    return Delivered(by_cluster)
