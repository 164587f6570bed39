"""Coordinator: one elected process decides which nodes hold which slots, and in which state the copies are.

Input: the members that the registrars hold. Output: the two znodes of the shard map, epoch and `open` on the nodes.
Each step reads everything anew and makes one change, by compare-and-set; what was begun is in the znodes, so another
leader goes on with it. Next: shard_maps.py.
"""

import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

import structlog

from infra import metrics, redis_keys
from infra.copies import Copies, CopyState, all_copies
from infra.epoch_guard import EpochGuard
from infra.errors import (
    ConfigurationError,
    DatabaseUnavailable,
    FanfoldError,
    Fenced,
    InvalidInput,
    RedisUnavailable,
    Undecodable,
    ZooKeeperUnavailable,
)
from infra.health import Health, State
from infra.lease import Lease, LeaseState
from infra.live_settings import LiveSettings, ensure_live_settings, read_live_settings
from infra.members import Member, Members, are_complete, fit_names, read_members, replaced_nodes
from infra.moves import Batch, Nodes, moved, next_batch, wanted_map
from infra.openings import CALL_TIMEOUT_S, Openings, ask, was_open
from infra.redis_node import RedisNode
from infra.shard_map import CLUSTERS, ShardMap, encode_shard_map, make_shard_map
from infra.shard_maps import SETTLE_S
from infra.shard_znodes import read_znodes
from infra.slot_keys import remove_slots
from infra.wishes import drained_names, read_wishes
from infra.znodes import written
from infra.zookeeper import COPIES_PATH, PLACEMENT_PATH, ZooKeeper

LOOP = "the coordinator"
PERIOD_S = 0.5
AFTER_CHANGE_S = 0.02  # writers wait for what follows from a change
ROUND_S = 30.0  # one step: a second for each node that is away, and a session's length for a silent ZooKeeper

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Known:
    """The shard map in force, and the versions of its two znodes."""

    shard_map: ShardMap
    placement_version: int
    copies_version: int


class Coordinator:
    """Runs while it is the leader: each step asks the lease, and each write rests on it."""

    def __init__(
        self, zookeeper: ZooKeeper, lease: Lease, epochs: EpochGuard, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._zookeeper = zookeeper
        self._lease = lease
        self._epochs = epochs
        self._clock_s = clock_s
        self._beat: Callable[[], object] = lambda: None
        self._fit_before: set[str] = set()
        self._unfit_since_s: dict[str, float] = {}
        self._down_since_s: dict[tuple[str, int], float] = {}
        self._openings = Openings(clock_s)
        self._moving: Batch | None = None  # what this leader knows of; it has to look once
        self._live = LiveSettings()
        self._changes = 0
        self._trouble = self._trouble_now = ""  # of the last step, and of this one
        self._said: set[tuple[str, str]] = set()

    def step(self) -> bool:
        """Makes the next change. True when there is none, and every node of the map is fit and open, and holds nothing
        old. Raises `LeaseLost`."""
        self._lease.check()
        members = read_members(self._zookeeper, partial(self._say_once, "member refused"))
        steady, self._fit_before = fit_names(members) == self._fit_before, fit_names(members)
        known = self._read()
        ensure_live_settings(self._zookeeper)  # not in a ZooKeeper that lost them
        if known is None:
            return self._begin(members) if steady else False
        self._note_times(known.shard_map, members)
        rules = (self._drop_unfit, self._readdress, self._admit, self._move)
        if any(rule(known, members) for rule in rules[: len(rules) if steady else -1]):
            return False
        return self._equip(known)

    def run(self, stop: threading.Event, health: Health) -> None:
        """Steps until `stop` is set. While ZooKeeper is away nothing is decided.

        Raises `LeaseLost` when the lease is gone for good: somebody else may lead by now.
        """
        self._beat = health.loop(LOOP, ROUND_S, excused=self._zookeeper.suspended.is_set)
        while not stop.is_set():
            self._beat()
            if self._lease.state is LeaseState.LOST:
                health.end_loop(LOOP)
                self._lease.check()
            before, self._trouble_now = self._changes, ""
            if self._zookeeper.suspended.is_set():
                self._unfit_since_s.clear()  # who is fit again could not say so
            else:
                try:
                    if self.step():
                        health.enter(State.SERVING)
                except FanfoldError as error:
                    self._say(str(error))
                    if isinstance(error, ZooKeeperUnavailable):
                        self._unfit_since_s.clear()
                    if isinstance(error, ConfigurationError | Undecodable):  # waits for a person
                        health.enter(State.WAITING, str(error))
            self._trouble = self._trouble_now
            stop.wait(PERIOD_S if self._changes == before else AFTER_CHANGE_S)

    def _say(self, trouble: str) -> None:
        """When it begins: steps are many."""
        if trouble != self._trouble:
            log.warning("coordinator waits", error=trouble)
        self._trouble_now = trouble

    def _say_once(self, event: str, error: FanfoldError) -> None:
        """Of what stands against one node: the others go on."""
        if (event, str(error)) not in self._said:
            log.error(event, error=str(error))
        self._said.add((event, str(error)))

    # What is in force

    def _read(self) -> Known | None:
        znodes = read_znodes(self._zookeeper)
        self._epochs.approve(znodes)
        shard_map, versions = znodes.shard_map, (znodes.placement_version, znodes.copies_version)
        if shard_map is None or versions[0] is None or versions[1] is None:
            return None
        return Known(shard_map, versions[0], versions[1])

    def _begin(self, members: Members) -> bool:
        """The first placement: a node that is empty holds whole copies. One that was in use elsewhere has to be
        emptied."""
        fit = {name: member for name, member in members.items() if member.fit}
        if are_complete(set(fit)):
            addresses, weights = {n: m.url for n, m in fit.items()}, {n: m.weight for n, m in fit.items()}
            epoch = self._epochs.plan_next(0)
            shard_map = make_shard_map(epoch, addresses, weights)
            incarnations = {name: member.incarnation for name, member in fit.items()}
            copies = all_copies(epoch, CLUSTERS, CopyState.SERVING, incarnations)
            for name in shard_map.nodes:
                if was_open(name, addresses[name]):
                    copies = copies.without_node(name, shard_map.slots_on(name))
            if self._write({PLACEMENT_PATH: (encode_shard_map(shard_map), None), COPIES_PATH: (copies.encode(), None)}):
                self._epochs.note_written(epoch)
                log.info("shard map written", epoch=epoch, nodes=list(shard_map.nodes))
                for name in shard_map.nodes:
                    self._openings.may_open(name, replace(shard_map, copies=copies).fence(name))
        return False

    def _note_times(self, shard_map: ShardMap, members: Members) -> None:
        """Since when what is unfit or down is so, as far as this leader knows."""
        now_s = self._clock_s()
        unfit = [name for name in shard_map.nodes if not self._is_well(name, shard_map, members)]
        self._unfit_since_s = {name: self._unfit_since_s.get(name, now_s) for name in unfit}
        down = {
            (cluster, slot)
            for cluster, letters in shard_map.copies.states.items()
            for slot, letter in enumerate(letters)
            if letter == CopyState.DOWN
        }
        self._down_since_s = {one: self._down_since_s.get(one, now_s) for one in down}

    def _is_well(self, name: str, shard_map: ShardMap, members: Members) -> bool:
        """A node whose registrar is gone is looked at from here: it may be as it was."""
        if (member := members.get(name)) is not None:
            return member.fit
        return self._is_as_it_was(name, shard_map)

    def _is_as_it_was(self, name: str, shard_map: ShardMap) -> bool:
        """Whether the server at a node's address has what was admitted."""
        try:
            found = ask(name, shard_map.addresses[name], "HGET", redis_keys.NODE, "incarnation")
        except FanfoldError:
            return False
        return found is not None and found.decode() == shard_map.copies.incarnations.get(name)

    # One change a step

    def _drop_unfit(self, known: Known, members: Members) -> bool:
        """The copies of a node that is dead, hung or unfit are down: nobody reads them, and nobody waits for it."""
        shard_map = known.shard_map
        for name in self._unfit_since_s:
            if name in shard_map.copies.incarnations and shard_map.can_spare(name):
                reason = members[name].reason if name in members else "neither it nor its registrar is there"
                log.warning("node marked down", node=name, reason=reason)
                return self._write_copies(known, shard_map.copies.without_node(name, shard_map.slots_on(name)))
        return False

    def _readdress(self, known: Known, members: Members) -> bool:
        """A server's new address changes no slot, so it raises no epoch. Another server under the name of a node does:
        whoever is cut off still writes and reads the old one."""
        shard_map = known.shard_map
        urls = {name: members[name].url if name in members else url for name, url in shard_map.addresses.items()}
        replaced = replaced_nodes(shard_map, members)
        addresses = {**urls, **{name: shard_map.addresses[name] for name in replaced}}
        if addresses == shard_map.addresses:
            return bool(replaced) and self._replace(known, urls, replaced)
        log.info("addresses written", epoch=shard_map.epoch)
        data = encode_shard_map(replace(shard_map, addresses=addresses))
        return self._write({PLACEMENT_PATH: (data, known.placement_version)})

    def _replace(self, known: Known, addresses: Mapping[str, str], replaced: Sequence[str]) -> bool:
        """What the old server holds is down first; once every reader knows it, the address and a higher epoch are
        written together. An old server that is gone is not waited for: it has nothing that could be spared."""
        shard_map = known.shard_map
        copies = shard_map.copies
        for name in replaced:
            if name in copies.incarnations and (shard_map.can_spare(name) or not self._is_as_it_was(name, shard_map)):
                log.warning("node marked down", node=name, reason="another server has its name")
                return self._write_copies(known, copies.without_node(name, shard_map.slots_on(name)))
        ready = [name for name in replaced if name not in copies.incarnations]
        ready = [name for name in ready if self._are_settled((name[0], slot) for slot in shard_map.slots_on(name))]
        if not ready:
            return False
        if (epoch := self._next_epoch(shard_map)) is None:
            return False
        log.info("servers replaced", epoch=epoch, nodes=ready)
        urls = {**shard_map.addresses, **{name: addresses[name] for name in ready}}
        copies = replace(copies, epoch=epoch)
        return self._raise_epoch(known, replace(shard_map, epoch=epoch, addresses=urls, copies=copies))

    def _are_settled(self, slots: Iterable[tuple[str, int]]) -> bool:
        """Whether these copies are down for so long that every reader knows it."""
        settled_s = self._clock_s() - SETTLE_S
        return all(self._down_since_s.get(one, float("inf")) <= settled_s for one in slots)

    def _next_epoch(self, shard_map: ShardMap) -> int | None:
        """None while PostgreSQL is away: what raises the epoch waits then, and all else goes on."""
        try:
            return self._epochs.plan_next(shard_map.epoch)
        except DatabaseUnavailable as error:
            self._say(f"the epoch cannot be raised: {error}")
            return None

    def _raise_epoch(self, known: Known, after: ShardMap) -> bool:
        """Both znodes in one write."""
        written_now = self._write(
            {
                PLACEMENT_PATH: (encode_shard_map(after), known.placement_version),
                COPIES_PATH: (after.copies.encode(), known.copies_version),
            }
        )
        if written_now:
            self._epochs.note_written(after.epoch)
        return written_now

    def _admit(self, known: Known, members: Members) -> bool:
        """An emptied node with a new incarnation: the epoch first, then everybody is told."""
        shard_map = known.shard_map
        for name in shard_map.nodes:
            member = members.get(name)
            if member is None or not member.fit or not _is_new(shard_map.copies, name, member):
                continue
            if member.url != shard_map.addresses[name]:
                continue  # another server, which is not in the placement yet
            try:
                if was_open(name, member.url):  # it was admitted, and that was lost
                    log.warning("node has to be emptied", node=name, incarnation=member.incarnation)
                    return self._write_copies(known, shard_map.copies.with_dropped(name, member.incarnation))
                ask(name, member.url, "FCALL", "install_epoch", 0, shard_map.epoch)
            except (RedisUnavailable, Fenced) as error:
                self._say_once("node cannot be admitted yet", error)
                continue
            copies = shard_map.copies.with_node(name, shard_map.slots_on(name), member.incarnation)
            log.info("node admitted", node=name, epoch=shard_map.epoch)
            return self._write_copies(known, copies)
        return False

    def _move(self, known: Known, members: Members) -> bool:
        """Slots go to other nodes when a node joins, has been away for too long, or somebody wants it drained or gave
        it another weight: a batch of them at a time."""
        shard_map, live = known.shard_map, self._live_settings()
        wishes = read_wishes(self._zookeeper, partial(self._say_once, "wish refused"))
        target = wanted_map(shard_map, members, wishes, self._nodes(shard_map, members, drained_names(wishes)))
        self._moving = batch = next_batch(shard_map, target, live.move_slots_max)
        if not batch:
            return False
        if not self._are_settled(batch.copies()):
            return self._mark_moving(known, batch)
        if (epoch := self._next_epoch(shard_map)) is None:
            return False
        after = moved(shard_map, target, batch, epoch)
        if not self._raise_epoch(known, after):
            return False
        counts = {cluster: len(slots) for cluster, slots in batch.slots.items()}
        log.info("slots moved", epoch=after.epoch, slots=counts, nodes=list(after.nodes))
        for cluster, count in counts.items():
            metrics.MOVED.labels(cluster).inc(count)
        return True

    def _nodes(self, shard_map: ShardMap, members: Members, drained: set[str]) -> Nodes:
        """Who may get slots, and who is away for good."""
        away_since_s = self._clock_s() - self._live.leave_after_s
        leaving = {name for name, since_s in self._unfit_since_s.items() if since_s <= away_since_s}
        new = sorted(fit_names(members) - set(shard_map.nodes) - drained)
        joining = {one for one in new if self._reaches(one, members[one])}
        return Nodes(joining, leaving, well=set(shard_map.nodes) - self._unfit_since_s.keys())

    def _reaches(self, name: str, member: Member) -> bool:
        """Whether a node that wants to join is where its registrar says, seen from here: it gets slots only then."""
        try:
            found = ask(name, member.url, "HGET", redis_keys.NODE, "incarnation")
        except RedisUnavailable as error:
            self._say_once("node cannot join", error)
            return False
        return found is not None and found.decode() == member.incarnation

    def _mark_moving(self, known: Known, batch: Batch) -> bool:
        """Nobody reads the old copy any more when the new placement comes. False while there is nothing to do but wait
        for readers to know."""
        before = copies = known.shard_map.copies
        for cluster, slots in batch.slots.items():
            still = [slot for slot in slots if before.of(cluster, slot) is not CopyState.DOWN]
            copies = copies.changed(cluster, still, CopyState.DOWN)
        return copies != before and self._write_copies(known, copies)

    # What follows from the map

    def _equip(self, known: Known) -> bool:
        """Every admitted node gets the epoch. Only then one is opened when it may be, and loses what it holds of slots
        that are down in its hands: whoever writes by an older map is refused before the new copy can be read. True when
        that is done for all nodes of the map."""
        shard_map = known.shard_map
        admitted = [name for name in shard_map.nodes if name in shard_map.copies.incarnations]
        fit = [name for name in admitted if name not in self._unfit_since_s]
        have_epoch = [self._openings.has_epoch(name, shard_map) for name in fit]  # all are asked
        if not all(have_epoch):
            return False
        opened = [self._openings.is_open(name, shard_map) for name in fit]
        if not all(opened) or self._moving is None:
            return False
        waits = False
        for name in fit:
            if old := self._old_slots(name, shard_map, self._moving):
                if name in shard_map.down_nodes:  # it was left out while all of it was to move
                    self._write_copies(known, shard_map.copies.without_node(name, old))
                    return False
                try:
                    self._fill(known, name, old)
                except RedisUnavailable as error:  # it holds up no other node
                    self._say(str(error))
                    waits = True
                else:
                    return False
        return len(fit) == len(shard_map.nodes) and not self._moving and not waits

    def _old_slots(self, name: str, shard_map: ShardMap, moving: Batch) -> list[int]:
        """The slots that are down in a node's hands and are not about to leave it."""
        states, leaving = shard_map.copies.states[name[0]], set(moving.of(name[0]))
        slots = shard_map.slots_on(name) if CopyState.DOWN in states else []  # hardly ever, and each step asks
        return [slot for slot in slots if states[slot] == CopyState.DOWN and slot not in leaving]

    def _fill(self, known: Known, name: str, slots: list[int]) -> None:
        """Slots that came to a node, or stay after all: what it had of them is old."""
        node = RedisNode(name, known.shard_map.addresses[name], timeout_s=CALL_TIMEOUT_S)
        try:
            removed = remove_slots(node, slots, self._beat)
        finally:
            node.close()
        log.info("slots emptied", node=name, slots=len(slots), keys=removed)
        self._write_copies(known, known.shard_map.copies.changed(name[0], slots, CopyState.FILLING))

    def _write_copies(self, known: Known, copies: Copies) -> bool:
        """Whether it was written: somebody who could not write a node may have been faster."""
        return self._write({COPIES_PATH: (copies.encode(), known.copies_version)})

    def _write(self, writes: Mapping[str, tuple[bytes, int | None]]) -> bool:
        changes = [written(path, data, version) for path, (data, version) in writes.items()]
        done = self._zookeeper.write_together(changes, holding=self._lease)
        self._changes += done
        return done

    def _live_settings(self) -> LiveSettings:
        """What cannot be read leaves the last ones in force, as in every process."""
        with suppress(Undecodable, InvalidInput):
            self._live = read_live_settings(self._zookeeper)
        return self._live


def _is_new(copies: Copies, name: str, member: Member) -> bool:
    """Whether a node has an incarnation that was never admitted; a dropped one is emptied first."""
    return copies.incarnations.get(name) != member.incarnation and not copies.needs_emptying(name, member.incarnation)
