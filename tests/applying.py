"""Calls of deliver, made by hand: every node of a partition is called, with the same number."""

from collections.abc import Collection, Sequence
from itertools import count

from infra.composition import Stores
from infra.redis_node import Argument
from infra.shard_map import CLUSTERS
from infra.slots import slot_of
from infra.topics import DELIVERIES

LENGTH = 800
ONE_FOR_ONE_LIST = b"\0\1" + b"\0\0" + bytes(4)  # how many tweets the list gets, which, and its message


class Applying:
    """One worker's calls, in one generation."""

    def __init__(self, stores: Stores, generation: int = 1) -> None:
        self._stores = stores
        self._generation = generation
        self._numbers = count(1)

    def nothing(self, partitions: Collection[int] = range(DELIVERIES.partitions)) -> None:
        """An empty message for each of these partitions."""
        for partition in partitions:
            self._call(partition, (), CLUSTERS)

    def record(
        self, user_id: int, kind: str, ids: int, key: bytes, extra: Argument, clusters: Sequence[str] = CLUSTERS
    ) -> None:
        """A record for one user's key; the other nodes are called too."""
        self._call(slot_of(user_id) % DELIVERIES.partitions, (kind, 0, ids, key, extra), clusters, user_id)

    def _call(self, partition: int, record: Sequence[Argument], clusters: Sequence[str], user_id: int = 0) -> None:
        shard_map, number = self._stores.clusters.shard_map, next(self._numbers)
        for name in shard_map.nodes:
            if name[0] in clusters:
                mine = record if record and shard_map.node_of(name[0], slot_of(user_id)) == name else ()
                head = partition, shard_map.fence(name), self._generation, number, number, 0, LENGTH
                self._stores.clusters.node(name).call("apply", *head, *mine)
