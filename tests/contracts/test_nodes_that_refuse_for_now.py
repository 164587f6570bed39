"""A node that lives and takes nothing for a time: its calls are made again later, and no worker ends for it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from infra.composition import Stores
from infra.errors import RedisFull, RedisUnavailable
from infra.rebuild import rebuild_each_copy
from infra.redis_node import RedisNode
from infra.shard_map import CLUSTERS
from infra.timelines import Kind
from tests.redis_server import redis_server

WRITES = b"#!lua name=writes\nredis.register_function('writes', function() return redis.call('SET', 'a', 'b') end)"


@dataclass(frozen=True)
class Refusing:
    """A node, and how it refuses."""

    node: RedisNode
    error: type[RedisUnavailable]
    says: str


@pytest.fixture(params=["no memory left", "a replica"])
def refusing(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Refusing]:
    with redis_server(tmp_path) as server:
        node = server.node("a1")
        node.command("FUNCTION", "LOAD", WRITES)
        if request.param == "a replica":
            node.command("REPLICAOF", "127.0.0.1", "1")
            yield Refusing(node, RedisUnavailable, "Redis node a1 cannot take the call now: ")
        else:
            node.command("CONFIG", "SET", "maxmemory", "1")
            yield Refusing(node, RedisFull, "Redis node a1 has no memory left for a write, raise its maxmemory: ")
        node.close()


def test_a_command_is_one_for_later(refusing: Refusing) -> None:
    with pytest.raises(refusing.error, match=refusing.says):
        refusing.node.command("SET", "a", "b")


def test_a_function_is_one_for_later(refusing: Refusing) -> None:
    with pytest.raises(refusing.error, match=refusing.says):
        refusing.node.call("writes")


def test_so_is_one_of_several(refusing: Refusing) -> None:
    answers = refusing.node.start([("SET", "a", "b"), ("PING",)]).get()

    assert [type(answer) for answer in answers] == [refusing.error, bytes]


def test_a_tombstone_is_not_written_and_its_node_not_marked(stores: Stores) -> None:
    with full_cluster(stores), pytest.raises(RedisFull):
        stores.bodies.bury([10**18])

    assert stores.clusters.shard_map.copies.all_serving
    stores.bodies.bury([10**18])


def test_a_rebuild_of_what_is_there_is_not_told_as_done_where_a_copy_cannot_be_written(
    stores: Stores, user: int
) -> None:
    with (
        full_cluster(stores),
        pytest.raises(RedisUnavailable, match=r"cluster b cannot be .* to rebuild its timelines"),
    ):
        rebuild_each_copy(stores.engine, stores.timelines, Kind.HOME, [user])

    rebuild_each_copy(stores.engine, stores.timelines, Kind.HOME, [user])
    assert not any(stores.timelines.lacking(cluster, Kind.HOME, [user]) for cluster in CLUSTERS)


@contextmanager
def full_cluster(stores: Stores) -> Iterator[None]:
    """The nodes of cluster b have no memory left while the context lasts."""
    nodes = [stores.clusters.node(name) for name in stores.clusters.shard_map.nodes_of("b")]
    before = {node: node.command("CONFIG", "GET", "maxmemory")[1] for node in nodes}
    for node in nodes:
        node.command("CONFIG", "SET", "maxmemory", "1")
    try:
        yield
    finally:
        for node in nodes:
            node.command("CONFIG", "SET", "maxmemory", before[node])
