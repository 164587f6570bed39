"""Ways to break what is about the states of copies: who may be left out, read, admitted, opened, and when."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from random import Random
from typing import Any

import infra.coordinator
import infra.copying
import infra.timeline_windows
import infra.tweet_bodies
from infra.coordinator import Coordinator, Known
from infra.copies import Copies, CopyState
from infra.copying import Progress, is_fit
from infra.members import Members
from infra.moves import Batch, moved
from infra.redis_clusters import RedisClusters
from infra.shard_map import CLUSTERS, ShardMap
from infra.shard_maps import SETTLE_S, ShardMaps
from infra.tweet_bodies import TweetBodies
from streams.app import DeliverWork
from tests.simulator.mutant import Mutant

NODE_OPENS = "if needs_open and not node[3] then"
FENCE_DIFFERS = "if own ~= fence then"
EPOCH_DIFFERS = "if string.match(own, '^%w*') ~= string.match(fence, '^%w*') then"


def _nothing(*_: object, **__: object) -> None:
    """Instead of a step."""


def _leave_out_unproven(clusters: RedisClusters, name: str) -> bool:
    return name in clusters.shard_map.down_nodes


def _every_cluster(shard_map: ShardMap, _: int) -> tuple[str, ...]:
    """In whatever state its copy is."""
    order = list(CLUSTERS)
    Random(shard_map.epoch).shuffle(order)
    return tuple(order)


def _as_the_map_says(shard_map: ShardMap, slot: int, _: Mapping[str, Sequence[int]]) -> Sequence[str]:
    return shard_map.in_order(slot)


def _never(*_: object) -> bool:
    return False


def _admit_as_it_is(coordinator: Coordinator, known: Known, members: Members) -> bool:
    """Whatever it still holds."""
    shard_map = known.shard_map
    for name in shard_map.nodes:
        if name not in shard_map.copies.incarnations and name in members and members[name].fit:
            copies = shard_map.copies.with_node(name, shard_map.slots_on(name), members[name].incarnation)
            return coordinator._write_copies(known, copies)
    return False


def _fill_as_it_is(coordinator: Coordinator, known: Known, name: str, slots: list[int]) -> bool:
    """Without removing what the node still has of these slots."""
    copies = known.shard_map.copies.changed(name[0], slots, CopyState.FILLING)
    coordinator._write_copies(known, copies)
    return False


def _move_at_once(move: Callable[..., bool]) -> Callable[..., bool]:
    """Readers may not know yet that the old copy is down when the new placement comes."""

    def moved(coordinator: Coordinator, *given: Any) -> bool:
        clock_s, coordinator._clock_s = coordinator._clock_s, lambda: clock_s() + SETTLE_S
        try:
            return move(coordinator, *given)
        finally:
            coordinator._clock_s = clock_s

    return moved


def _moved_beyond_the_batch(shard_map: ShardMap, target: ShardMap, batch: Batch, epoch: int) -> ShardMap:
    """The whole placement of each cluster that the batch is of, and not only the slots that nobody reads any more."""
    after = moved(shard_map, target, batch, epoch)
    whole = {cluster: target.placement[cluster] for cluster, slots in batch.slots.items() if slots}
    names = {name for of_cluster in {**after.placement, **whole}.values() for name in of_cluster}
    addresses = {name: {**target.addresses, **shard_map.addresses}[name] for name in sorted(names)}
    return replace(after, placement={**after.placement, **whole}, addresses=addresses)


def _fit_for_nobody(target: Progress | None, source: Progress | None) -> bool:
    return target is None or is_fit(target, source)


def _cached_as_ever(cached: Callable[..., Any]) -> Callable[..., Any]:
    """A reader of bodies who is cut off takes any copy."""

    def look(bodies: TweetBodies, ids: Sequence[int]) -> Any:
        return cached(_NeverCutOff(bodies), ids)

    return look


class _NeverCutOff:
    """Bodies, and clusters, that say nothing of being cut off."""

    cut_off = False

    def __init__(self, one: Any) -> None:
        self._one = one

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._one, name)
        return _NeverCutOff(found) if name == "_clusters" else found


BEHIND = "a timeline is copied from a node that is behind"
COPIED = "something changes while a timeline is copied"
LEFT_OUT = "a node is filled from one that a call is still on its way to"
MARKED = "a node is marked, and somebody does not know"
ADMITTED = "a node is admitted, and somebody does not know"
FILLED_LATE = "a body is filled in late"
FILLED_ACROSS = "a body is filled in across a delete"
ELSEWHERE = "a tweet is deleted by a placement that is over"
MOVED = "slots have moved, and somebody does not know"

COPY_MUTANTS = (
    Mutant("a copy is read that is behind", BEHIND, patches=[(infra.copying, "is_fit", lambda *_: True)]),
    Mutant("a node that was called by nobody is proof", LEFT_OUT, patches=[(infra.copying, "is_fit", _fit_for_nobody)]),
    Mutant(
        "a copy is filled whose token was lost",
        COPIED,
        [("if head_of(key) ~= head_of_mine then return false end", "if not head_of(key) then return false end")],
    ),
    Mutant(
        "a copied timeline lacks what came under the token",
        COPIED,
        [("if #delivered > 0 then insert(key, delivered, length) end", "")],
    ),
    Mutant(
        "a set of celebrities is filled whose token was lost",
        "copying",
        [("if redis.call('SREM', key, token_of_mine) == 0 then return false end", "")],
    ),
    Mutant(
        "a down node is left out without proof",
        ADMITTED,
        patches=[(RedisClusters, "may_leave_out", _leave_out_unproven)],
    ),
    Mutant("the acknowledgement of a delete does not wait", MARKED, patches=[(RedisClusters, "settle", _nothing)]),
    Mutant(
        "a batch is acknowledged before it has settled", MARKED, patches=[(DeliverWork, "unsettled_s", lambda *_: 0.0)]
    ),
    Mutant("a node is opened when it is admitted", ADMITTED, [(NODE_OPENS, "if false then")]),
    Mutant(
        "the fence without the incarnation",
        FILLED_LATE,
        [(FENCE_DIFFERS, EPOCH_DIFFERS)],
    ),
    Mutant(
        "a dropped node is admitted without being emptied",
        MARKED,
        patches=[(Copies, "needs_emptying", _never), (Coordinator, "_admit", _admit_as_it_is)],
    ),
    Mutant("a copy that is down is read", MARKED, patches=[(ShardMap, "in_order", _every_cluster)]),
    Mutant(
        "a reader who is cut off takes any copy of a timeline",
        MARKED,
        patches=[(infra.timeline_windows, "_by_applied", _as_the_map_says)],
    ),
    Mutant(
        "a reader who is cut off takes any copy of a body",
        MARKED,
        patches=[(TweetBodies, "_cached", _cached_as_ever(TweetBodies._cached))],
    ),
    Mutant(
        "whoever cannot write a node goes on without marking it",
        "copies",
        patches=[(ShardMaps, "mark_down", lambda *_: True)],
    ),
    Mutant(
        "a delete leaves out what was down before",
        FILLED_ACROSS,
        patches=[(TweetBodies, "_is_down_now", lambda _, name, shard_map: name in shard_map.down_nodes)],
    ),
    Mutant("a delete does not look at the epoch", ELSEWHERE, patches=[(TweetBodies, "_too_old", _nothing)]),
    Mutant(
        "for a reader who is cut off one copy of a body is proof",
        MARKED,
        patches=[(infra.tweet_bodies, "COPIES_MIN", 1)],
    ),
    Mutant(
        "for a reader who is cut off one copy of a timeline is proof",
        MARKED,
        patches=[(infra.timeline_windows, "COPIES_MIN", 1)],
    ),
    Mutant("slots move before readers know", MOVED, patches=[(Coordinator, "_move", _move_at_once(Coordinator._move))]),
    Mutant(
        "a batch takes slots along that are still read",
        MOVED,
        patches=[(infra.coordinator, "moved", _moved_beyond_the_batch)],
    ),
    Mutant(
        "a copy from another cluster raises no mark",
        COPIED,
        [("  raise_built_mark(key, redis.call('LINDEX', key, TAIL))\n", "")],
    ),
    Mutant("slots that come to a node are not emptied", MOVED, patches=[(Coordinator, "_fill", _fill_as_it_is)]),
)
