"""Anti-entropy: the copies of active users' timelines are compared with each other all the time, at a bounded rate.

Nothing here should ever differ; what does, a fault outside of Fanfold's rules has done, or a fault in them. Slot by
slot each copy answers with one digest of its lists as they are stored, and where these differ of what it has above the
higher floor. What differs is looked at by timeline, and once more seconds later; what differs still is rebuilt from the
database, and counted. Next: coordinator.py, beside which the leading one runs it.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain

import numpy as np
import structlog

from infra import metrics, outbox, redis_keys
from infra.active_users import active_groups
from infra.composition import Stores
from infra.copies import CopyState
from infra.errors import FanfoldError, TokenLost
from infra.kafka_logs import LogEnds
from infra.rebuild import BATCH_USERS_MAX, rebuild_each_copy
from infra.redis_clusters import RedisClusters
from infra.redis_node import Argument
from infra.shard_map import CLUSTERS, ShardMap
from infra.slots import slots_of
from infra.timelines import Kind, Timelines
from infra.topics import ACTIVITY, DELIVERIES

BATCH_USERS = 200  # of one look, in several calls
AS_STORED = b""  # instead of the ids above which lists are compared
TRIES_MAX = 5  # a copy that is a call behind is level again within milliseconds, or busy
TRY_AGAIN_S = 0.05
LOOK_AGAIN_S = 3.0  # a write-through or a rebuild that was under way is over by then
# What was rebuilt in one copy only is ahead of the log, and of the others, until the log has brought all that was
# committed by then. While it is so far behind nothing is settled, and a later round looks again.
BROUGHT_WITHIN_S = 30.0
BROUGHT_POLL_S = 0.5
BETWEEN_ROUNDS_S = 10.0
OFF_S = 1.0  # between looks at the rate while it is 0
ENDS_WITHIN_S = 10.0
SAID_MAX = 10  # users whom one line of the log names

Wait = Callable[[float], bool]  # for so many seconds; true when it is to stop
Digests = dict[str, list[bytes]]  # of each cluster, one for each group

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Group:
    """Users of one slot whose timelines the same clusters have, and for each of them the highest floor of these."""

    slot: int
    clusters: tuple[str, ...]
    users: Sequence[int]
    bounds: Sequence[bytes]


def look(timelines: Timelines, kind: Kind, users: Sequence[int]) -> dict[int, frozenset[str]]:
    """The users whose copies differ above the higher floor, as far as these can be compared now, and the clusters that
    are not like most."""
    groups = list(grouped(timelines, kind, users))
    suspects = [group for group, odd in _compared(timelines, kind, groups) if odd]
    single = [
        Group(group.slot, group.clusters, [user_id], [bound])
        for group in suspects
        for user_id, bound in zip(group.users, group.bounds, strict=True)
    ]
    return {group.users[0]: odd for group, odd in _compared(timelines, kind, single) if odd}


def grouped(timelines: Timelines, kind: Kind, users: Sequence[int]) -> Iterator[Group]:
    """Users whom two copies or more have, by slot; what only some copies have is counted."""
    shard_map = timelines.clusters.shard_map
    heads = {cluster: timelines.heads(cluster, kind, users) for cluster in CLUSTERS}
    members: dict[tuple[int, tuple[str, ...]], list[int]] = {}
    for user_id, slot in zip(users, slots_of(np.array(users, dtype=np.uint64)).tolist(), strict=True):
        having = tuple(cluster for cluster in CLUSTERS if heads[cluster].get(user_id, b"-")[:1] not in (b"", b"-"))
        serving = [one for one in CLUSTERS if shard_map.copies.of(one, slot) is CopyState.SERVING]
        if having:
            for cluster in serving:
                if heads[cluster].get(user_id) == b"":
                    metrics.LACKING_COPIES.labels(cluster).inc()
        if len(having) > 1:
            members.setdefault((slot, having), []).append(user_id)
    for (slot, having), found in members.items():
        yield Group(slot, having, found, [max((heads[one][user_id] for one in having), key=int) for user_id in found])


def odd_ones(digests: Mapping[str, bytes]) -> frozenset[str]:
    """The clusters whose digest is not the one that most have; all of them when there is none such."""
    [(most, count), *_] = Counter(digests.values()).most_common(1)
    if count == len(digests):
        return frozenset()
    return frozenset(one for one, digest in digests.items() if count == 1 or digest != most)


def _compared(timelines: Timelines, kind: Kind, groups: Sequence[Group]) -> Iterator[tuple[Group, frozenset[str]]]:
    """Each group that could be compared, and the clusters that are not like most."""
    clusters = timelines.clusters
    shard_map = clusters.shard_map
    by_way: dict[tuple[int, tuple[str, ...]], list[Group]] = {}
    for group in groups:
        names = tuple(shard_map.node_of(cluster, group.slot) for cluster in group.clusters)
        by_way.setdefault((group.slot % DELIVERIES.partitions, names), []).append(group)
    for (partition, names), of_way in by_way.items():
        ask = partial(_digests, clusters, shard_map, partition, names)
        unlike = []
        for group, odd in _judged(of_way, ask([(_page(kind, group), AS_STORED) for group in of_way])):
            if odd:
                unlike.append(group)
            else:
                yield group, odd
        if unlike:
            yield from _judged(unlike, ask([(_page(kind, group), b" ".join(group.bounds)) for group in unlike]))


def _judged(groups: Sequence[Group], found: Digests) -> Iterator[tuple[Group, frozenset[str]]]:
    """Nothing when there are no answers."""
    for place, group in enumerate(groups if found else ()):
        yield group, odd_ones({cluster: of_cluster[place] for cluster, of_cluster in found.items()})


def _page(kind: Kind, group: Group) -> bytes:
    return redis_keys.page_of_keys(np.array(group.users, dtype=np.uint64), kind.prefix).tobytes()


def _digests(
    clusters: RedisClusters,
    shard_map: ShardMap,
    partition: int,
    names: Sequence[str],
    pairs: Sequence[tuple[bytes, bytes]],
) -> Digests:
    """What the nodes answer when all of them have gone equally far in the log; nothing when they are not, or one does
    not answer."""
    rest: list[Argument] = [partition, *chain.from_iterable(pairs)]
    questions = {name: [("FCALL_RO", "digest", 0, shard_map.fence(name), *rest)] for name in names}
    for number in range(TRIES_MAX):
        if number:
            time.sleep(TRY_AGAIN_S)
        answers = {name: of_node[0] for name, of_node in clusters.commands_at_once(questions).items()}
        if any(isinstance(one, Exception) for one in answers.values()):
            return {}
        if len({tuple(progress) for progress, *_ in answers.values()}) == 1:
            return {name[0]: found for name, (_, *found) in answers.items()}
    return {}


class AntiEntropy:
    """Rounds over all active users, at the rate of the live setting. Without Kafka's address it takes the log to have
    brought everything."""

    def __init__(self, stores: Stores, wait: Wait, bootstrap: str = "") -> None:
        self._stores = stores
        self._wait = wait
        self._bootstrap = bootstrap
        self._trouble = ""

    def run(self) -> None:
        """Until it is to stop. What cannot be reached is waited for."""
        while not self._wait(0.0):
            try:
                self.run_round()
                self._trouble = ""
            except FanfoldError as error:
                if str(error) != self._trouble:
                    log.warning("comparing copies waits", error=str(error))
                self._trouble = str(error)
            except Exception:
                log.exception("comparing copies failed; it begins again")
            self._wait(BETWEEN_ROUNDS_S)

    def run_round(self) -> None:
        """Once over the active users; less, when it is to stop."""
        for users, ttl_s in active_groups(self._stores.engine):
            for start in range(0, len(users), BATCH_USERS):
                if self._is_paused_until_the_end():
                    return
                part, began_s = users[start : start + BATCH_USERS], time.monotonic()
                self.compare(part, ttl_s)
                rate = max(self._stores.timelines.live.compare_users_per_s, 1)
                if self._wait(max(len(part) / rate - (time.monotonic() - began_s), 0.0)):
                    return

    def compare(self, users: Sequence[int], ttl_s: int) -> int:
        """Compares the copies of these users, and rebuilds what differs; how many timelines that were."""
        timelines, repaired = self._stores.timelines, 0
        suspects = {kind: look(timelines, kind, users) for kind in Kind}
        metrics.COMPARED.inc(len(users))
        if any(suspects.values()) and not self._wait(LOOK_AGAIN_S) and self._log_has_brought_it():
            for kind, found in suspects.items():
                confirmed = look(timelines, kind, list(found))
                metrics.UNCONFIRMED.inc(len(found) - len(confirmed))
                self._rebuild(kind, confirmed, ttl_s)
                repaired += len(confirmed)
        return repaired

    def _log_has_brought_it(self) -> bool:
        """Waits until what is committed by now is in every copy; false when that takes too long, or it is to stop."""
        if not self._bootstrap:
            return True
        give_up_s, engine = time.monotonic() + BROUGHT_WITHIN_S, self._stores.engine
        last = outbox.newest(engine)
        if last and not self._until(lambda: outbox.is_sent(engine, last), give_up_s):
            return False
        return all(
            self._until(LogEnds(self._bootstrap, topic).are_acknowledged, give_up_s) for topic in (ACTIVITY, DELIVERIES)
        )

    def _until(self, condition: Callable[[], bool], give_up_s: float) -> bool:
        while not condition():
            if time.monotonic() > give_up_s or self._wait(BROUGHT_POLL_S):
                return False
        return True

    def _rebuild(self, kind: Kind, confirmed: Mapping[int, frozenset[str]], ttl_s: int) -> None:
        users = sorted(confirmed)
        for cluster, count in Counter(chain.from_iterable(confirmed.values())).items():
            metrics.DIFFERENT.labels(cluster).inc(count)
            some = [user_id for user_id in users if cluster in confirmed[user_id]][:SAID_MAX]
            log.warning("copies differ: rebuilding", cluster=cluster, kind=kind, timelines=count, users=some)
        for start in range(0, len(users), BATCH_USERS_MAX):
            part = users[start : start + BATCH_USERS_MAX]
            try:
                rebuild_each_copy(self._stores.engine, self._stores.timelines.living_for(ttl_s), kind, part)
            except TokenLost:  # it changes all the time; the next round looks again
                log.warning(
                    "copies differ still: their timelines change all the time", kind=kind, users=part[:SAID_MAX]
                )

    def _is_paused_until_the_end(self) -> bool:
        """Waits while the rate is 0, or nobody can say which copies are down; true when it is to stop."""
        while self._stores.timelines.live.compare_users_per_s == 0 or self._stores.clusters.cut_off:
            if self._wait(OFF_S):
                return True
        return self._wait(0.0)


@contextmanager
def comparing(stores: Stores, bootstrap: str = "") -> Iterator[None]:
    """Compares in the background while the context lasts."""
    stop = threading.Event()
    thread = threading.Thread(target=AntiEntropy(stores, stop.wait, bootstrap).run, name="anti-entropy", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(ENDS_WITHIN_S)
