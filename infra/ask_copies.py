"""A reader's question to the copies of some ids: spread over them, hedged, and passed on at once when a node fails.

Each id's copies are asked in an order of its own. The next one is asked when a node fails, when it has not answered in
the time that is usual, or lacks what was asked for. The first answer counts; a late one is set aside. Writes nothing,
so a call may run twice. Next: timeline_windows.py, tweet_bodies.py.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from infra import metrics
from infra.errors import FanfoldError, RedisUnavailable
from infra.redis_clusters import RedisClusters
from infra.redis_node import Argument, Reply
from infra.shard_map import CLUSTERS, ShardMap
from infra.slots import slot_of

ANSWER_WITHIN_S = 1.0  # of each copy: a bounded call takes some ms, and on a busy machine can wait for some hundred
CLOSED_WITHIN_S = 0.2  # what fails sooner is no time-out
NEVER_S = float("inf")

# Why a copy is asked, as the metric has it.
FIRST, HEDGE, FAILOVER, LACKING = metrics.READ_HOWS
_COUNTED = {
    (cluster, how): metrics.READ_CALLS.labels(cluster, how) for cluster in CLUSTERS for how in metrics.READ_HOWS
}


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked: `command` for some ids, whose answer `take` is given with them and the node's name; it returns
    those that this copy lacks and another one may have."""

    kind: str  # of hedging.KINDS
    command: Callable[[Sequence[int]], Sequence[Argument]]
    take: Callable[[str, Sequence[int], Any], Sequence[int]]


@dataclass(slots=True)
class Call:
    """One under way. After `hedge_at_s` its ids are asked of the next copies as well."""

    reply: Reply
    name: str  # of the node
    ids: Sequence[int]
    how: str
    sent_s: float
    hedge_at_s: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """The ids of which no copy answered, and the last failure."""

    unanswered: set[int]
    failure: RedisUnavailable | None


ALL_ANSWERED = Outcome(set(), None)


class Orders:
    """In which order the clusters whose copies may be read are asked: one order for all ids, or one for each slot."""

    def __init__(self, shard_map: ShardMap, of_all: Sequence[str], by_slot: Mapping[int, Sequence[str]]) -> None:
        self.shard_map = shard_map
        self._of_all = of_all
        self._by_slot = by_slot

    def of(self, one: int) -> Sequence[str]:
        """An id's order."""
        return self._of_all or self._by_slot[slot_of(one)]

    def first(self, ids: Sequence[int]) -> dict[str, list[int]]:
        """The node that is asked first, and for which ids. An id without a copy that may be read is left out."""
        if self._of_all:
            return self.shard_map.by_node(self._of_all[0], ids)
        parts: dict[str, list[int]] = {}
        for one in ids:
            slot = slot_of(one)
            if order := self._by_slot[slot]:
                parts.setdefault(self.shard_map.node_of(order[0], slot), []).append(one)
        return parts


def spread(shard_map: ShardMap, ids: Sequence[int]) -> Orders:
    """Orders for readers who know the states of all copies: serving ones first, and the load over all of them."""
    if shard_map.copies.all_serving:
        return Orders(shard_map, shard_map.in_order(0), {})  # one for all spreads well enough
    return Orders(shard_map, (), {slot: shard_map.in_order(slot) for slot in set(map(slot_of, ids))})


def ask_copies(clusters: RedisClusters, orders: Orders, ids: Sequence[int], question: Question) -> Outcome:
    """Asks for each id one copy after the other until one has it. What a node refuses for good is raised."""
    began_s = time.monotonic()
    outcome = _Asking(clusters, orders, question).run(ids)
    if outcome.failure is None or not outcome.unanswered or time.monotonic() - began_s >= CLOSED_WITHIN_S:
        return outcome
    # All connections may have been closed when the nodes were emptied; a reading call can be made again.
    return _Asking(clusters, orders, question).run(sorted(outcome.unanswered))


class _Asking:
    """One question on its way. `_open` are the ids that nobody has given yet and somebody may have, `_silent` those for
    which no copy has answered, `_left` has the clusters that are not asked yet."""

    def __init__(self, clusters: RedisClusters, orders: Orders, question: Question) -> None:
        self._clusters = clusters
        self._hedging = clusters.hedging
        self._delay = clusters.hedging.delays[question.kind]
        self._node_of = orders.shard_map.node_of
        self._orders = orders
        self._question = question
        self._failure: RedisUnavailable | None = None
        self._calls: list[Call] = []
        self._open: set[int] = set()
        self._silent: set[int] = set()
        self._left: dict[int, Sequence[str]] = {}

    def run(self, ids: Sequence[int]) -> Outcome:
        """To its end."""
        try:
            if self._is_answered_as_usual(ids):
                return ALL_ANSWERED
            while self._open and self._calls:
                self._wait()
            return Outcome(self._silent, self._failure)
        finally:
            for call in self._calls:
                self._delay.note(time.monotonic() - call.sent_s)
                call.reply.leave()

    def _is_answered_as_usual(self, ids: Sequence[int]) -> bool:
        """Whether the first copies have everything and answer in time: nearly always, so this is kept short. If not,
        all is set for the rest."""
        parts = self._orders.first(ids)
        if not all(map(self._clusters.is_prompt, parts)):
            self._open, self._silent = set(ids), set(ids)
            self._left = {one: self._orders.of(one) for one in ids}
            self._ask(ids, FIRST)
            return False
        failed = self._send(parts, FIRST)
        self._silent = set(ids)
        for call in () if failed else tuple(self._calls):
            answer = self._answer(call, call.hedge_at_s - time.monotonic())
            if answer is None or isinstance(answer, FanfoldError):
                self._open = set(self._silent)
                self._settle(call, answer)
                return False
            lacking = self._taken(call, answer)
            self._silent.difference_update(call.ids)
            if lacking:
                self._open = self._silent.union(lacking)
                self._pass_on(lacking, LACKING)
                return False
        self._open = set(self._silent)
        self._pass_on(failed, FAILOVER)
        return not self._silent

    def _wait(self) -> None:
        """For an answer, a hedge that is due, or a time-out."""
        calls, now_s = self._calls, time.monotonic()
        due_s = min([min(call.hedge_at_s, call.sent_s + ANSWER_WITHIN_S) for call in calls])
        ready = self._clusters.wait_for_any([call.reply for call in calls], max(due_s - now_s, 0.0))
        if ready:
            for call in [call for call in calls if call.reply in ready]:
                self._receive(call)
            return
        now_s = time.monotonic()
        for call in list(calls):
            if now_s >= call.sent_s + ANSWER_WITHIN_S:
                call.reply.leave()
                self._fail(call, RedisUnavailable(f"Redis node {call.name} has not answered in {ANSWER_WITHIN_S:g} s"))
            elif now_s >= call.hedge_at_s:
                call.hedge_at_s = NEVER_S
                self._hedge(call)

    def _receive(self, call: Call) -> None:
        """What has come for one call."""
        self._settle(call, self._answer(call, 0.0))

    def _settle(self, call: Call, answer: Any) -> None:
        if answer is None:
            return  # not all of it has come
        if isinstance(answer, RedisUnavailable):
            self._fail(call, answer)
            return
        if call.how == HEDGE and any(call.ids[0] in other.ids for other in self._calls if other is not call):
            metrics.HEDGES_WON.inc()
        lacking = self._taken(call, answer)
        self._silent.difference_update(call.ids)
        self._open.difference_update(set(call.ids).difference(lacking))
        self._pass_on(lacking, LACKING)

    def _answer(self, call: Call, within_s: float) -> Any:
        """The answer, None when not all of it is there, or the failure that it is."""
        try:
            answers = call.reply.poll(within_s)
        except RedisUnavailable as error:
            return error
        return None if answers is None else answers[0]

    def _taken(self, call: Call, answer: Any) -> Sequence[int]:
        """Gives an answer to who asked. Returns what the copy lacks."""
        self._calls.remove(call)
        if isinstance(answer, FanfoldError):
            raise answer
        self._delay.note(time.monotonic() - call.sent_s)
        return self._question.take(call.name, call.ids, answer)

    def _fail(self, call: Call, error: RedisUnavailable) -> None:
        self._failure = error
        self._calls.remove(call)
        self._pass_on(call.ids, FAILOVER)

    def _hedge(self, call: Call) -> None:
        """Asks the next copies as well, if some are prompt and the budget allows for it."""
        wanted = [one for one in call.ids if one in self._open and self._choose(one, HEDGE)]
        if wanted and self._hedging.budget.spend():
            self._ask(wanted, HEDGE)

    def _pass_on(self, ids: Sequence[int], how: str) -> None:
        """Asks the next copies, of what is still open and not under way to another one."""
        if ids:
            under_way = self._under_way()
            self._ask([one for one in ids if one in self._open and one not in under_way], how)

    def _under_way(self) -> set[int]:
        return set[int]().union(*(call.ids for call in self._calls))

    def _ask(self, ids: Sequence[int], how: str) -> None:
        """Sends one call a node; what no copy is left for is open no more."""
        while ids:
            parts: dict[str, list[int]] = {}
            for one in ids:
                if cluster := self._choose(one, how):
                    self._left[one] = [other for other in self._clusters_left(one) if other != cluster]
                    parts.setdefault(self._node_of(cluster, slot_of(one)), []).append(one)
                elif how is not HEDGE:
                    self._open.discard(one)
            ids = self._send(parts, how)
            if how is HEDGE:
                return  # the call that was to be hedged is still under way

    def _send(self, parts: Mapping[str, Sequence[int]], how: str) -> list[int]:
        """Returns the ids whose node cannot be reached."""
        failed: list[int] = []
        for name, part in parts.items():
            _COUNTED[name[0], how].inc()
            self._hedging.budget.earn()
            try:
                reply = self._clusters.start(name, [self._question.command(part)])
            except RedisUnavailable as error:
                self._failure = error
                failed += part
            else:
                now_s = time.monotonic()
                self._calls.append(Call(reply, name, part, how, now_s, now_s + self._delay.seconds))
        return failed

    def _choose(self, one: int, how: str) -> str | None:
        """The cluster that is asked next: one whose node is prompt if there is one. What another copy has said to lack
        waits for no other node, and neither does a hedge."""
        left, slot = self._clusters_left(one), slot_of(one)
        for cluster in left:
            if self._clusters.is_prompt(self._node_of(cluster, slot)):
                return cluster
        return left[0] if left and how is not HEDGE and one in self._silent else None

    def _clusters_left(self, one: int) -> Sequence[str]:
        left = self._left.get(one)
        return self._orders.of(one)[1:] if left is None else left
