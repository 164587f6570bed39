"""Tweet bodies: cached in the three clusters by tweet id, filled with SET NX, buried by a tombstone on delete.

A reader that read the database before a delete cannot put the body back: its SET NX meets the tombstone, and it looks
at the database again after it (G7).
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import NamedTuple

import sqlalchemy as sa

from infra import metrics, redis_keys
from infra.database import reading
from infra.errors import RedisUnavailable
from infra.redis_clusters import RedisClusters, in_any_order
from infra.redis_node import Argument, RedisNode
from infra.shard_map import CLUSTERS

BODY_TTL_S = 30 * 86_400  # of bodies, and of tombstones: longer than any reader that holds an old row
TOMBSTONE = b""

_READ = sa.text(
    "SELECT id, author_id, text, created_at, reply_to, retweet_of FROM live_tweets "
    "WHERE id = ANY (CAST(:ids AS bigint[]))"
)


class Body(NamedTuple):
    """A live tweet as readers show it. A tuple, since a page makes 20 of them at once and more for its context."""

    id: int
    author_id: int
    text: str
    created_at: datetime
    reply_to: int | None = None
    retweet_of: int | None = None


class TweetBodies:
    """Bodies by tweet id, from the cache and then the database. Safe to share between threads."""

    def __init__(self, clusters: RedisClusters, engine: sa.Engine) -> None:
        self._clusters = clusters
        self._engine = engine

    def read(self, ids: Sequence[int]) -> dict[int, Body]:
        """The live ones among these tweets. What the cache lacks is read from the database and filled in."""
        cached = self._cached(ids)
        unknown = [tweet_id for tweet_id in ids if tweet_id not in cached]
        found = decode_bodies([data for data in cached.values() if data != TOMBSTONE])
        if unknown:
            metrics.MISSES.labels("body").inc(len(unknown))
            found |= self._fill(self._live(unknown))
        return found

    def bury(self, ids: Sequence[int]) -> None:
        """Tombstones in every cluster. Raises `RedisUnavailable` when one cannot be written; the others are, and
        repeating is safe."""
        commands: dict[str, list[tuple[Argument, ...]]] = {}
        for cluster in CLUSTERS:
            for node, part in self._by_node(cluster, ids).items():
                commands[node.name] = [("SET", redis_keys.body(one), TOMBSTONE, "EX", BODY_TTL_S) for one in part]
        for answers in self._clusters.commands_at_once(commands).values():
            for answer in answers:
                if isinstance(answer, Exception):
                    raise answer

    def _cached(self, ids: Sequence[int]) -> dict[int, bytes]:
        """What the cache holds, bodies and tombstones: one command a node, all nodes of a cluster at once. The ids of a
        node that does not answer are looked for in the next cluster."""
        found: dict[int, bytes] = {}
        for cluster in in_any_order():
            ids = self._look_in(cluster, ids, found)
            if not ids:
                break
        return found

    def _look_in(self, cluster: str, ids: Sequence[int], found: dict[int, bytes]) -> list[int]:
        """Adds what one cluster holds; returns the ids whose node did not answer."""
        parts = self._clusters.shard_map.by_node(cluster, ids)
        commands: dict[str, list[list[Argument]]] = {
            name: [["MGET", *map(redis_keys.body, part)]] for name, part in parts.items()
        }
        unanswered: list[int] = []
        for name, [values] in self._clusters.commands_at_once(commands).items():
            if isinstance(values, RedisUnavailable):
                unanswered += parts[name]
            elif isinstance(values, Exception):
                raise values
            else:
                found |= {one: data for one, data in zip(parts[name], values, strict=True) if data is not None}
        return unanswered

    def _live(self, ids: Sequence[int]) -> list[Body]:
        with reading(self._engine) as connection:
            return [Body(*row) for row in connection.execute(_READ, {"ids": list(ids)})]

    def _fill(self, bodies: Sequence[Body]) -> dict[int, Body]:
        """SET NX in every cluster that answers, then a second look at the database: what was deleted meanwhile is
        buried. A delete that commits after that look writes its own tombstones after our bodies."""
        by_id = {body.id: body for body in bodies}
        for cluster in CLUSTERS:
            for node, part in self._by_node(cluster, list(by_id)).items():
                _fill_node(node, [by_id[tweet_id] for tweet_id in part])
        live = {body.id: body for body in self._live(list(by_id))} if by_id else {}
        gone = [tweet_id for tweet_id in by_id if tweet_id not in live]
        if gone:
            self.bury(gone)
        return live

    def _by_node(self, cluster: str, ids: Sequence[int]) -> dict[RedisNode, list[int]]:
        parts: dict[RedisNode, list[int]] = {}
        for tweet_id in ids:
            parts.setdefault(self._clusters.node_for(cluster, tweet_id), []).append(tweet_id)
        return parts


def encode_body(body: Body) -> bytes:
    """The cached bytes."""
    value = {
        "a": body.author_id,
        "t": body.text,
        "c": body.created_at.astimezone(UTC).isoformat(),
        "i": body.id,
        "p": body.reply_to,
        "o": body.retweet_of,
    }
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def decode_body(data: bytes) -> Body:
    """The inverse of `encode_body`."""
    [body] = decode_bodies([data]).values()
    return body


def decode_bodies(data: Sequence[bytes]) -> dict[int, Body]:
    """The same of many, by id: one call of the JSON decoder costs half of one for each."""
    values = json.loads((b"[" + b",".join(data) + b"]").decode())
    time_of = datetime.fromisoformat
    return {one["i"]: Body(one["i"], one["a"], one["t"], time_of(one["c"]), one["p"], one["o"]) for one in values}


def _fill_node(node: RedisNode, bodies: Sequence[Body]) -> None:
    """One that cannot be reached only stays without the bodies."""
    with suppress(RedisUnavailable):
        node.commands([("SET", redis_keys.body(body.id), encode_body(body), "EX", BODY_TTL_S, "NX") for body in bodies])
