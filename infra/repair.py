"""Repair: copies that are filling get the timelines of active users, and then serve again.

They come from another cluster's copy (copying.py), and from the database where none can give them.

A pass goes once over the active users, for all filling copies of all nodes at the same time. What a copy has already is
only looked at, so a pass that goes on after a crash builds nothing twice; the home timeline is looked for, and what is
read with it is built beside it. Whoever repairs holds the lease `repair`. Next: nudge.py.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

import numpy as np

from infra import metrics, redis_keys
from infra.active_users import active_groups, count_active
from infra.celebrities import all_celebrities, celebrities_of
from infra.composition import Stores
from infra.copies import Copies, CopyState
from infra.copying import Source, copy_timelines
from infra.errors import TokenLost
from infra.lease import Lease
from infra.nudge import nudge
from infra.rebuild import BATCH_USERS_MAX, rebuild
from infra.shard_map import CLUSTERS, ShardMap
from infra.shard_znodes import read_znodes
from infra.slots import SLOTS, slots_of
from infra.timelines import Kind, Timelines
from infra.znodes import Replace
from infra.zookeeper import COPIES_PATH

REPAIR = "repair"  # the lease of whoever repairs
AT_ONCE = 2  # batches: the database works on one while what it said of the other is merged
# A timeline that is still absent at the end of a pass was in other hands, lost its token again and again, or was
# evicted. Absent is safe, and under memory pressure it would never end.
PASSES_IN_VAIN_MAX = 3

GoOn = Callable[["Done"], bool]  # asked after each batch, may wait; false: stop here


@dataclass(frozen=True, slots=True)
class Targets:
    """Copies that are filling on nodes that may be built on: of each cluster the slots, as `/copies` has them at this
    version. `waiting` counts those whose node is not open yet or does not answer."""

    copies: Copies
    version: int
    slots: Mapping[str, frozenset[int]]
    waiting: int

    def __bool__(self) -> bool:
        return any(self.slots.values())

    def nodes(self, shard_map: ShardMap) -> set[str]:
        """The nodes that these copies are on."""
        return {shard_map.node_of(cluster, slot) for cluster, slots in self.slots.items() for slot in slots}


@dataclass(slots=True)
class Done:
    """What one pass has done so far: users whom it looked at, of about so many, users whose timelines it built, in one
    copy or more, how often one copy got all of a user's from another, and copies that serve again."""

    in_all: int = 0
    looked: int = 0
    built: int = 0
    copied: int = 0
    promoted: int = 0
    stopped: bool = False
    left: Mapping[str, set[int]] = field(default_factory=lambda: {cluster: set() for cluster in CLUSTERS})


@dataclass(frozen=True, slots=True)
class Plan:
    """What to fill and from where. Kafka's address is for copying only: without it, a partition of which a node that
    is filled has applied nothing yet is read from the database."""

    clusters: Collection[str] = CLUSTERS
    slot: int | None = None
    source: Source = Source.COPY
    bootstrap: str = ""


@dataclass(frozen=True, slots=True)
class Group:
    """Users who are looked at together, and the timelines by whose time to live theirs are built."""

    kind: Kind
    users: Sequence[int]
    timelines: Timelines


def find_targets(stores: Stores, clusters: Collection[str] = CLUSTERS, slot: int | None = None) -> Targets | None:
    """What is filling of these clusters, or of one slot in them; None when there is no shard map.

    This process knows the copies at least as of this version afterwards. Raises `ZooKeeperUnavailable`.
    """
    znodes = read_znodes(stores.zookeeper)
    shard_map, version = znodes.shard_map, znodes.copies_version
    if shard_map is None or version is None:
        return None
    stores.shard_maps.check()
    filling = {cluster: _filling(shard_map, cluster, slot) for cluster in clusters}
    is_open = _open_nodes(stores, shard_map, filling)
    slots = {
        cluster: frozenset(one for one in found if shard_map.node_of(cluster, one) in is_open)
        for cluster, found in filling.items()
    }
    waiting = sum(len(filling[cluster] - slots[cluster]) for cluster in clusters)
    return Targets(shard_map.copies, version, slots, waiting)


EVERYTHING = Plan()


class Repair:
    """Passes, by the holder of the lease; each of them looks anew at what is filling. `go_on` sets the pace."""

    def __init__(self, stores: Stores, held: Lease, go_on: GoOn, plan: Plan = EVERYTHING) -> None:
        self._stores = stores
        self._held = held
        self._go_on = go_on
        self._plan = plan
        self._in_vain = 0

    def run_pass(self) -> Done | None:
        """Fills and promotes what can be; None when nothing is filling on an open node.

        Raises `LeaseLost`, and `ZooKeeperUnavailable` or `DatabaseUnavailable`: what was built stays.
        """
        self._held.check()
        targets = find_targets(self._stores, self._plan.clusters, self._plan.slot)
        if not targets:
            return None
        if self._plan.source is Source.COPY and self._plan.bootstrap:
            nudge(self._stores.clusters, self._plan.bootstrap, targets.nodes(self._stores.clusters.shard_map))
        done = Done(in_all=count_active(self._stores.engine))
        for group in self._groups():
            if not self._fill(group, targets, done):
                done.stopped = True
                return done
        done.promoted = self._promote(targets, done)
        return done

    def _groups(self) -> Iterator[Group]:
        engine, timelines = self._stores.engine, self._stores.timelines
        for users in all_celebrities(engine):
            yield Group(Kind.USER, users, timelines)
        for users, ttl_s in active_groups(engine):
            yield Group(Kind.HOME, users, timelines.living_for(ttl_s))

    def _fill(self, group: Group, targets: Targets, done: Done) -> bool:
        """Builds what the copies lack; false when it is to stop."""
        lacking = _lacking(group, targets)
        users = _in_any(lacking)
        if users and self._plan.source is Source.COPY:
            some_left = self._copy(group, lacking, done)
            lacking = _lacking(group, targets)
            self._complete(group, sorted(some_left.difference(_in_any(lacking))))
            if not self._counted(len(users) - len(_in_any(lacking)), done):
                return False
        built = _in_any(lacking)
        for start in range(0, len(built), AT_ONCE * BATCH_USERS_MAX):
            some = built[start : start + AT_ONCE * BATCH_USERS_MAX]
            self._held.check()
            batches = [some[at : at + BATCH_USERS_MAX] for at in range(0, len(some), BATCH_USERS_MAX)]
            building = [self._stores.clusters.submit(partial(self._build, group, batch)) for batch in batches]
            for one in building:
                one.result()
            if not self._counted(len(some), done):
                return False
        if built:
            lacking = _lacking(group, targets)
        for cluster, still in lacking.items():
            done.left[cluster].update(slots_of(np.array(still, dtype=np.uint64)).tolist())
        done.looked += len(group.users)
        return self._go_on(done)

    def _copy(self, group: Group, lacking: Mapping[str, Sequence[int]], done: Done) -> set[int]:
        """From other copies, what can be; the users whom some copy lacks something of still."""
        self._held.check()
        some_left = set[int]()
        for cluster, users in lacking.items():
            whole = copy_timelines(group.timelines, cluster, group.kind, users)
            done.copied += len(whole)
            some_left.update(set(users) - whole)
        return some_left

    def _complete(self, group: Group, users: Sequence[int]) -> None:
        """Whose home timeline was copied, but not all that is read with it: the source had none. Nobody would look for
        it again."""
        for start in range(0, len(users) if group.kind is Kind.HOME else 0, BATCH_USERS_MAX):
            self._build_beside(group, users[start : start + BATCH_USERS_MAX])

    def _counted(self, users: int, done: Done) -> bool:
        done.built += users
        metrics.REPAIRED.inc(users)
        return self._go_on(done)

    def _build(self, group: Group, users: Sequence[int]) -> None:
        """By the one primitive, in every copy that lacks it. Who loses his token again and again stays absent."""
        if group.kind is Kind.HOME:
            self._build_beside(group, users)
        with suppress(TokenLost):
            rebuild(self._stores.engine, group.timelines, group.kind, users)

    def _build_beside(self, group: Group, users: Sequence[int]) -> None:
        """What is read with a home timeline: the celebrities whom its user follows, and his own tweets."""
        group.timelines.fill_celebrities(users, partial(celebrities_of, self._stores.engine))
        with suppress(TokenLost):
            rebuild(self._stores.engine, group.timelines, Kind.USER, users)

    def _promote(self, targets: Targets, done: Done) -> int:
        """How many copies serve now. None, when anything about any copy has changed since the pass began: a slot may
        have been emptied meanwhile. The next pass finds all of it there, and takes a moment."""
        patient = self._in_vain + 1 < PASSES_IN_VAIN_MAX
        copies, promoted = targets.copies, 0
        for cluster, slots in targets.slots.items():
            filled = slots - done.left[cluster] if patient else slots
            copies = copies.changed(cluster, filled, CopyState.SERVING)
            promoted += len(filled)
        if not promoted:
            self._in_vain += 1
            return 0
        change = Replace(COPIES_PATH, copies.encode(), targets.version)
        if not self._stores.zookeeper.write_together([change], holding=self._held):
            return 0  # no fault of a timeline, so not in vain
        self._in_vain = 0
        for cluster in targets.slots:
            before, after = targets.copies.states[cluster], copies.states[cluster]
            metrics.PROMOTED.labels(cluster).inc(after.count(CopyState.SERVING) - before.count(CopyState.SERVING))
        return promoted


def _filling(shard_map: ShardMap, cluster: str, slot: int | None) -> frozenset[int]:
    slots = range(SLOTS) if slot is None else (slot,)
    return frozenset(one for one in slots if shard_map.copies.of(cluster, one) is CopyState.FILLING)


def _open_nodes(stores: Stores, shard_map: ShardMap, filling: Mapping[str, Collection[int]]) -> set[str]:
    """The nodes of these slots that may be built on, with the epoch and the incarnation that the shard map has."""
    names = {shard_map.node_of(cluster, slot) for cluster, slots in filling.items() for slot in slots}
    question = [("HMGET", redis_keys.NODE, "epoch", "incarnation", "open")]
    found = set()
    for name, [answer] in stores.clusters.commands_at_once(dict.fromkeys(names, question)).items():
        if not isinstance(answer, Exception) and all(answer):
            epoch, incarnation, _ = (one.decode() for one in answer)
            if f"{epoch}:{incarnation}" == shard_map.fence(name):
                found.add(name)
    return found


def _in_any(lacking: Mapping[str, Sequence[int]]) -> list[int]:
    return sorted({user_id for of_copy in lacking.values() for user_id in of_copy})


def _lacking(group: Group, targets: Targets) -> dict[str, list[int]]:
    """Of each cluster the users who lie in a slot that is to be filled, and are not there yet."""
    ids = np.array(group.users, dtype=np.uint64)
    slots = slots_of(ids)
    lacking = {}
    for cluster, wanted in targets.slots.items():
        users = ids[np.isin(slots, list(wanted))].tolist()
        lacking[cluster] = group.timelines.lacking(cluster, group.kind, users)
    return lacking
