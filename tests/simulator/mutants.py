"""Ways to break the product, each with a name. The simulator must find every one (test_mutants.py).

Those of the copies' states are in copy_mutants.py.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import sqlalchemy as sa

import infra.rebuild
import producers.status_keeper
import streams.deliver
import streams.fan_out
import streams.verify
from infra import redis_keys
from infra.events import Activity, Delivery, DeliveryKind
from infra.kafka import Claim, Message
from infra.rebuild import Take, read_snapshots
from infra.shard_map import CLUSTERS, ShardMap
from infra.status import Standing, Status, next_standing
from infra.timelines import Kind, Timelines, new_token
from infra.topics import ACTIVITY
from infra.tweet_bodies import BODY_TTL_S, Body, TweetBodies, encode_body
from producers.relay import Relay, as_message
from producers.status_keeper import StatusKeeper
from streams.app import FanOutWork
from streams.deliver import Deliverer
from streams.fan_out import Chunk, Facts, FanOut
from streams.follower_index import FollowerIndex
from streams.node_calls import Placed
from tests.simulator.broker import Producer
from tests.simulator.copy_mutants import COPY_MUTANTS
from tests.simulator.mutant import Mutant

__all__ = ["MUTANTS", "Mutant"]


def _nothing(*_: object, **__: object) -> None:
    """Instead of a step."""


def _repeat_without_guard(
    engine: sa.Engine, timelines: Timelines, kind: Kind, users: Sequence[int], take: Take, *, must: bool
) -> None:
    """The snapshot is read before the token is put: what is delivered in between sticks nowhere."""
    snapshots = read_snapshots(engine, kind, sorted(users), timelines.live.timeline_entries)
    token = new_token()
    infra.rebuild._merge(timelines, kind, take(users, token), snapshots, token, must)


def _newest_of_author(deliverer: Deliverer, placed: Sequence[Placed]) -> list[Placed]:
    """Unmerges of the authors' newest tweets, whatever the lists hold."""
    length = deliverer._timelines.live.timeline_entries
    authors = [one.record.subject for one in placed]
    with deliverer._engine.connect() as connection:
        rows = connection.execute(streams.fan_out._NEWEST, {"ids": authors, "limit": length})
        newest: dict[int, list[int]] = dict(map(tuple, rows))
    return [
        replace(one, record=replace(one.record, ids=np.array(sorted(newest[one.record.subject]), dtype=np.uint64)))
        for one in placed
    ]


def _fill_over(bodies: TweetBodies, found: Sequence[Body], _: ShardMap) -> dict[int, Body]:
    """Over a tombstone, and without a second look at the database."""
    by_id = {body.id: body for body in found}
    for cluster in CLUSTERS:
        for name, part in bodies._clusters.shard_map.by_node(cluster, list(by_id)).items():
            bodies._clusters.node(name).commands(
                [("SET", redis_keys.body(one), encode_body(by_id[one]), "EX", BODY_TTL_S) for one in part]
            )
    return by_id


def _bury_by_removal(bodies: TweetBodies, ids: Sequence[int]) -> None:
    for cluster in CLUSTERS:
        for one in ids:
            bodies._clusters.node_for(cluster, one).command("DEL", redis_keys.body(one))


def _kept_index(work: FanOutWork, partition: int, generation: int) -> FanOut:
    held = work._held.setdefault(partition, (generation, FanOut(work.parts.engine)))
    return held[1]


def _begin_without(producer: Producer, claim: Claim | None = None) -> None:
    _begin(producer)
    _moved[producer] = claim


def _finish_and_move(producer: Producer, messages: Iterable[Message]) -> None:
    """The group moves all the same."""
    _finish(producer, messages)
    claim, broker = _moved.pop(producer), producer._broker
    if claim is not None:
        broker.committed |= {(ACTIVITY.name, partition): offset for partition, offset in claim.offsets.items()}
        broker.acknowledged()


_begin, _finish = Producer.begin, Producer.finish
_moved: dict[Producer, Claim | None] = {}


def _plan_then_change(fan_out: FanOut, events: Sequence[Activity], facts: Facts, length: int) -> list[Chunk]:
    """The index hears of a batch's follow events behind the batch."""
    index, changes = fan_out._index, list[dict[int, dict[int, bool]]]()
    with patch.object(index, "set_all_following", changes.append):
        chunks = _plan(fan_out, events, facts, length)
    for one in changes:
        index.set_all_following(one)
    return chunks


_plan = FanOut.plan
_planned_to_follower = streams.fan_out._to_follower


def _merged_alone(event: Activity, facts: Facts, length: int) -> Iterator[Chunk]:
    """Who follows again is not unmerged first."""
    for chunk in _planned_to_follower(event, facts, length):
        if chunk.kind is not DeliveryKind.UNMERGE or not facts.following.get((event.author_id, event.other_id)):
            yield chunk


_right_now = streams.verify._only


def _with_ids_of_then(record: Delivery, *given: Any) -> Delivery:
    return replace(_right_now(record, *given), ids=record.ids)


def _remove_first(relay: Relay, producer: Any) -> int:
    rows = relay._ownership.unsent()
    if rows:
        relay._remove([row.id for row in rows])
        producer.send(map(as_message, rows))
    return len(rows)


def _next_at_once(standing: Standing, followers: int, threshold: int) -> Standing | None:
    """From one side to the other, without `both` between."""
    way = next_standing(standing, followers, threshold)
    return way if way is None or way.status is not Status.BOTH else next_standing(way, followers, threshold)


MUTANTS = (
    Mutant(
        "fan-out stopped before readers know",
        "crossings",
        patches=[(producers.status_keeper, "next_standing", _next_at_once)],
    ),
    Mutant(
        "the first side given up before the second is complete",
        "crossings",
        patches=[(StatusKeeper, "_until", lambda *_: True)],
    ),
    Mutant(
        "append without a look at the tail",
        "anything",
        [("size = type(tail) == 'string' and id > tail and call(", "size = type(tail) == 'string' and call(")],
    ),
    Mutant(
        "append without a look at the marks",
        "anything",
        [("if is_home and id > mark and wanted <= PUSH_MAX then", "if is_home and wanted <= PUSH_MAX then")],
    ),
    Mutant("a rebuild raises no mark", "rebuilds", [("  raise_built_mark(key, values[#values])\n", "")]),
    Mutant("floor ignored", "posts", [("if floor and not is_token(floor) then", "if false then")]),
    Mutant(
        "floor not set by a trim",
        "anything",
        [
            (
                "redis.call('LTRIM', key, -(length + 1), -1)",
                "redis.call('LTRIM', key, -(length + 1), -1) redis.call('LSET', key, 0, '0')",
            )
        ],
    ),
    Mutant(
        "merge without the token check", "rebuilds", [("if head_of(key) == head_of_mine then", "if head_of(key) then")]
    ),
    Mutant("unguarded rebuild", "rebuilds", patches=[(infra.rebuild, "_repeat", _repeat_without_guard)]),
    Mutant(
        "unmerge that leaves the token",
        "rebuilds and follows",
        [
            ("if head and is_token(head) then redis.call('LSET', key, 0, TOKEN_OF_NOBODY) end", ""),
            (
                "for key in keys_of(page) do\n        if remove(",
                "for key in keys_of(page) do\n        if not is_token(head_of(key) or '0') and remove(",
            ),
        ],
    ),
    Mutant(
        "retract that leaves the token",
        "rebuilds",
        [("  if is_token(head) then redis.call('LSET', key, 0, TOKEN_OF_NOBODY) end\n  for", "  for")],
    ),
    Mutant(
        "unmerge from the author's newest instead of the list",
        "follows",
        patches=[(Deliverer, "_resolved", _newest_of_author)],
    ),
    Mutant(
        "merge that leaves the token",
        "a follow during a rebuild",
        [("  if is_token(head) then\n    redis.call('LSET', key, 0, TOKEN_OF_NOBODY)\n", "  if is_token(head) then\n")],
    ),
    Mutant(
        "who follows again keeps what was deleted meanwhile",
        "followers loaded between an unfollow and a follow",
        patches=[(streams.fan_out, "_to_follower", _merged_alone)],
    ),
    Mutant("merge that ignores its bound", "follows", [("local floor = higher(head, bound)", "local floor = head")]),
    Mutant("timelines that are short stay so", "rebuilds", patches=[(Deliverer, "_refill", _nothing)]),
    Mutant(
        "call numbers not checked",
        "late calls",
        [("if generation == had_generation and call <= had_call then", "if false then")],
    ),
    Mutant("generations not checked", "workers", [("if generation < had_generation then", "if false then")]),
    Mutant(
        "a late write-through puts a retracted tweet back",
        "late calls",
        [("if age_ms(ids[at]) < OWN_LATE_MS and redis.call('EXISTS', RETRACTED .. ids[at]) == 0 then", "do")],
    ),
    Mutant(
        "body put back after a delete",
        "readers",
        patches=[(TweetBodies, "_fill", _fill_over)],
    ),
    Mutant("no tombstone after a delete", "readers", patches=[(TweetBodies, "bury", _bury_by_removal)]),
    Mutant(
        "index kept over a revoke",
        "workers",
        patches=[(FanOutWork, "_fan_out", _kept_index), (FanOutWork, "_start_anew", _nothing)],
    ),
    Mutant("index not changed by follow events", "follows", patches=[(FollowerIndex, "set_all_following", _nothing)]),
    Mutant("index changed behind a batch and not before it", "anything", patches=[(FanOut, "plan", _plan_then_change)]),
    Mutant(
        "fan-out without a claim",
        "workers",
        patches=[(Producer, "begin", _begin_without), (Producer, "finish", _finish_and_move)],
    ),
    Mutant("fan-out does not wait for the last owner", "workers", patches=[(FanOutWork, "_settle", _nothing)]),
    Mutant("relay removes before it sends", "workers", patches=[(Relay, "step", _remove_first)]),
    Mutant("retweets of a deleted tweet stay", "anything", patches=[(streams.fan_out, "_delete_retweets", _nothing)]),
    Mutant("verify ignored", "replays", patches=[(streams.deliver, "verified", lambda _, placed, __: list(placed))]),
    Mutant(
        "an unmerge that comes again takes what is live",
        "replays",
        patches=[(streams.deliver, "read_kept", lambda *_: set())],
    ),
    Mutant(
        "a merge that comes again brings what it brought then",
        "replays",
        patches=[(streams.verify, "_only", _with_ids_of_then)],
    ),
    *COPY_MUTANTS,
)
