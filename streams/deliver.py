"""deliver: records of one partition of the deliveries log, applied to the three clusters in order.

Input: messages of one partition. Output: timelines in Redis; the offset may be acknowledged when `Deliverer.apply`
returns (G6). One numbered Function call per node and run, the clusters at the same time. A node that is away is waited
for, never skipped. Next: infra/lua/timelines.lua.
"""

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import sqlalchemy as sa
import structlog

from infra import metrics, redis_keys
from infra.database import reading
from infra.errors import DependencyError, Fenced, RedisUnavailable, TokenLost, Undecodable
from infra.events import Delivery, DeliveryKind, decode_deliveries
from infra.rebuild import BATCH_USERS_MAX, rebuild
from infra.redis_node import Argument, RedisNode
from infra.shard_map import ShardMap
from infra.slots import slot_of
from infra.timelines import Kind, Timelines
from streams.node_calls import Placed, arguments_by_node, in_order_of_effect
from streams.progress import PROGRESS

RUN_TARGETS_MAX = 32_768  # entries of one run: about 60 ms of a node's time
RETRY_FIRST_S = 0.05
RETRY_MAX_S = 1.0
SAY_EVERY_S = 5.0

log = structlog.get_logger()

_OF_AUTHOR = sa.text(
    "SELECT id FROM tweets WHERE author_id = :author AND id = ANY (CAST(:ids AS bigint[])) ORDER BY id"
)


@dataclass(frozen=True, slots=True)
class Received:
    """One message of the partition, decoded."""

    offset: int
    records: Sequence[Delivery]


def receive(offset: int, value: bytes | None) -> Received:
    """Raises `Undecodable`, also for an unmerge beside other records: it is applied in two calls."""
    records = decode_deliveries(value)
    kinds = {record.kind for record in records}
    if DeliveryKind.UNMERGE in kinds and len(kinds) > 1:
        raise Undecodable("an unmerge shares a message with other records; it must travel alone")
    return Received(offset, records)


def runs_of(messages: Sequence[Received]) -> Iterator[list[Received]]:
    """Whole messages in runs of bounded size; an unmerge is a run of its own, since it is applied in two calls."""
    run: list[Received] = []
    targets = 0
    for message in messages:
        size = sum(len(record.targets) for record in message.records)
        alone = any(record.kind is DeliveryKind.UNMERGE for record in message.records)
        if run and (alone or targets + size > RUN_TARGETS_MAX):
            yield run
            run, targets = [], 0
        if alone:
            yield [message]
            continue
        run.append(message)
        targets += size
    if run:
        yield run


class Deliverer:
    """Applies one partition in one consumer generation. Not safe for several threads.

    `generation` is the messages' own, never the app's current one, which a thawed worker would stamp wrongly.
    """

    def __init__(self, engine: sa.Engine, timelines: Timelines, partition: int, generation: int) -> None:
        self._engine = engine
        self._timelines = timelines
        self._clusters = timelines.clusters
        self._partition = partition
        self._generation = generation
        self._call_numbers = itertools.count(1)

    def apply(self, messages: Sequence[Received]) -> None:
        """Returns when every record is in all three clusters; waits for nodes that are away.

        Idempotent by the lists: an entry that is there is not inserted again. A crash anywhere inside brings all of
        the messages again.
        """
        for run in runs_of(messages):
            if run[0].records and run[0].records[0].kind is DeliveryKind.UNMERGE:
                self._unmerge(run[0])
            else:
                self._apply_run(run)

    def _apply_run(self, run: Sequence[Received]) -> None:
        self._apply_placed([Placed(message.offset, one) for message in run for one in message.records], run[-1].offset)

    def _unmerge(self, message: Received) -> None:
        """Resolved when it is applied: which of the entries that are there are the author's, by the database now."""
        resolved = [self._with_entries(record) for record in message.records]
        self._apply_placed([Placed(message.offset, record) for record in resolved], message.offset)

    def _with_entries(self, record: Delivery) -> Delivery:
        """An unmerge with the ids to remove, in whichever copy they are."""
        owner = int(record.targets[0])
        key = redis_keys.home_timeline(owner)

        def route(shard_map: ShardMap) -> dict[str, list[Argument]]:
            return {shard_map.node_of(cluster, slot_of(owner)): [key] for cluster in shard_map.placement}

        found = self._on_every_node(route, self._open_removal)
        ids = {int(entry) for answer in found.values() for entries in answer for entry in entries}
        with reading(self._engine) as connection:
            gone = connection.execute(_OF_AUTHOR, {"author": record.subject, "ids": list(ids)}).scalars().all()
        return replace(record, ids=np.array(gone, dtype=np.uint64))

    def _apply_placed(self, placed: Sequence[Placed], last_offset: int) -> None:
        ordered = in_order_of_effect(placed)
        answers = self._on_every_node(partial(arguments_by_node, ordered), self._apply_call(last_offset))
        _observe(ordered, answers)
        self._refill({key for answer in answers.values() for key in answer[5]})

    def _apply_call(self, last_offset: int) -> "Call":
        def call(node: RedisNode, epoch: int, arguments: Sequence[Argument]) -> Any:
            head = (self._partition, epoch, self._generation, next(self._call_numbers), last_offset)
            return node.call("apply", *head, self._timelines.live.timeline_entries, *arguments)

        return call

    def _open_removal(self, node: RedisNode, epoch: int, arguments: Sequence[Argument]) -> Any:
        head = (self._partition, epoch, self._generation, next(self._call_numbers))
        return node.call("open_removal", *head, b"".join(arguments))  # type: ignore[arg-type]

    def _on_every_node(self, route: "Route", call: "Call") -> dict[str, Any]:
        """Calls every node of the shard map at the same time; again where it failed, until all have answered.

        A raised epoch starts again with the new map: placements may differ, and applying twice does no harm.
        """
        waiting = _Patience(self._partition)
        while True:
            shard_map = self._clusters.shard_map
            answers: dict[str, Any] = {}
            arguments = route(shard_map)
            while self._clusters.shard_map.epoch == shard_map.epoch:
                answers |= self._call_missing(arguments, answers, call, shard_map.epoch, waiting)
                if len(answers) == len(arguments):
                    return answers
                waiting.wait()

    def _call_missing(
        self, arguments: dict[str, list[Argument]], done: dict[str, Any], call: "Call", epoch: int, waiting: "_Patience"
    ) -> dict[str, Any]:
        missing = {name: self._clusters.node(name) for name in arguments if name not in done}
        outcomes = self._clusters.at_once(missing, lambda node: call(node, epoch, arguments[node.name]))
        for name, outcome in outcomes.items():
            if isinstance(outcome, Fenced):
                metrics.FENCED.labels("deliver").inc()
            if isinstance(outcome, Fenced | RedisUnavailable):
                waiting.note(name, outcome)
            elif isinstance(outcome, Exception):
                raise outcome
        return {name: outcome for name, outcome in outcomes.items() if not isinstance(outcome, Exception)}

    def _refill(self, short_keys: set[bytes]) -> None:
        """Rebuilds timelines that removals left with too little above a floor."""
        for kind in Kind:
            users = [redis_keys.id_of(key) for key in short_keys if key.startswith(kind.prefix)]
            for start in range(0, len(users), BATCH_USERS_MAX):
                part = users[start : start + BATCH_USERS_MAX]
                _until_done(self._partition, partial(rebuild, self._engine, self._timelines, kind, part, renew=True))


Route = Callable[[ShardMap], dict[str, list[Argument]]]
Call = Callable[[RedisNode, int, Sequence[Argument]], Any]


class _Patience:
    """Waits longer each time, and says every few seconds what it waits for."""

    def __init__(self, partition: int) -> None:
        self._partition = partition
        self._delay_s = RETRY_FIRST_S
        self._said_s = time.monotonic() - SAY_EVERY_S + 1.0
        self._reasons: dict[str, str] = {}

    def note(self, node: str, reason: Exception) -> None:
        self._reasons[node] = str(reason)

    def wait(self) -> None:
        if time.monotonic() - self._said_s > SAY_EVERY_S:
            log.warning("deliver waits", partition=self._partition, nodes=sorted(self._reasons), reasons=self._reasons)
            self._said_s = time.monotonic()
        PROGRESS.beat(("deliver", self._partition), "nodes " + ", ".join(sorted(self._reasons)))
        time.sleep(self._delay_s)
        self._delay_s = min(self._delay_s * 2, RETRY_MAX_S)


def _until_done(partition: int, step: Callable[[], object]) -> None:
    delay_s = RETRY_FIRST_S
    while True:
        try:
            step()
        except (DependencyError, Fenced, TokenLost) as error:
            log.warning("rebuild waits", error=str(error))
            PROGRESS.beat(("deliver", partition), f"a rebuild: {type(error).__name__}")
            time.sleep(delay_s)
            delay_s = min(delay_s * 2, RETRY_MAX_S)
        else:
            return


def _observe(placed: Sequence[Placed], answers: dict[str, Any]) -> None:
    now_ms = time.time_ns() // 1_000_000
    for one in placed:
        if one.record.kind is DeliveryKind.DELIVER:
            metrics.DELIVERY_LATENCY.observe(max(now_ms - one.record.published_ms, 0) / 1000)
    for name, answer in answers.items():
        metrics.DELIVERIES.labels(name[0]).inc(answer[0] + answer[1] + answer[2])
        metrics.OUT_OF_ORDER.inc(answer[4])
