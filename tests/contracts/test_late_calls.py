"""Calls to a Redis node that come late, and replies that nobody read, on real servers."""

import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis

from infra import redis_keys
from infra.composition import Stores
from infra.errors import RedisRefused, RedisUnavailable
from infra.events import DeliveryKind, one_chunk
from infra.rebuild import rebuild
from infra.redis_clusters import RedisClusters
from infra.redis_node import Argument, RedisNode, Reply
from infra.shard_map import CLUSTERS
from infra.slots import slot_of
from infra.timelines import Kind, Timelines
from streams.deliver import Deliverer, Received
from tests.fixed_maps import fixed_maps
from tests.waiting import wait_until

MakeUsers = Callable[[int], list[int]]

FIRST = 1_200_000_000_000_000_001
PARTITION = 3
TIMEOUT_S = 0.5
CHUNK_BYTES = 65_536


@dataclass
class SlowPath:
    """A network path to one server, on which what the next caller of `apply` sends stays under way until `arrive`."""

    server: tuple[str, int]
    holds: bool = False
    held: list[bytes] = field(default_factory=list)

    @contextmanager
    def open(self) -> Iterator[str]:
        """The URL of its near end."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            threading.Thread(target=self._accept, args=(listener,), daemon=True).start()
            yield f"redis://127.0.0.1:{listener.getsockname()[1]}"

    def arrive(self) -> bytes:
        """What was held reaches the server now, on a connection of its own. Returns what the server answers."""
        with socket.create_connection(self.server, 5) as late:
            late.sendall(b"".join(self.held))
            return late.recv(CHUNK_BYTES)

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            far = socket.create_connection(self.server)
            threading.Thread(target=self._pump, args=(near, far, True), daemon=True).start()
            threading.Thread(target=self._pump, args=(far, near, False), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, outwards: bool) -> None:
        held = False
        with source:
            while data := _received(source):
                if outwards and self.holds and b"apply" in data:
                    self.holds, held = False, True
                if held:
                    self.held.append(data)
                else:
                    sink.sendall(data)
        with sink:
            return


def _received(source: socket.socket) -> bytes:
    try:
        return source.recv(CHUNK_BYTES)
    except OSError:
        return b""


@contextmanager
def timelines_over(stores: Stores, addresses: dict[str, str]) -> Iterator[Timelines]:
    """The same timelines for a caller that reaches some nodes by other ways, with a short time-out."""
    shard_map = replace(stores.clusters.shard_map, addresses={**stores.clusters.shard_map.addresses, **addresses})
    clusters = RedisClusters(fixed_maps(shard_map), TIMEOUT_S)
    yield Timelines(clusters, stores.timelines._live)
    clusters.close()


def message(offset: int, kind: DeliveryKind, targets: Sequence[int]) -> Received:
    return Received(offset, [one_chunk(kind, FIRST, 5, targets)])


def control_record(stores: Stores, name: str) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = stores.clusters.node(name).command("HGETALL", redis_keys.control(PARTITION))
    return found


def test_a_call_that_arrives_after_its_retry_and_after_a_retract_is_refused_and_changes_nothing(
    stores: Stores, make_users: MakeUsers, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frozen server runs late calls in the order they came; a network that held one back does not."""
    [user] = make_users(1)
    rebuild(stores.engine, stores.timelines, Kind.HOME, [user])
    name = stores.clusters.shard_map.node_of("b", slot_of(user))
    url = urlsplit(stores.clusters.shard_map.addresses[name])
    path = SlowPath((url.hostname or "", url.port or 0))
    with path.open() as near_end, timelines_over(stores, {name: near_end}) as timelines:
        deliverer = Deliverer(stores.engine, timelines, PARTITION, generation=1)
        path.holds = True
        deliverer.apply([message(7, DeliveryKind.DELIVER, [user])])
        deliverer.apply([message(8, DeliveryKind.RETRACT, [user])])
        before = control_record(stores, name)

        answer = path.arrive()

    assert answer.startswith(b"-FENCED call 1/")
    assert control_record(stores, name) == before
    assert (before[b"applied"], before[b"delivered"]) == (b"8", b"1")
    for cluster in CLUSTERS:
        assert stores.timelines.dump(cluster, Kind.HOME, [user]) == {user: [b"0"]}


@pytest.fixture
def clusters(stores: Stores) -> Iterator[RedisClusters]:
    """Clients of their own, with a short time-out and one connection each."""
    with timelines_over(stores, {}) as timelines:
        for name in timelines.clusters.shard_map.nodes:
            timelines.clusters.node(name).command("PING")
        yield timelines.clusters


def answer_late(stores: Stores, wait_ms: int) -> list[str]:
    """One node of each cluster, none of which answers for this long: nothing is there to read at first."""
    names = [stores.clusters.shard_map.nodes_of(cluster)[0] for cluster in CLUSTERS]
    for name in names:
        stores.clusters.node(name).command("CLIENT", "PAUSE", wait_ms, "ALL")
    return names


def check_pools(clusters: RedisClusters, names: Sequence[str]) -> None:
    """Each pool has all its connections, and the next caller reads the answer to his own question."""
    for name in names:
        node = clusters.node(name)
        wait_until(lambda name=name: clusters.node(name).answers, "a probe that is answered")  # type: ignore[misc]
        assert node._pool._in_use_connections == {connection for connection, _ in node._idle}
        for question in ("one", "two"):
            assert node.command("ECHO", f"{name} {question}") == f"{name} {question}".encode()
            assert node.start([("ECHO", f"{question} {name}")]).get() == [f"{question} {name}".encode()]


@pytest.mark.parametrize("replies_read", [0, 1, 2])
def test_an_interruption_between_replies_leaves_no_unread_reply_for_the_next_caller(
    stores: Stores, clusters: RedisClusters, monkeypatch: pytest.MonkeyPatch, replies_read: int
) -> None:
    names = answer_late(stores, 200)
    read_response, read = redis.Connection.read_response, list[str]()

    def interrupted(self: redis.Connection, **named: Any) -> Any:
        if len(read) == replies_read:
            raise KeyboardInterrupt
        read.append("one")
        return read_response(self, **named)

    monkeypatch.setattr(redis.Connection, "read_response", interrupted)
    calls: dict[str, tuple[Argument, ...]] = dict.fromkeys(names, ("1",))
    with pytest.raises(KeyboardInterrupt):
        clusters.call_at_once("install_epoch", calls)
    monkeypatch.setattr(redis.Connection, "read_response", read_response)

    check_pools(clusters, names)


def test_an_interruption_between_calls_leaves_no_unread_reply_for_the_next_caller(
    stores: Stores, clusters: RedisClusters, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = answer_late(stores, 200)
    start, started = RedisNode.start, list[str]()

    def interrupted(self: RedisNode, commands: Sequence[Sequence[Argument]], timeout_s: float | None) -> Reply:
        if len(started) == 2:
            raise KeyboardInterrupt
        started.append(self.name)
        return start(self, commands, timeout_s)

    monkeypatch.setattr(RedisNode, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        clusters.call_at_once("install_epoch", dict.fromkeys(names, ("1",)))
    monkeypatch.setattr(RedisNode, "start", start)

    check_pools(clusters, names)


def test_a_time_out_or_a_refusal_leaves_no_unread_reply_for_the_next_caller(
    stores: Stores, clusters: RedisClusters
) -> None:
    names = [stores.clusters.shard_map.nodes_of(cluster)[0] for cluster in CLUSTERS]
    slow, refused, away = names[0], names[1], "a-node-that-is-not-there"
    stores.clusters.node(slow).command("CLIENT", "PAUSE", int(TIMEOUT_S * 2_000), "ALL")
    calls: dict[str, tuple[Argument, ...]] = {slow: ("1",), refused: (), away: ("1",), names[2]: ("1",)}

    outcomes = clusters.call_at_once("install_epoch", calls)

    assert [type(outcomes[name]) for name in calls] == [RedisUnavailable, RedisRefused, RedisUnavailable, int]
    patient = RedisNode(slow, clusters.node(slow).url)
    patient.command("PING")  # answered when the node works again
    patient.close()
    check_pools(clusters, names)


def test_several_calls_of_a_node_are_answered_in_their_order_and_a_refusal_is_one_of_the_answers(
    stores: Stores, clusters: RedisClusters
) -> None:
    names = [stores.clusters.shard_map.nodes_of(cluster)[0] for cluster in CLUSTERS]
    here, away = names[0], "a-node-that-is-not-there"

    outcomes = clusters.call_all_at_once("install_epoch", {here: [("1",), (), ("1",)], away: [("1",), ("1",)]})

    assert [type(outcome) for outcome in outcomes[here]] == [int, RedisRefused, int]
    assert [type(outcome) for outcome in outcomes[away]] == [RedisUnavailable, RedisUnavailable]
    check_pools(clusters, names)


def test_an_argument_that_cannot_be_sent_is_no_server_that_is_away(stores: Stores, clusters: RedisClusters) -> None:
    names = [stores.clusters.shard_map.nodes_of(CLUSTERS[0])[0]]
    calls: Any = {names[0]: [(object(),)]}

    [outcome] = clusters.call_all_at_once("install_epoch", calls)[names[0]]

    assert isinstance(outcome, RedisRefused)
    check_pools(clusters, names)


def test_a_reply_is_got_only_once(stores: Stores) -> None:
    reply = stores.clusters.node("a1").start([("FCALL", "install_epoch", 0, "1")])
    assert reply.get() == [1]
    with pytest.raises(LookupError, match="got or dropped before"):
        reply.get()
    reply.drop()
    assert stores.clusters.node("a1").command("ECHO", "mine") == b"mine"
