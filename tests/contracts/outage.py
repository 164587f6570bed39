"""Nodes that nobody reaches, and what tests of them look at."""

from collections.abc import Callable
from dataclasses import replace

from infra import redis_keys
from infra.composition import Stores
from infra.copies import Copies
from infra.events import DeliveryKind, one_chunk
from infra.shard_map import decode_shard_map, encode_shard_map
from infra.slots import slot_of
from infra.topics import DELIVERIES
from infra.zookeeper import COPIES_PATH, PLACEMENT_PATH
from streams.deliver import Deliverer, Received
from tests.waiting import wait_until

NOWHERE = "redis://127.0.0.1:1"
TWEET = 10**18 + 1

MakeUsers = Callable[[int], list[int]]


class Outage:
    """Nodes that nobody reaches any more, since their addresses lead nowhere."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores
        self._whole = dict(stores.clusters.shard_map.addresses)

    def begin(self, *names: str) -> None:
        self._write(dict.fromkeys(names, NOWHERE))

    def end(self) -> None:
        self._write({})

    def _write(self, changes: dict[str, str]) -> None:
        found = self._stores.zookeeper.read(PLACEMENT_PATH)
        assert found is not None
        shard_map = replace(decode_shard_map(found[0]), addresses=self._whole | changes)
        assert self._stores.zookeeper.compare_and_set(PLACEMENT_PATH, encode_shard_map(shard_map), found[1])
        wait_until(lambda: self._stores.clusters.shard_map.addresses == shard_map.addresses)


def deliverer(stores: Stores, user: int) -> Deliverer:
    return Deliverer(stores.engine, stores.timelines, slot_of(user) % DELIVERIES.partitions, generation=1)


def delivery(user: int, offset: int = 1, tweet: int = TWEET) -> list[Received]:
    return [Received(offset, [one_chunk(DeliveryKind.DELIVER, tweet, 5, [user])])]


def holder(stores: Stores, cluster: str, user: int) -> str:
    return stores.clusters.shard_map.node_of(cluster, slot_of(user))


def states(stores: Stores) -> Copies:
    found = stores.zookeeper.read(COPIES_PATH)
    assert found is not None
    return Copies.decode(found[0])


def listed(stores: Stores, name: str, user: int) -> list[int]:
    return [int(one) for one in stores.clusters.node(name).command("LRANGE", redis_keys.home_timeline(user), 1, -1)]
