"""deliver: records of one partition of the deliveries log, applied to the three clusters in order.

Input: messages of one partition. Output: timelines in Redis; the offset may be acknowledged `Deliverer.unsettled_s`
after `apply` returns (G6). One numbered Function call per node and run, the clusters at the same time. A node that
cannot be written is marked down, and left out from then on; where that cannot be, it is waited for.
Next: deliver_together.py, infra/lua/timelines.lua.
"""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import numpy as np
import sqlalchemy as sa

from infra import metrics, redis_keys
from infra.database import reading
from infra.errors import Fenced, RedisUnavailable, Undecodable
from infra.events import Delivery, DeliveryKind, decode_deliveries, one_chunk
from infra.rebuild import BATCH_USERS_MAX, rebuild
from infra.redis_keys import page_of_keys
from infra.redis_node import Argument
from infra.shard_map import CLUSTERS, ShardMap
from infra.slots import Ids, slots_of
from infra.timelines import Kind, Timelines
from streams.node_calls import PARTS_MAX, Placed, Segment, arguments_by_node, continued, inserts_at_home, segments_of
from streams.patience import Patience, until_rebuilt
from streams.verify import read_kept, verified

RUN_TARGETS_MAX = 262_144  # entries of one run: the more, the more of them share a look at their list; some 15 MB
RUN_CHUNKS_MAX = 32_768  # their places in a call have two bytes
CALL_TARGETS_MAX = 32_768  # entries of one call to all nodes, when most are the newest of their lists
CALL_TARGETS_MIN = 4_096  # at first, and when many belong deep into their lists
SENT_AGAIN_TARGETS = 32  # in such entries, the look at a list that a replay brings some: it reads the list as a whole
# What reads and writes a list as a whole costs a node as much as so many entries that are the newest of theirs.
WHOLE_LIST_TARGETS = 100
UNMERGE_LISTS_MAX = 512  # of one run: 440,000 entries of each cluster at most, which come here to be looked at
WHOLE_LIST_KINDS = (DeliveryKind.MERGE, DeliveryKind.UNMERGE)
CALL_SLOW_S = 0.25  # halves the next calls: readers wait behind a call, and another round's; the time-out is 1 s
CALL_FAST_S = 0.06  # doubles them
NOT_FINAL = -1  # instead of an offset, in a call that others of the run follow

T = TypeVar("T")
Arguments = Mapping[str, Sequence[Argument]]  # of one call, by node
NOTHING: Arguments = {}
Answers = dict[str, Any]
Prove = Callable[[int], None]

_OF_AUTHORS = sa.text(
    """
    SELECT id, author_id, EXISTS (SELECT FROM live_tweets WHERE live_tweets.id = tweets.id) AS live
    FROM tweets WHERE id = ANY (CAST(:ids AS bigint[])) AND author_id = ANY (CAST(:authors AS bigint[]))
    """
)


@dataclass(frozen=True, slots=True)
class Received:
    """One message of the partition, decoded."""

    offset: int
    records: Sequence[Delivery]


@dataclass(slots=True)
class Applied:
    """What one node answered to all calls of a run: see `apply` in infra/lua/timelines.lua."""

    delivered: int = 0
    absent: int = 0
    out_of_order: int = 0
    short: list[bytes] = field(default_factory=list)

    def add(self, answer: Sequence[Any]) -> None:
        """Takes one more answer in."""
        self.delivered += answer[0]
        self.absent += answer[1]
        self.out_of_order += answer[2]
        self.short += answer[3]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A run that takes one call to each node, and the arguments of each."""

    placed: Sequence[Placed]
    calls: Mapping[str, Sequence[Argument]]


def receive(offset: int, value: bytes | None) -> Received:
    """Raises `Undecodable`, also for an unmerge beside other records: it is applied in two calls."""
    records = decode_deliveries(value)
    kinds = {record.kind for record in records}
    if DeliveryKind.UNMERGE in kinds and len(kinds) > 1:
        raise Undecodable("an unmerge shares a message with other records; it must travel alone")
    return Received(offset, records)


def runs_of(messages: Sequence[Received]) -> Iterator[list[Received]]:
    """Whole messages in runs of bounded size. Unmerges are applied in two calls, so their runs hold nothing else."""
    run: list[Received] = []
    targets = chunks = 0
    unmerges = False
    for message in messages:
        more_targets = sum(map(_cost, message.records))
        more_chunks = sum(len(record.subjects) for record in message.records)
        unmerge = any(record.kind is DeliveryKind.UNMERGE for record in message.records)
        targets_max = UNMERGE_LISTS_MAX * WHOLE_LIST_TARGETS if unmerge else RUN_TARGETS_MAX
        full = targets + more_targets > targets_max or chunks + more_chunks > RUN_CHUNKS_MAX
        if run and (full or unmerge is not unmerges):
            yield run
            run, targets, chunks = [], 0, 0
        run.append(message)
        targets, chunks, unmerges = targets + more_targets, chunks + more_chunks, unmerge
    if run:
        yield run


def _cost(record: Delivery) -> int:
    """In entries that are the newest of their lists."""
    return len(record.targets) * (WHOLE_LIST_TARGETS if record.kind in WHOLE_LIST_KINDS else 1)


def _call_cost(placed: Sequence[Placed], lists: int | None = None) -> int:
    """Of applying all of it, in the same; `lists`: in so many, where that is known already."""
    records = [one.record for one in placed]
    deep = sum(len(one.targets) for one in records if one.verify and one.kind not in WHOLE_LIST_KINDS)
    looks = deep if lists is None else min(deep, lists)
    return sum(map(_cost, records)) + looks * (SENT_AGAIN_TARGETS - 1)


def _placed(messages: Sequence[Received]) -> list[Placed]:
    return [Placed(message.offset, one) for message in messages for one in message.records]


def next_call_targets(targets: int, seconds: float) -> int:
    """The bound of the next calls, from how long one took."""
    if seconds > CALL_SLOW_S:
        return max(targets // 2, CALL_TARGETS_MIN)
    return min(targets * 2, CALL_TARGETS_MAX) if seconds < CALL_FAST_S else targets


class Deliverer:
    """Applies one partition in one consumer generation. Not safe for several threads.

    `generation` is the messages' own, never the app's current one, which a thawed worker would stamp wrongly. `prove`
    is given the offset where the work begins, and raises `Superseded` when the generation is over.
    """

    def __init__(
        self, engine: sa.Engine, timelines: Timelines, partition: int, generation: int, prove: Prove = lambda _: None
    ) -> None:
        self._engine = engine
        self._timelines = timelines
        self._clusters = timelines.clusters
        self._partition = partition
        self._generation = generation
        self._call_numbers = itertools.count(1)
        self._call_targets = CALL_TARGETS_MIN
        self.left_out: set[str] = set()  # nodes that calls did without since `unsettled_s` was asked
        self._prove = prove
        self._proven: dict[str, str] = {}
        self._first_offset = 0

    def apply(self, messages: Sequence[Received]) -> None:
        """Returns when every record is in every copy that is not down. Before it is acknowledged `unsettled_s` has to
        pass.

        Idempotent by the lists: an entry that is there is not inserted again. A crash anywhere inside, or before the
        acknowledgement, brings all of the messages again.
        """
        self._first_offset = messages[0].offset if messages else 0
        for run in runs_of(messages):
            placed = self._verified(run)
            if placed and placed[0].record.kind is DeliveryKind.UNMERGE:
                placed = self._resolved(placed)
            self._apply_run(placed, run[-1].offset)

    def leave_out(self, names: Iterable[str]) -> None:
        """Notes nodes that a call did without."""
        self.left_out.update(names)

    def unsettled_s(self) -> float:
        """For how long what was applied since the last question must not be acknowledged: until nobody reads the nodes
        any more that it did without. Asked once it is applied."""
        left_out, self.left_out = self.left_out, set()
        return max(self._clusters.unsettled_s(left_out), 0.0)

    def cost_of_one_call(self, messages: Sequence[Received]) -> int | None:
        """What these cost, in entries, if one call to each node is enough for all of them."""
        placed = _placed(messages)
        unmerges = any(one.record.kind is DeliveryKind.UNMERGE for one in placed)
        cost = _call_cost(placed)
        return cost if len(list(runs_of(messages))) == 1 and not unmerges and self._parts(cost) == 1 else None

    def prepare(self, messages: Sequence[Received], shard_map: ShardMap) -> "Prepared":
        """The one call to each node for messages that fit one, with its number taken."""
        placed, self._first_offset = self._verified(messages), messages[0].offset
        [arguments] = arguments_by_node(segments_of(placed), shard_map)
        rest = messages[-1].offset, 0, self._timelines.live.timeline_entries
        heads = self._heads(shard_map, arguments)
        return Prepared(placed, {name: (*heads[name], *rest, *records) for name, records in arguments.items()})

    def conclude(self, prepared: "Prepared", answers: Answers) -> None:
        """What follows from the answers of all nodes to a prepared call."""
        total = {name: Applied() for name in answers}
        for name, answer in answers.items():
            total[name].add(answer)
        self._conclude(prepared.placed, total)

    def _verified(self, messages: Sequence[Received]) -> list[Placed]:
        return verified(self._engine, _placed(messages), self._timelines.live.timeline_entries)

    def _resolved(self, placed: Sequence[Placed]) -> list[Placed]:
        """Unmerges with the ids to remove, in whichever copy they are: resolved when they are applied. Which of the
        entries that are there are the author's, by the database now. Lists that lose the same share a record. One that
        is to be verified takes from whoever follows again only what is not live."""
        owners = np.unique(np.concatenate([one.record.targets for one in placed]).astype(np.uint64))
        found = self._again(partial(self._open_removals, owners))
        ids = list(set[int]().union(*found.values()))
        with reading(self._engine) as connection:
            authors = [one.record.subject for one in placed]
            kept = read_kept(connection, (one.record for one in placed))
            rows = connection.execute(_OF_AUTHORS, {"authors": authors, "ids": ids}).all()
        posted: dict[int, set[int]] = {author: set() for author in authors}
        live: dict[int, set[int]] = {author: set() for author in authors}
        for row in rows:
            posted[row.author_id].add(row.id)
            if row.live:
                live[row.author_id].add(row.id)
        resolved = []
        for one in placed:
            author, losing = one.record.subject, dict[tuple[int, ...], list[int]]()
            for owner in one.record.targets.tolist():
                stays = live[author] if one.record.verify and (author, owner) in kept else set[int]()
                losing.setdefault(tuple(sorted(found[owner] & posted[author] - stays)), []).append(owner)
            for gone, of_lists in losing.items():
                record = one_chunk(one.record.kind, author, 0, of_lists, np.array(gone, dtype=np.uint64))
                resolved.append(Placed(one.offset, record))
        return resolved

    def _open_removals(self, owners: Ids, shard_map: ShardMap) -> dict[int, set[int]] | None:
        """What each home timeline holds, in all copies together. None when the epoch was raised."""
        keys, slots = page_of_keys(owners, redis_keys.HOME), slots_of(owners)
        asked = {
            name: np.flatnonzero(shard_map.node_indexes(cluster)[slots] == index)
            for cluster in shard_map.placement
            for index, name in enumerate(shard_map.nodes_of(cluster))
        }
        pages = {name: [keys[places].tobytes()] for name, places in asked.items() if len(places)}
        answers = self._call_nodes("open_removal", pages, shard_map)
        if answers is None:
            return None
        found: dict[int, set[int]] = {owner: set() for owner in owners.tolist()}
        for name, answer in answers.items():
            for owner, entries in zip(owners[asked[name]].tolist(), answer, strict=True):
                found[owner].update(map(int, entries))
        return found

    def _apply_run(self, placed: Sequence[Placed], last_offset: int) -> None:
        segments = segments_of(placed)
        cost = _call_cost(placed, sum(len(segment.owners) for segment in segments))
        self._conclude(placed, self._again(partial(self._apply_parts, segments, cost, last_offset)))

    def _parts(self, cost: int) -> int:
        return min(cost // self._call_targets + 1, PARTS_MAX)

    def _heads(self, shard_map: ShardMap, names: Iterable[str]) -> dict[str, tuple[Argument, ...]]:
        """What each node's call begins with; its number is taken. A fence is used only after the group has confirmed
        the generation: a node that was emptied has forgotten which one it had seen."""
        fences, number = {name: shard_map.fence(name) for name in names}, next(self._call_numbers)
        if not fences.items() <= self._proven.items():
            self._prove(self._first_offset)
            self._proven |= fences
        return {name: (self._partition, fence, self._generation, number) for name, fence in fences.items()}

    def _conclude(self, placed: Sequence[Placed], total: "Mapping[str, Applied]") -> None:
        _observe(placed, total)
        self._refill({key for answer in total.values() for key in answer.short})

    def _apply_parts(
        self, segments: Sequence[Segment], cost: int, last_offset: int, shard_map: ShardMap
    ) -> "dict[str, Applied] | None":
        """One call after the other to every node, the final one with the offset; None when it has to begin again."""
        parts, begun = self._parts(cost), set[str]()
        total = {name: Applied() for name in shard_map.nodes}
        for number, arguments in enumerate(arguments_by_node(segments, shard_map, parts), start=1):
            began_s = time.monotonic()
            final = number == parts
            offset = last_offset if final else NOT_FINAL
            length = self._timelines.live.timeline_entries
            wanted = {
                name: (offset, total[name].delivered, length, *records)
                for name, records in arguments.items()
                if records or final
            }
            first_try = {name: (*wanted[name][:3], *continued(wanted[name][3:])) for name in begun & wanted.keys()}
            answers = self._call_nodes("apply", wanted, shard_map, first_try)
            if answers is None:
                return None
            begun |= {name for name in answers if inserts_at_home(arguments[name])}
            for name, answer in answers.items():
                total[name].add(answer)
            self._call_targets = next_call_targets(self._call_targets, time.monotonic() - began_s)
        return total

    def _again(self, calls: "Callable[[ShardMap], T | None]") -> T:
        """Makes calls by one shard map, from the first again when its epoch was raised meanwhile (placements may differ
        then) or when one was too much for a node: applying twice does no harm."""
        while True:
            found = calls(self._clusters.shard_map)
            if found is not None:
                return found

    def _call_nodes(
        self, function: str, arguments: Arguments, shard_map: ShardMap, first_try: Arguments = NOTHING
    ) -> Answers | None:
        """Calls the nodes at the same time; again where it failed, until all have answered that are not down. None when
        the epoch was raised meanwhile, or when none has answered a large call: smaller ones come before a mark.
        `first_try` has other arguments for the first call to some."""
        waiting, answers = Patience(self._partition), dict[str, Any]()
        while (now := self._clusters.shard_map).epoch == shard_map.epoch:
            left_out = {name for name in arguments if name not in answers and self._clusters.may_leave_out(name)}
            missing = {name: arguments[name] for name in arguments if name not in answers and name not in left_out}
            began_s = time.monotonic()
            calls, first_try = {name: first_try.get(name, missing[name]) for name in missing}, NOTHING
            answers |= self._call_missing(function, calls, now, waiting)
            slow = time.monotonic() - began_s > CALL_SLOW_S
            if slow and not answers and self._call_targets > CALL_TARGETS_MIN:
                self._call_targets = CALL_TARGETS_MIN  # where no node does it, the call may be what is wrong
                return None
            left_out |= {name for name in missing if name not in answers and self._is_marked(name, now, waiting)}
            unanswered, lacks_copies = arguments.keys() - answers - left_out, self._clusters.shard_map.lacks_copies
            if not unanswered and not lacks_copies:
                self.leave_out(left_out)
                return answers
            waiting.wait(unanswered, lacks_copies=lacks_copies)
        return None

    def _call_missing(self, function: str, arguments: Arguments, now: ShardMap, waiting: Patience) -> Answers:
        heads = self._heads(now, arguments)
        calls = {name: (*heads[name], *of_node) for name, of_node in arguments.items()}
        outcomes = self._clusters.call_at_once(function, calls, waiting.call_timeout_s)
        for name, outcome in outcomes.items():
            if isinstance(outcome, Fenced):
                metrics.FENCED.labels("deliver").inc()
            if isinstance(outcome, Fenced | RedisUnavailable):
                waiting.note(name, outcome)
            elif isinstance(outcome, Exception):
                raise outcome
        return {name: outcome for name, outcome in outcomes.items() if not isinstance(outcome, Exception)}

    def _is_marked(self, name: str, seen: ShardMap, waiting: Patience) -> bool:
        """Marks a node down that did not answer again and again, or stays full. One that fences the call is waited for:
        it was restarted, and whoever admits it is at work."""
        return waiting.may_mark(name) and self._clusters.mark_down(name, seen)

    def _refill(self, short_keys: set[bytes]) -> None:
        """Rebuilds timelines that removals left with too little above a floor."""
        for kind in Kind:
            users = [redis_keys.id_of(key) for key in sorted(short_keys) if key.startswith(kind.prefix)]
            for start in range(0, len(users), BATCH_USERS_MAX):
                part = users[start : start + BATCH_USERS_MAX]
                step = partial(rebuild, self._engine, self._timelines, kind, part, renew=CLUSTERS)
                until_rebuilt(self._partition, step, self._call_all)

    def _call_all(self) -> None:
        """Calls every node with nothing to do. A rebuild marks nobody: a node that takes no writes is marked here."""
        nothing = NOT_FINAL, 0, self._timelines.live.timeline_entries
        self._again(lambda now: self._call_nodes("apply", dict.fromkeys(now.nodes, nothing), now))


def _observe(placed: Sequence[Placed], total: "Mapping[str, Applied]") -> None:
    live = (one.record for one in placed if not one.record.verify)  # what is sent again was not late
    published_ms = [record.published_ms for record in live if record.kind is DeliveryKind.DELIVER]
    if published_ms:
        age_ms = time.time_ns() // 1_000_000 - np.concatenate(published_ms).astype(np.int64)
        metrics.DELIVERY_LATENCY.observe_all(np.maximum(age_ms, 0) / 1000)
    for name, applied in total.items():
        metrics.DELIVERIES.labels(name[0]).inc(applied.delivered)
        metrics.OUT_OF_ORDER.inc(applied.out_of_order)
