"""Rate limits: a token bucket in Redis for each client address and each token, kept by lua/rate_limits.lua.

A bucket lies on the node of its slot in the first cluster that answers. A node that does not is left out for a while,
so that hanging servers cost few requests a short time-out; elsewhere its buckets begin full. Next: http_limits.py.
"""

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from infra import redis_keys
from infra.errors import FanfoldError, RedisUnavailable
from infra.redis_clusters import RedisClusters
from infra.redis_node import Argument
from infra.shard_map import CLUSTERS
from infra.slots import slot_of

BURST_S = 2  # a full bucket holds what its rate allows in this time
LEFT_OUT_S = 2.0  # one batch of requests in this time waits for a node that hangs
BATCH_MAX = 500  # requests of one call: their buckets take a node some 2 ms

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket by its key: whose it is, the requests a second that it allows, and how many are taken at once, which is
    at most what a full one holds."""

    key: bytes
    whose: str
    rate: int
    requests: int = 1


@dataclass(frozen=True, slots=True)
class Level:
    """A bucket after a request: whether it had as many left as are taken, how many are left now, and in how many
    seconds it is full again, or has enough again if it had not."""

    bucket: Bucket
    allowed: bool
    remaining: int
    reset_s: float

    @property
    def headers(self) -> dict[str, str]:
        """The level as HTTP headers; whole seconds, rounded up."""
        reset_s = str(math.ceil(self.reset_s))
        return {
            "RateLimit-Limit": str(self.bucket.rate * BURST_S),
            "RateLimit-Remaining": str(self.remaining),
            "RateLimit-Reset": reset_s,
        } | ({} if self.allowed else {"Retry-After": reset_s})


class RateLimits:
    """All buckets. `clusters` should have a short time-out: a limit is not worth a long wait. Used by one gathering."""

    def __init__(self, clusters: RedisClusters, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._clusters = clusters
        self._clock_s = clock_s
        self._left_out_until_s: dict[str, float] = {}

    def take(self, requests: Sequence[Sequence[Bucket]]) -> list[Level | Exception]:
        """Takes what each bucket of each request says: the level of the tightest, or `RedisUnavailable` when one is
        nowhere.

        One call a node. A request that one bucket refuses has taken from its others.
        """
        now_s = self._clock_s()
        buckets = [bucket for of_request in requests for bucket in of_request]
        places: dict[str, list[int]] = {}
        for place, bucket in enumerate(buckets):
            places.setdefault(self._node_of(bucket, now_s), []).append(place)
        levels: list[Level | Exception] = [RedisUnavailable("no Redis node answers for rate limits")] * len(buckets)
        calls = {node: _arguments([buckets[at] for at in of_node]) for node, of_node in places.items() if node}
        for node, answer in self._clusters.call_at_once("take", calls).items():
            self._note(node, answer, now_s)
            for number, at in enumerate(places[node]):
                levels[at] = answer if isinstance(answer, Exception) else _level(buckets[at], answer[3 * number :])
        left = iter(levels)
        return [tightest([next(left) for _ in of_request]) for of_request in requests]

    def _node_of(self, bucket: Bucket, now_s: float) -> str:
        """The name of the first node for a bucket that is not left out; empty when all are."""
        slot = slot_of(int.from_bytes(bucket.key[-8:], "big"))
        for cluster in CLUSTERS:
            node = self._clusters.shard_map.node_of(cluster, slot)
            if now_s >= self._left_out_until_s.get(node, 0):
                return node
        return ""

    def _note(self, node: str, answer: object, now_s: float) -> None:
        if isinstance(answer, FanfoldError):
            if node not in self._left_out_until_s:
                log.warning("rate limits without a node", node=node, error=str(answer))
            self._left_out_until_s[node] = now_s + LEFT_OUT_S
        elif self._left_out_until_s.pop(node, None) is not None:
            log.info("rate limits with a node again", node=node)


def bucket_of(whose: str, name: str, rate: int) -> Bucket:
    """The bucket of an address or a token; Redis gets only a hash of which.

    The hash takes both: a client that sends an address as its token must not empty that address's bucket.
    """
    digest = hashlib.sha256(f"{whose} {name}".encode("utf-8", "surrogateescape")).digest()
    return Bucket(redis_keys.bucket(digest), whose, rate)


def tightest(levels: Sequence[Level | Exception]) -> Level | Exception:
    """What a request with several buckets is answered: refused before unknown before allowed, then the fewest left."""

    def tightness(level: Level | Exception) -> tuple[int, float]:
        if isinstance(level, Exception):
            return 1, 0
        return (2, level.remaining) if level.allowed else (0, -level.reset_s)

    return min(levels, key=tightness)


def _arguments(buckets: Sequence[Bucket]) -> list[Argument]:
    arguments: list[Argument] = [BURST_S * 1_000_000]
    for bucket in buckets:
        arguments += [bucket.key, bucket.rate, bucket.requests]
    return arguments


def _level(bucket: Bucket, answer: Sequence[int]) -> Level:
    allowed, remaining, us = answer[:3]
    return Level(bucket, bool(allowed), remaining, us / 1e6)
