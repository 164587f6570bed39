"""Coordinator, first form: one elected process writes the shard map with epoch 1 and installs the epoch on the nodes.

Input: the members that the registrars hold. Output: the placement znode, `epoch` on every node. Everybody else only
reads. Next: shard_map.py.
"""

import json
import threading

import structlog

from infra.errors import FanfoldError, ZooKeeperUnavailable
from infra.health import Health, State
from infra.live_settings import ensure_live_settings
from infra.redis_node import RedisNode
from infra.shard_map import CLUSTERS, ShardMap, decode_shard_map, encode_shard_map, make_shard_map
from infra.zookeeper import NODES_PATH, PLACEMENT_PATH, ZooKeeper

PERIOD_S = 0.5
FIRST_EPOCH = 1
INSTALL_TIMEOUT_S = 1.0
ROUND_S = 30.0  # one step: a second for each node that is away, and a session's length for a silent ZooKeeper

log = structlog.get_logger()


def read_members(zookeeper: ZooKeeper) -> dict[str, str]:
    """The URL of each registered node, by its name."""
    members = {}
    for name in zookeeper.children(NODES_PATH):
        found = zookeeper.read(f"{NODES_PATH}/{name}")
        if found is not None:
            members[name] = json.loads(found[0])["url"]
    return members


def next_shard_map(current: ShardMap | None, members: dict[str, str]) -> ShardMap | None:
    """The map to write, or None to leave it. A node's new address changes no slot, so it raises no epoch."""
    if current is None:
        complete = all(any(name[0] == cluster for name in members) for cluster in CLUSTERS)
        return make_shard_map(FIRST_EPOCH, members) if complete else None
    addresses = {name: members.get(name, url) for name, url in current.addresses.items()}
    if addresses == current.addresses:
        return None
    return ShardMap(current.epoch, current.placement, addresses)


class Coordinator:
    """Runs while it is the leader."""

    def __init__(self, zookeeper: ZooKeeper) -> None:
        self._zookeeper = zookeeper
        self._installed: dict[str, tuple[str, int]] = {}

    def step(self) -> bool:
        """Writes what is due, and installs the epoch where it is missing. True when every node of the map has it."""
        ensure_live_settings(self._zookeeper)
        members = read_members(self._zookeeper)
        shard_map = self._write_map(members)
        if shard_map is None:
            return False
        missing = [name for name in shard_map.nodes if not self._install(name, shard_map)]
        return not missing

    def run(self, stop: threading.Event, health: Health) -> None:
        """Steps until `stop` is set. While ZooKeeper is away nothing is decided.

        Raises `ZooKeeperUnavailable` when the session was lost: somebody else may lead by now.
        """
        beat = health.loop("the coordinator", ROUND_S, excused=self._zookeeper.suspended.is_set)
        while not stop.is_set():
            beat()
            if self._zookeeper.lost.is_set():
                raise ZooKeeperUnavailable("the coordinator's session with ZooKeeper was lost: start it again")
            if not self._zookeeper.suspended.is_set():
                try:
                    if self.step():
                        health.enter(State.SERVING)
                except FanfoldError as error:
                    log.warning("coordinator waits", error=str(error))
            stop.wait(PERIOD_S)

    def _write_map(self, members: dict[str, str]) -> ShardMap | None:
        found = self._zookeeper.read(PLACEMENT_PATH)
        current = decode_shard_map(found[0]) if found else None
        wanted = next_shard_map(current, members)
        if wanted is None:
            return current
        data = encode_shard_map(wanted)
        if found is None:
            self._zookeeper.create(PLACEMENT_PATH, data)
        else:
            self._zookeeper.compare_and_set(PLACEMENT_PATH, data, found[1])
        log.info("shard map written", epoch=wanted.epoch, nodes=list(wanted.nodes))
        return None  # the next step reads what is in force

    def _install(self, name: str, shard_map: ShardMap) -> bool:
        found = self._zookeeper.read(f"{NODES_PATH}/{name}")
        if found is None:
            self._installed.pop(name, None)
            return False
        incarnation = json.loads(found[0])["incarnation"]
        if self._installed.get(name) == (incarnation, shard_map.epoch):
            return True
        node = RedisNode(name, shard_map.addresses[name], timeout_s=INSTALL_TIMEOUT_S)
        try:
            node.call("install_epoch", shard_map.epoch)
        except FanfoldError as error:
            log.warning("epoch not installed yet", node=name, error=str(error))
            return False
        finally:
            node.close()
        self._installed[name] = (incarnation, shard_map.epoch)
        log.info("epoch installed", node=name, epoch=shard_map.epoch)
        return True
