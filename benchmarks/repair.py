"""bench repair: one cluster emptied, and filled again from another one, then the same from the database.

Both nodes of a cluster are killed and start empty. Nothing else runs: repair runs here, as `fanfold repair` does, the
warmer is paused and copies are not compared. The entries that are there afterwards are counted on the nodes, and a
comparison of all timelines ends each run.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from benchmarks.repair_report import RepairReport, Restored
from benchmarks.stage import Ground, warm_audience
from benchmarks.warm_state import Audience, Shape, give_memory
from consumers.audit import audit
from infra.celebrities import celebrities_of
from infra.copies import CopyState
from infra.copying import Source
from infra.errors import CheckFailed
from infra.leases import lease
from infra.live_settings import set_live_settings
from infra.rebuild import BATCH_USERS_MAX, rebuild
from infra.repair import REPAIR, Done, Plan, Repair, find_targets
from infra.stack.supervisor import Stack
from infra.timelines import Kind

CLUSTER = "b"
EMPTIED_WITHIN_S = 60.0
PAUSED_WITHIN_S = 10.0
LOOK_EVERY_S = 0.1
LEASE_WITHIN_S = 15.0
LENGTHS_AT_ONCE = 2_000
PASSES_MAX = 5  # one, unless the states of copies change meanwhile


@dataclass(frozen=True, slots=True)
class Options:
    """What to measure."""

    shape: Shape
    runs: int
    workers: int
    seed: int


class RepairBench:
    """The measurement on a stack of its own, whose nodes it kills."""

    def __init__(self, options: Options, ground: Ground, stack: Stack) -> None:
        self._options = options
        self._ground = ground
        self._stack = stack
        self._stores = ground.stores
        self._watcher = ground.watcher

    def run(self) -> RepairReport:
        """Fills, warms, and repairs from each source in turn."""
        shape = self._options.shape
        audience = warm_audience(self._ground, shape, np.random.default_rng(self._options.seed))
        self._warm_beside(range(audience.first, audience.first + shape.timelines))
        set_live_settings(self._stores.zookeeper, repair_users_per_s=0, compare_users_per_s=0)
        self._wait(PAUSED_WITHIN_S, lambda: self._stores.timelines.live.repair_users_per_s == 0)
        runs: dict[Source, list[Restored]] = {source: [] for source in Source}
        for number in range(1, self._options.runs + 1):
            for source, found in runs.items():
                self._watcher.step(f"cluster {CLUSTER} emptied and repaired from: {source}, run {number}")
                found.append(self._run(audience, source))
                self._watcher.done(f"{found[-1].entries_per_s:,.0f} entries a second")
        return RepairReport(shape, runs)

    def _warm_beside(self, users: Sequence[int]) -> None:
        """What a read brings beside the home timeline: own tweets, and the celebrities whom a user follows."""
        self._watcher.step("their own timelines, and whom of the celebrities they follow")
        for start in range(0, len(users), BATCH_USERS_MAX):
            some = users[start : start + BATCH_USERS_MAX]
            self._stores.timelines.fill_celebrities(some, partial(celebrities_of, self._stores.engine))
            rebuild(self._stores.engine, self._stores.timelines, Kind.USER, some)
            self._watcher.counted(min(start + BATCH_USERS_MAX, len(users)), len(users))

    def _run(self, audience: Audience, source: Source) -> Restored:
        self._empty()
        plan = Plan((CLUSTER,), None, source, self._ground.settings.kafka_bootstrap)
        with lease(self._stores.zookeeper, REPAIR, LEASE_WITHIN_S) as held:
            work, built, copied, began_s = Repair(self._stores, held, self._go_on, plan), 0, 0, time.monotonic()
            for _ in range(PASSES_MAX):
                done = work.run_pass() or Done()
                built, copied = built + done.built, copied + done.copied
                if self._all_are(CopyState.SERVING):
                    break
            else:
                raise CheckFailed(f"cluster {CLUSTER} does not serve after {PASSES_MAX} passes of repair")
            took_s = time.monotonic() - began_s
        entries = self._count_entries(range(audience.first, audience.first + self._options.shape.timelines))
        result = audit(self._stores.engine, self._stores.timelines, complete=True, progress=self._watcher.counted)
        return Restored(built, copied, entries, took_s, result)

    def _go_on(self, done: Done) -> bool:
        self._watcher.counted(done.looked, max(done.in_all, done.looked))
        return True

    def _empty(self) -> None:
        """Returns when the nodes are admitted again, and open."""
        names = self._stores.clusters.shard_map.nodes_of(CLUSTER)
        for name, pid in [(name, self._stack.kill(name)) for name in names]:
            self._stack.wait_restarted(name, pid)
        self._wait(EMPTIED_WITHIN_S, self._is_empty)
        give_memory(self._stores, self._options.shape)

    def _is_empty(self) -> bool:
        targets = find_targets(self._stores, (CLUSTER,))
        return targets is not None and bool(targets) and not targets.waiting and self._all_are(CopyState.FILLING)

    def _all_are(self, state: CopyState) -> bool:
        self._stores.shard_maps.check()
        return set(self._stores.clusters.shard_map.copies.states[CLUSTER]) == {state}

    def _wait(self, within_s: float, done: Callable[[], bool]) -> None:
        give_up_s = time.monotonic() + within_s
        while not done():
            if time.monotonic() > give_up_s:
                raise CheckFailed(f"what the benchmark waits for did not come within {within_s:g} s")
            time.sleep(LOOK_EVERY_S)

    def _count_entries(self, users: Sequence[int]) -> int:
        """In the home and user timelines of the repaired cluster; heads are no entries."""
        shard_map, found = self._stores.clusters.shard_map, 0
        for start in range(0, len(users), LENGTHS_AT_ONCE):
            part = users[start : start + LENGTHS_AT_ONCE]
            for name, of_node in shard_map.by_node(CLUSTER, part).items():
                lengths = self._stores.clusters.node(name).commands(
                    [("LLEN", kind.key(user_id)) for kind in Kind for user_id in of_node]
                )
                found += sum(max(length - 1, 0) for length in lengths)
        return found
