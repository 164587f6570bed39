"""Registered nodes and a coordinator, whose time a test moves."""

import json
from dataclasses import dataclass, field, replace
from typing import Any

import sqlalchemy as sa

from infra import redis_keys
from infra.coordinator import Coordinator
from infra.copies import Copies, CopyState
from infra.epoch_guard import EpochGuard
from infra.lease import Lease
from infra.redis_node import RedisNode
from infra.settings import Settings
from infra.shard_map import ShardMap, decode_shard_map
from infra.shard_maps import SETTLE_S
from infra.zookeeper import COPIES_PATH, NODES_PATH, PLACEMENT_PATH, ZooKeeper
from tests.clock import Clock

LEAVE_AFTER_S = 30
STEPS_MAX = 60


@dataclass
class Deployment:
    """Six registered nodes, and a coordinator whose time stands still until a test moves it."""

    settings: Settings
    zookeeper: ZooKeeper
    lease: Lease
    engine: sa.Engine
    clock: Clock = field(default_factory=Clock)

    def __post_init__(self) -> None:
        self.coordinator = Coordinator(self.zookeeper, self.lease, EpochGuard(self.engine), self.clock)

    def member(self, name: str, **changes: Any) -> None:
        """What its registrar says of a node from now on."""
        path = f"{NODES_PATH}/{name}"
        found = self.zookeeper.read(path)
        assert found is not None
        assert self.zookeeper.compare_and_set(path, json.dumps(json.loads(found[0]) | changes).encode(), found[1])

    def emptied(self, name: str, incarnation: str) -> None:
        """What a registrar does with a node that restarted or was dropped."""
        node = RedisNode(name, self.settings.redis_nodes[name])
        node.command("FLUSHALL", "SYNC")
        node.command("HSET", redis_keys.NODE, "incarnation", incarnation)
        node.close()
        self.member(name, incarnation=incarnation, fit=True)

    def rest(self, *, new_leaders: bool = False) -> ShardMap:
        """Steps until nothing is left to do; with another leader after every change when that is asked for."""
        for _ in range(STEPS_MAX):
            changes = self.coordinator._changes
            if self.coordinator.step():
                return self.shard_map
            self.clock.now_s += SETTLE_S
            if new_leaders and self.coordinator._changes > changes:
                self.coordinator = Coordinator(self.zookeeper, self.lease, EpochGuard(self.engine), self.clock)
        raise AssertionError(f"the coordinator does not come to rest: {self.summary()}")

    def steps(self, count: int = 4) -> ShardMap:
        """A few steps without time going on."""
        for _ in range(count):
            self.coordinator.step()
        return self.shard_map

    @property
    def shard_map(self) -> ShardMap:
        placement, copies = self.zookeeper.read(PLACEMENT_PATH), self.zookeeper.read(COPIES_PATH)
        assert placement is not None
        assert copies is not None
        return replace(decode_shard_map(placement[0]), copies=Copies.decode(copies[0]))

    def states_of(self, name: str) -> set[CopyState]:
        shard_map = self.shard_map
        return {shard_map.copies.of(name[0], slot) for slot in shard_map.slots_on(name)}

    def summary(self) -> dict[str, set[CopyState]]:
        return {name: self.states_of(name) for name in self.shard_map.nodes}
