"""The limit of the same machine and run: frozen Functions without promises, fed from memory (limit.lua).

Input: the chunks that the pipeline delivered. Three threads, one a cluster, keep several calls in flight on each node.
"""

import threading
from collections import deque
from collections.abc import Mapping, Sequence
from importlib.resources import files
from time import monotonic

import redis

from benchmarks.warm_state import Chunk
from infra.errors import FanfoldError
from infra.redis_clusters import RedisClusters
from infra.redis_keys import HOME, KEY_BYTES, page_of_keys
from infra.slots import slots_of

CALL_KEYS = 2_000  # keys of one call
CALLS_IN_FLIGHT = 4  # on each node
TIMEOUT_S = 60.0

Calls = dict[str, list[bytes]]  # node → packed commands


def load_limit(clusters: RedisClusters) -> None:
    """Loads the frozen Functions on every node."""
    code = files("benchmarks").joinpath("limit.lua").read_text(encoding="utf-8")
    for name in clusters.shard_map.nodes:
        clusters.node(name).command("FUNCTION", "LOAD", "REPLACE", code)


def measure_limit(clusters: RedisClusters, chunks: Sequence[Chunk], function: str, length: int) -> float:
    """Deliveries a second, each in three clusters, of one frozen Function. Tweet ids must be above all entries.

    Raises `FanfoldError` when not every insertion was made: then it did other work than the pipeline.
    """
    calls = _calls(clusters, chunks, function, length)
    addresses = {name: clusters.shard_map.addresses[name] for name in calls}
    failures: list[Exception] = []
    done: list[int] = []

    def feed(cluster: str) -> None:
        try:
            done.append(_feed({name: calls[name] for name in calls if name.startswith(cluster)}, addresses))
        except Exception as error:  # noqa: BLE001 - raised below, in the caller's thread
            failures.append(error)

    threads = [threading.Thread(target=feed, args=(cluster,)) for cluster in clusters.shard_map.placement]
    began_s = monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = monotonic() - began_s
    if failures:
        raise FanfoldError(f"the limit could not be measured: {failures[0]}")
    deliveries = sum(len(chunk.followers) for chunk in chunks)
    if done != [deliveries] * len(threads):
        raise FanfoldError(f"the limit's Function inserted {done} entries in the clusters instead of {deliveries} each")
    return deliveries / seconds


def _calls(clusters: RedisClusters, chunks: Sequence[Chunk], function: str, length: int) -> Calls:
    """Packed commands of some `CALL_KEYS` keys each; the tweets keep their order."""
    shard_map = clusters.shard_map
    calls: Calls = {name: [] for name in shard_map.nodes}
    open_: dict[str, list[bytes | int | str]] = {name: [] for name in shard_map.nodes}
    sizes = dict.fromkeys(shard_map.nodes, 0)

    def close(name: str) -> None:
        if open_[name]:
            command = ("FCALL", function, 0, length, *open_[name])
            calls[name].append(_packed(command))
            open_[name], sizes[name] = [], 0

    for chunk in chunks:
        pages = page_of_keys(chunk.followers, HOME)
        slots = slots_of(chunk.followers)
        for cluster in shard_map.placement:
            places = shard_map.node_indexes(cluster)[slots]
            for index, name in enumerate(shard_map.nodes_of(cluster)):
                page = pages[places == index].tobytes()
                if page:
                    open_[name] += [chunk.tweet_id, page]
                    sizes[name] += len(page) // KEY_BYTES
                    if sizes[name] >= CALL_KEYS:
                        close(name)
    for name in calls:
        close(name)
    return calls


def _packed(command: Sequence[bytes | int | str]) -> bytes:
    """A command in Redis's protocol, ready to send."""
    parts = [b"*%d\r\n" % len(command)]
    for word in command:
        data = word if isinstance(word, bytes) else str(word).encode()
        parts.append(b"$%d\r\n%b\r\n" % (len(data), data))
    return b"".join(parts)


def _feed(calls: Mapping[str, Sequence[bytes]], addresses: Mapping[str, str]) -> int:
    """Feeds the nodes of one cluster in turn; how many insertions they made."""
    clients = {name: redis.Redis.from_url(addresses[name], socket_timeout=TIMEOUT_S, protocol=2) for name in calls}
    connections = {name: client.connection_pool.get_connection() for name, client in clients.items()}
    in_flight: deque[str] = deque()
    done = 0
    try:
        for at in range(max(map(len, calls.values()))):
            for name, packed in calls.items():
                if at < len(packed):
                    connections[name].send_packed_command([packed[at]])  # type: ignore[no-untyped-call]
                    in_flight.append(name)
            while len(in_flight) > CALLS_IN_FLIGHT * len(calls):
                done += connections[in_flight.popleft()].read_response()
        while in_flight:
            done += connections[in_flight.popleft()].read_response()
    finally:
        for client in clients.values():
            client.close()
    return done
