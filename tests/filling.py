"""Nodes that were emptied and admitted again, for tests of what fills them."""

import secrets
from collections.abc import Callable
from dataclasses import replace

from infra import redis_keys
from infra.composition import Stores
from infra.copies import Copies, CopyState
from infra.zookeeper import COPIES_PATH
from tests.waiting import wait_until


def change_copies(stores: Stores, change: Callable[[Copies], Copies]) -> None:
    """Writes `/copies`, and returns when this process knows."""
    found = stores.zookeeper.read(COPIES_PATH)
    assert found is not None
    after = change(Copies.decode(found[0]))
    assert stores.zookeeper.compare_and_set(COPIES_PATH, after.encode(), found[1])
    wait_until(lambda: stores.clusters.shard_map.copies == after)


def empty_node(stores: Stores, name: str, *, opened: bool = True) -> None:
    """What registrar and coordinator do with a node that restarted: all of its copies are filling afterwards."""
    incarnation, shard_map = secrets.token_hex(8), stores.clusters.shard_map
    node, slots = stores.clusters.node(name), shard_map.slots_on(name)
    node.command("FLUSHALL", "SYNC")
    node.command("HSET", redis_keys.NODE, "name", name, "incarnation", incarnation, "epoch", shard_map.epoch)
    if opened:
        node.command("HSET", redis_keys.NODE, "open", "1")
    change_copies(stores, lambda copies: copies.without_node(name, slots).with_node(name, slots, incarnation))


def states_of(stores: Stores, name: str) -> set[CopyState]:
    """The states of a node's copies, as ZooKeeper has them now."""
    found = stores.zookeeper.read(COPIES_PATH)
    assert found is not None
    shard_map = replace(stores.clusters.shard_map, copies=Copies.decode(found[0]))
    return {shard_map.copies.of(name[0], slot) for slot in shard_map.slots_on(name)}
