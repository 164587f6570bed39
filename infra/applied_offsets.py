"""How far each node has applied the deliveries log, as its control records say."""

from infra import redis_keys
from infra.redis_clusters import RedisClusters
from infra.redis_node import Argument
from infra.shard_map import ShardMap
from infra.topics import DELIVERIES

NOTHING_APPLIED = -1


def highest_applied(clusters: RedisClusters) -> dict[int, int] | None:
    """The highest offset that a node has applied of each partition; those that no node knows are left out. None when no
    node answers."""
    by_node = applied_offsets(clusters, clusters.shard_map)
    if not by_node:
        return None
    highest = enumerate(max(of_nodes) for of_nodes in zip(*by_node.values(), strict=True))
    return {partition: offset for partition, offset in highest if offset != NOTHING_APPLIED}


def applied_offsets(clusters: RedisClusters, shard_map: ShardMap) -> dict[str, list[int]]:
    """The last offset of each partition, by node. Whoever reads timelines after this finds them not older. Without
    nodes that do not answer or have another epoch: slots may have moved away from them, and their offsets go on."""
    questions: list[tuple[Argument, ...]] = [("HGET", redis_keys.NODE, "epoch")]
    questions += [("HGET", redis_keys.control(partition), "applied") for partition in range(DELIVERIES.partitions)]
    applied: dict[str, list[int]] = {}
    for name, answers in clusters.commands_at_once(dict.fromkeys(shard_map.nodes, questions)).items():
        if not any(isinstance(answer, Exception) for answer in answers) and answers[0] is not None:
            epoch, *offsets = [int(answer) if answer else NOTHING_APPLIED for answer in answers]
            if epoch == shard_map.epoch:
                applied[name] = offsets
    return applied
