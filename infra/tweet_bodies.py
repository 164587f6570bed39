"""Tweet bodies: cached in the three clusters by tweet id, filled where none is, buried by a tombstone on delete.

A reader that read the database before a delete cannot put the body back: it meets the tombstone, and looks at the
database again after it; and a node that has restarted since refuses him (G7).
"""

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import sqlalchemy as sa

from infra import metrics, redis_keys
from infra.ask_copies import Question, ask_copies, spread
from infra.coalescing import Coalescing
from infra.database import reading
from infra.errors import RedisFull, RedisUnavailable
from infra.redis_clusters import RedisClusters
from infra.redis_node import Argument
from infra.shard_map import CLUSTERS, COPIES_MIN, ShardMap

BODY_TTL_S = 30 * 86_400  # of bodies, and of tombstones: longer than any reader that holds an old row
TOMBSTONE = b""
BURY_TRIES_MAX = 3  # one, one that marks, and one for a node that came back meanwhile; each takes a time-out at most

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
        self._filling = Coalescing[int]()

    def read(self, ids: Sequence[int]) -> dict[int, Body]:
        """The live ones among these tweets. What the cache lacks is read from the database and filled in."""
        found, unknown = self._among_cached(ids)
        if unknown:
            metrics.MISSES.labels("body").inc(len(unknown))
            others = self._filling.fill("body", unknown, lambda mine: found.update(self._read_and_fill(mine)))
            if others:  # what is not there now has no copy that keeps it
                again, unknown = self._among_cached(others)
                found |= again
                found |= self._read_and_fill(unknown) if unknown else {}
        return found

    def _among_cached(self, ids: Sequence[int]) -> tuple[dict[int, Body], list[int]]:
        """The live ones that the cache has, and those of which it has neither a body nor a tombstone."""
        cached = self._cached(ids)
        return (
            decode_bodies([data for data in cached.values() if data != TOMBSTONE]),
            [tweet_id for tweet_id in ids if tweet_id not in cached],
        )

    def _read_and_fill(self, ids: Sequence[int]) -> dict[int, Body]:
        shard_map = self._clusters.shard_map  # before the rows are read: a node that restarts after this refuses them
        return self._fill(self._live(ids), shard_map)

    def bury(self, ids: Sequence[int]) -> None:
        """Tombstones in every copy. One that does not answer is marked down, and then nobody reads it when this
        returns. Raises `RedisUnavailable` when it cannot be marked, when a node has no memory left, or when the nodes
        have an epoch that this process does not hear of; the others are written, and repeating is safe."""
        for number in range(1, BURY_TRIES_MAX + 1):
            failure = self._bury(ids, mark=number > 1)  # the first time it may be a connection that died while idle
            if failure is None:
                return
            if number == BURY_TRIES_MAX:
                raise failure

    def _bury(self, ids: Sequence[int], *, mark: bool) -> Exception | None:
        """None when every copy has them that is not down. A failure is worth another try: the node may have been
        emptied and admitted anew while it was tried, or slots have moved."""
        shard_map = self._clusters.shard_map
        commands: dict[str, list[tuple[Argument, ...]]] = {}
        for cluster in CLUSTERS:
            for name, part in shard_map.by_node(cluster, ids).items():
                commands[name] = [("SET", redis_keys.body(one), TOMBSTONE, "EX", BODY_TTL_S) for one in part]
                commands[name].append(("HGET", redis_keys.NODE, "epoch"))
        left_out = {name for name in commands if self._is_down_now(name, shard_map)}
        outcomes = self._clusters.commands_at_once({name: commands[name] for name in commands if name not in left_out})
        failure: Exception | None = None
        for name, answers in outcomes.items():
            found = next((answer for answer in answers if isinstance(answer, Exception)), None)
            silent = isinstance(found, RedisUnavailable) and not isinstance(found, RedisFull)
            if silent and mark and self._clusters.mark_down(name, shard_map):
                left_out.add(name)
            else:
                failure = found or failure
        failure = failure or self._too_old(shard_map, [answers[-1] for answers in outcomes.values()])
        if failure is None:
            self._clusters.settle(left_out)
        return failure

    def _is_down_now(self, name: str, shard_map: ShardMap) -> bool:
        """Whether a node is down after the deletes were committed, not only by what is known of before: a reader who
        knows already that it was admitted since may still fill in what he read before them."""
        return name in shard_map.down_nodes and not self._clusters.cut_off and self._clusters.mark_down(name, shard_map)

    def _too_old(self, shard_map: ShardMap, epochs: Sequence[Any]) -> RedisUnavailable | None:
        """The error when a node had a newer epoch behind the tombstones: slots may have moved to nodes that got none.
        The next try has the newer shard map, if ZooKeeper can be reached."""
        if not any(isinstance(epoch, bytes) and int(epoch) > shard_map.epoch for epoch in epochs):
            return None
        self._clusters.is_newer_than(shard_map)
        return RedisUnavailable(
            f"the Redis nodes have a newer epoch than {shard_map.epoch}, the last one that this process has heard of: "
            "repeat the call once it reaches ZooKeeper"
        )

    def _cached(self, ids: Sequence[int]) -> dict[int, bytes]:
        """What the cache holds, bodies and tombstones: one command a node. The next copy is asked where a node does not
        answer in time, or has nothing: a copy that came by a move or a repair serves before it has bodies."""
        if self._clusters.cut_off:
            return self._in_two_copies(ids)
        found: dict[int, bytes] = {}
        shard_map = self._clusters.shard_map

        def take(_: str, part: Sequence[int], answer: Any) -> Sequence[int]:
            found.update([(one, data) for one, data in zip(part, answer, strict=True) if data is not None])
            return [one for one in part if one not in found]

        question = Question("body", lambda part: ["MGET", *map(redis_keys.body, part)], take)
        ask_copies(self._clusters, spread(shard_map, ids), ids, question)
        return found

    def _in_two_copies(self, ids: Sequence[int]) -> dict[int, bytes]:
        """For a reader who may not know which copy missed a write: a tombstone in any copy wins, and a body counts when
        two copies have it (G4). One copy of a slot is down at most, so one of the two has missed nothing; nodes of
        another epoch do not count, since slots may have moved away from them."""
        shard_map, held = self._clusters.shard_map, dict[int, list[bytes]]()
        for cluster in CLUSTERS:
            parts = shard_map.by_node(cluster, ids)
            questions: dict[str, list[tuple[Argument, ...]]] = {
                name: [("HGET", redis_keys.NODE, "epoch"), ("MGET", *map(redis_keys.body, part))]
                for name, part in parts.items()
            }
            for name, (epoch, values) in self._clusters.commands_at_once(questions).items():
                if isinstance(values, Exception) or epoch is None or int(epoch) != shard_map.epoch:
                    continue
                for one, data in zip(parts[name], values, strict=True):
                    if data is not None:
                        held.setdefault(one, []).append(data)
        return {
            one: TOMBSTONE if TOMBSTONE in copies else copies[0]
            for one, copies in held.items()
            if TOMBSTONE in copies or len(copies) >= COPIES_MIN
        }

    def _live(self, ids: Sequence[int]) -> list[Body]:
        with reading(self._engine) as connection:
            return [Body(*row) for row in connection.execute(_READ, {"ids": list(ids)})]

    def _fill(self, bodies: Sequence[Body], shard_map: ShardMap) -> dict[int, Body]:
        """Into every copy that answers, where none is; then a second look at the database: what was deleted meanwhile
        is buried. A delete that commits after that look writes its own tombstones after our bodies. `shard_map` is
        older than these rows, so a node that lost a tombstone since then refuses them for its incarnation."""
        by_id = {body.id: body for body in bodies}
        if by_id:
            self._clusters.commands_at_once(put_bodies(shard_map, bodies))
        live = {body.id: body for body in self._live(list(by_id))} if by_id else {}
        gone = [tweet_id for tweet_id in by_id if tweet_id not in live]
        if gone:
            self.bury(gone)
        return live


def put_bodies(shard_map: ShardMap, bodies: Sequence[Body]) -> dict[str, list[tuple[Argument, ...]]]:
    """One call a node that puts bodies where none is, in every copy that is not down; a node may refuse it."""
    by_id = {body.id: encode_body(body) for body in bodies}
    calls: dict[str, list[tuple[Argument, ...]]] = {}
    for cluster in CLUSTERS:
        for name, part in shard_map.readable_by_node(cluster, list(by_id)).items():
            pairs = [word for one in part for word in (redis_keys.body(one), by_id[one])]
            calls[name] = [("FCALL", "put_bodies", 0, shard_map.fence(name), BODY_TTL_S, *pairs)]
    return calls


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
