"""What the clusters hold beside home timelines, compared with the database: user timelines, sets of followed
celebrities, tweet bodies and tombstones. So a merged page is exact (G3), and nothing deleted can be shown (G7).

What is there is found by scanning the nodes. What differs is looked at again before it counts. Next: audit_report.py.
"""

import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import sqlalchemy as sa

from consumers.audit_compare import compare, limit_for
from consumers.audit_pauses import DUMP_USERS, LOOK_AGAIN_AFTER_S, Pauses
from consumers.audit_report import DIFFERENCES_SAID_MAX, State
from consumers.audit_truth import Stored, read_bodies, read_celebrities, read_own, read_own_floors
from infra import redis_keys
from infra.redis_clusters import RedisClusters
from infra.redis_node import RedisNode
from infra.shard_map import CLUSTERS
from infra.slots import slots_of
from infra.timelines import Kind, Timelines
from infra.tweet_bodies import TOMBSTONE, decode_body

SCAN_KEYS = 1_000  # of one step: about a millisecond of a node's time
BATCH_KEYS = 200  # read and compared together, in each cluster
SENTINEL = b"0"

Wrong = Mapping[int, Sequence[str]]  # id → what is wrong with what is held for it, in words
Look = Callable[[str, Sequence[int], Counter[str]], Wrong]  # cluster, ids, and where to count what is held
Progress = Callable[[str, str, int, int], None]  # part, cluster, done, in all


@dataclass(frozen=True, slots=True)
class CacheResult:
    """What an audit found: for each part how many are held, and how many differences there are; the first in words."""

    parts: Mapping[str, Mapping[str, int]]
    differences: tuple[str, ...]

    @property
    def wrong(self) -> int:
        """All differences."""
        return sum(counts["wrong"] for counts in self.parts.values())

    def as_json(self) -> dict[str, object]:
        """What `fanfold audit --json` prints under `caches`."""
        return {**{part: dict(counts) for part, counts in self.parts.items()}, "differences": list(self.differences)}


def audit_caches(
    engine: sa.Engine,
    timelines: Timelines,
    *,
    sample: int | None = None,
    progress: Progress | None = None,
    pause: Callable[[float], None] = time.sleep,
) -> CacheResult:
    """Compares all that is held, or of each part and cluster `sample` at random. Raises `DatabaseUnavailable` and
    `RedisUnavailable`."""
    auditor = _CacheAuditor(engine, timelines, sample, progress, Pauses(pause))
    for part, (prefix, look) in auditor.parts().items():
        auditor.audit(part, prefix, look)
    return CacheResult(auditor.counts, tuple(auditor.sentences[:DIFFERENCES_SAID_MAX]))


@dataclass(slots=True)
class _CacheAuditor:
    """The running counts of one audit."""

    engine: sa.Engine
    timelines: Timelines
    sample: int | None
    progress: Progress | None
    pauses: Pauses
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    sentences: list[str] = field(default_factory=list)

    def parts(self) -> dict[str, tuple[bytes, Look]]:
        """Each part's prefix of keys, and how some of them are looked at."""
        return {
            "user_timelines": (redis_keys.USER, self._wrong_user_timelines),
            "celebrity_sets": (redis_keys.CELEBRITIES, self._wrong_sets),
            "bodies": (redis_keys.BODY, self._wrong_bodies),
        }

    def audit(self, part: str, prefix: bytes, look: Look) -> None:
        """Looks at one part in all clusters."""
        counts = self.counts[part] = Counter({"held": 0, "wrong": 0})
        for cluster in CLUSTERS:
            ids = held_ids(self.timelines.clusters, cluster, prefix, self.pauses)
            if self.sample is not None:
                ids = sorted(random.sample(ids, min(self.sample, len(ids))))
            for start in range(0, len(ids), BATCH_KEYS):
                wrong = self._confirmed(look, cluster, ids[start : start + BATCH_KEYS], counts)
                counts["wrong"] += sum(map(len, wrong.values()))
                self.sentences += [f"cluster {cluster}, {words}" for of_one in wrong.values() for words in of_one]
                if self.progress:
                    self.progress(part, cluster, start + BATCH_KEYS, len(ids))

    def _confirmed(self, look: Look, cluster: str, ids: Sequence[int], counts: "Counter[str]") -> Wrong:
        """What every look finds. Only the first one counts what is held."""
        found = look(cluster, ids, counts)
        for pause_s in LOOK_AGAIN_AFTER_S:
            if not found:
                break
            self.pauses.take(pause_s)
            again = look(cluster, list(found), Counter())
            both = {one: [words for words in said if words in again.get(one, ())] for one, said in found.items()}
            found = {one: said for one, said in both.items() if said}
        return found

    def _wrong_user_timelines(self, cluster: str, users: Sequence[int], counts: "Counter[str]") -> Wrong:
        length = self.timelines.live.timeline_entries
        lists: dict[int, list[bytes]] = {}
        for at in range(0, len(users), DUMP_USERS):
            dump = partial(self.timelines.dump, cluster, Kind.USER, users[at : at + DUMP_USERS])
            lists |= self.pauses.answered(dump)
        longest = max(map(len, lists.values()))
        expected = read_own(self.engine, users, max(limit_for(length), longest + 1))
        floors = read_own_floors(self.engine, users, length)
        wrong: dict[int, list[str]] = {}
        for user_id in users:
            findings = compare(lists[user_id], expected[user_id], length, floors.get(user_id, 0))
            if findings.state is State.PRESENT:
                counts["held"] += 1
                counts["entries"] += findings.entries
            if findings.differs:
                wrong[user_id] = [
                    f"user timeline of {user_id}: tweet {tweet} is {kind}"
                    for kind in ("missing", "duplicate", "unexpected", "misordered")
                    for tweet in getattr(findings, kind)
                ]
        return wrong

    def _wrong_sets(self, cluster: str, users: Sequence[int], counts: "Counter[str]") -> Wrong:
        sets = self._answers(cluster, "SMEMBERS", redis_keys.celebrities, users)
        expected = read_celebrities(self.engine, users)
        wrong: dict[int, list[str]] = {}
        for user_id, members in sets.items():
            if SENTINEL not in members:
                continue  # absent, or being filled under a token
            counts["held"] += 1
            held = {int(member) for member in members if member != SENTINEL}
            said = [f"celebrity {one} is missing" for one in sorted(expected[user_id] - held)]
            said += [f"{one} is no celebrity whom he follows" for one in sorted(held - expected[user_id])]
            if said:
                wrong[user_id] = [f"followed celebrities of user {user_id}: {words}" for words in said]
        return wrong

    def _wrong_bodies(self, cluster: str, tweets: Sequence[int], counts: "Counter[str]") -> Wrong:
        values = self._answers(cluster, "GET", redis_keys.body, tweets)
        truth = read_bodies(self.engine, tweets)
        wrong: dict[int, list[str]] = {}
        for tweet_id, data in values.items():
            if data is None:
                continue
            counts["tombstones" if data == TOMBSTONE else "held"] += 1
            if words := body_in_words(data, truth.get(tweet_id)):
                wrong[tweet_id] = [f"tweet {tweet_id}: {words}"]
        return wrong

    def _answers(
        self, cluster: str, command: str, key_of: Callable[[int], bytes], ids: Sequence[int]
    ) -> dict[int, Any]:
        clusters, found = self.timelines.clusters, dict[int, Any]()
        for name, part in clusters.shard_map.readable_by_node(cluster, ids).items():
            commands = [(command, key_of(one)) for one in part]
            answers = self.pauses.answered(partial(clusters.node(name).commands, commands))
            found |= zip(part, answers, strict=True)
        return found


def body_in_words(data: bytes, truth: Stored | None) -> str:
    """What is wrong with a body or tombstone; nothing when all is right. A retweet of what was deleted is shown to
    nobody, so its body may stay, also when the row has lost its text with its own delete."""
    if truth is None:
        return "no tweet has this id"
    if data == TOMBSTONE:
        return "there is a tombstone, but it is live" if truth.live else ""
    if truth.deleted:
        return "" if truth.hidden else "there is a body, but it was deleted"
    return "" if decode_body(data) == truth.body else "the body is another one than the database has"


def held_ids(clusters: RedisClusters, cluster: str, prefix: bytes, pauses: Pauses) -> list[int]:
    """The ids whose keys of this kind the nodes of a cluster hold, without what is left of an earlier
    placement, and without copies that are down: nobody reads them."""
    shard_map = clusters.shard_map
    found: list[int] = []
    for index, name in enumerate(shard_map.nodes_of(cluster)):
        if name in shard_map.down_nodes:
            continue
        ids = np.array(sorted(_scanned(clusters.node(name), prefix, pauses)), dtype=np.uint64)
        found += ids[shard_map.node_indexes(cluster)[slots_of(ids)] == index].tolist()
    return sorted(one for part in shard_map.readable_by_node(cluster, found).values() for one in part)


def _scanned(node: RedisNode, prefix: bytes, pauses: Pauses) -> set[int]:
    """A scan may bring a key twice."""
    found: set[int] = set()
    cursor: bytes | int = 0
    while True:
        scan = partial(node.command, "SCAN", cursor, "MATCH", prefix + b"*", "COUNT", SCAN_KEYS)
        cursor, keys = pauses.answered(scan)
        found.update(redis_keys.id_of(key) for key in keys if len(key) == redis_keys.KEY_BYTES)
        if int(cursor) == 0:
            return found
