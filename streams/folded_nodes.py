"""Tells the nodes of all clusters what was folded, so that the counts which readers have there follow the database.

Every node hears of every fold, also when none of its tweets was in it. One that missed a fold finds that out with the
next call (lua/counts.lua, counts_fold) and forgets its counts: absent is safe. While nothing is folded a call comes
once a second, and a node that did not answer is tried again after one: so it is right two seconds after it is back.
"""

import time
from collections.abc import Callable, Mapping

import structlog

from infra import metrics
from infra.counts import FoldedCounts
from infra.errors import ZooKeeperUnavailable
from infra.near_nodes import NearNodes
from infra.redis_clusters import RedisClusters
from infra.redis_node import Argument
from infra.shard_map import CLUSTERS, ShardMap
from infra.slots import slot_of

TOLD_EVERY_S = 1.0
MISSED = 1  # what counts_fold answers when the node forgot its counts

log = structlog.get_logger()


class FoldedNodes:
    """The nodes, as one process of counters tells them. `clusters` should have a short time-out."""

    def __init__(self, clusters: RedisClusters, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clusters = clusters
        self._clock_s = clock_s
        self._near = NearNodes(clock_s)
        self._told_s = 0.0

    @property
    def away(self) -> list[str]:
        """The nodes that did not answer lately."""
        return sorted(node for node in self._near.away_until_s if not self._near.has(node))

    def tell_now_and_then(self, fold: int) -> None:
        """Once a second, that nothing was folded after this."""
        if self._clock_s() - self._told_s >= TOLD_EVERY_S:
            self.tell(fold, fold, {})

    def tell(self, before: int, fold: int, counts: Mapping[int, FoldedCounts]) -> None:
        """What the fold after `before` left of these tweets. A node that does not answer is told later that it missed
        it, so nothing is raised. Idempotent: the same fold twice is told twice."""
        self._told_s = self._clock_s()
        try:
            shard_map = self._clusters.shard_map
        except ZooKeeperUnavailable as error:
            log.warning("no node is told of folds", error=str(error))
            return
        calls = arguments_by_node(shard_map, before, fold, counts)
        for node, answer in self._clusters.call_at_once("counts_fold", self._near.among(calls)).items():
            self._note(node, answer)

    def _note(self, node: str, answer: object) -> None:
        was_near = node not in self._near.away_until_s
        self._near.note(node, answer)
        if isinstance(answer, Exception):
            if was_near:
                log.warning("a node does not hear of folds", node=node, error=str(answer))
            return
        if not was_near:
            del self._near.away_until_s[node]
        if answer == MISSED:
            metrics.FORGOTTEN.labels(node[0]).inc()
            log.info("a node forgot its counts", node=node)


def arguments_by_node(
    shard_map: ShardMap, before: int, fold: int, counts: Mapping[int, FoldedCounts]
) -> dict[str, list[Argument]]:
    """What each node's call says."""
    calls: dict[str, list[Argument]] = {node: [shard_map.epoch, before, fold] for node in shard_map.nodes}
    for tweet_id, folded in counts.items():
        for cluster in CLUSTERS:
            calls[shard_map.node_of(cluster, slot_of(tweet_id))] += folded.arguments(tweet_id)
    return calls
