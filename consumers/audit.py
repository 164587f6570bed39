"""audit: every active user's home timeline in every cluster, compared with the database, entry by entry (G3).

Input: tables and the three clusters. Output: an `AuditResult`. What differs is looked at again with fresh reads before
it counts, since the system may be live. applied.py waits before it. Next: audit_truth.py, audit_compare.py.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial

import sqlalchemy as sa

from consumers.audit_compare import Expected, agrees, compare, limit_for, state_of, text_of
from consumers.audit_pauses import DUMP_USERS, LOOK_AGAIN_AFTER_S, Pauses
from consumers.audit_report import (
    DIFFERENCES_SAID_MAX,
    AuditResult,
    Counts,
    Difference,
    Findings,
    State,
    TweetFacts,
    counts_of,
    differences_of,
    in_words,
)
from consumers.audit_truth import (
    active_batches,
    count_active,
    read_expected,
    read_facts,
    read_floors,
    sample_active,
)
from infra.copies import CopyState
from infra.shard_map import CLUSTERS
from infra.slots import slot_of
from infra.timelines import Kind, Timelines

BATCH_USERS = 1_000  # full timelines of a batch are 17 MB of text for the database and each cluster
BATCHES_AHEAD = 2  # read while one is compared: three batches in memory at most

Progress = Callable[[int, int], None]  # users done, users in all
Pause = Callable[[float], None]


def audit(
    engine: sa.Engine,
    timelines: Timelines,
    *,
    sample: int | None = None,
    complete: bool = False,
    progress: Progress | None = None,
    pause: Pause = time.sleep,
) -> AuditResult:
    """Compares all active users' home timelines, or those of `sample` random ones, in every cluster.

    `complete` makes a timeline that is absent in a serving copy a failure. Raises `DatabaseUnavailable`, and
    `RedisUnavailable` when a node does not answer again and again.
    """
    batches: Iterable[list[int]]
    if sample is None:
        in_all, batches = count_active(engine), active_batches(engine, BATCH_USERS)
    else:
        drawn = sample_active(engine, sample)
        in_all, batches = len(drawn), (drawn[at : at + BATCH_USERS] for at in range(0, len(drawn), BATCH_USERS))
    auditor = _Auditor(engine, timelines, complete, Pauses(pause))
    for first_look in auditor.first_looks(batches):
        auditor.judge(first_look)
        if progress:
            progress(auditor.users, max(in_all, auditor.users))
    return auditor.result()


@dataclass(frozen=True, slots=True)
class _FirstLook:
    """Reads of one batch that are under way at the same time."""

    users: Sequence[int]
    length: int
    expected: "Future[dict[int, Expected]]"
    copies: "Mapping[str, Future[dict[int, bytes]]]"


@dataclass(slots=True)
class _Auditor:
    """The running counts of one audit."""

    engine: sa.Engine
    timelines: Timelines
    complete: bool
    pauses: Pauses
    users: int = 0
    counts: dict[str, Counts] = field(default_factory=lambda: dict.fromkeys(CLUSTERS, Counts()))
    differences: list[Difference] = field(default_factory=list)

    def first_looks(self, batches: Iterable[list[int]]) -> Iterator[_FirstLook]:
        """Starts the reads of some batches ahead of the one that is handed out."""
        ahead: deque[_FirstLook] = deque()
        for users in batches:
            ahead.append(self._start(users))
            if len(ahead) > BATCHES_AHEAD:
                yield ahead.popleft()
        yield from ahead

    def judge(self, look: _FirstLook) -> None:
        """Counts what agrees at once, and looks again at the users for whom something does not."""
        expected = look.expected.result()
        copies = {cluster: copy.result() for cluster, copy in look.copies.items()}
        suspects = []
        for user_id in look.users:
            texts = {cluster: copy[user_id] for cluster, copy in copies.items()}
            if all(self._settled_at_once(one, user_id, text, expected[user_id]) for one, text in texts.items()):
                for cluster, text in texts.items():
                    if state_of(text) is State.PRESENT:
                        self._count(cluster, Counts(1, text.count(b" ")))
                    else:
                        self._count_absent(cluster, user_id, Counts(absent=1))
            else:
                suspects.append(user_id)
        self._judge_closely(suspects)
        self.users += len(look.users)

    def result(self) -> AuditResult:
        """What was found so far."""
        sentences = tuple(in_words(one, self._facts(one)) for one in self.differences)
        return AuditResult(self.users, self.counts, sentences, self.complete)

    def _start(self, users: Sequence[int]) -> _FirstLook:
        submit, length = self.timelines.clusters.submit, self.timelines.live.timeline_entries
        expected = submit(partial(read_expected, self.engine, users, limit_for(length)))
        copies = {cluster: submit(partial(self._texts, cluster, users)) for cluster in CLUSTERS}
        return _FirstLook(users, length, expected, copies)

    def _texts(self, cluster: str, users: Sequence[int]) -> dict[int, bytes]:
        return {user_id: text_of(listed) for user_id, listed in self._lists(cluster, users)}

    def _lists(self, cluster: str, users: Sequence[int]) -> Iterator[tuple[int, list[bytes]]]:
        for at in range(0, len(users), DUMP_USERS):
            dump = partial(self.timelines.dump, cluster, Kind.HOME, users[at : at + DUMP_USERS])
            yield from self.pauses.answered(dump).items()

    def _settled_at_once(self, cluster: str, user_id: int, text: bytes, expected: Expected) -> bool:
        state = state_of(text)
        if state is State.PRESENT:
            return agrees(text, expected, self.timelines.live.timeline_entries)
        return state is State.ABSENT and not self._must_be_there(cluster, user_id)

    def _must_be_there(self, cluster: str, user_id: int) -> bool:
        return self.complete and self._is_serving(cluster, user_id)

    def _is_serving(self, cluster: str, user_id: int) -> bool:
        return self.timelines.clusters.shard_map.copies.of(cluster, slot_of(user_id)) is CopyState.SERVING

    def _judge_closely(self, users: Sequence[int]) -> None:
        """Several looks with time between them; a difference counts when every look found it."""
        found: dict[int, dict[str, Findings]] = {}
        left = users
        for pause_s in LOOK_AGAIN_AFTER_S:
            if not left:
                break
            if pause_s:
                self.pauses.take(pause_s)
            for user_id, copies in self._look_closely(left).items():
                earlier = found.get(user_id, copies)
                found[user_id] = {cluster: copy.as_in(earlier[cluster]) for cluster, copy in copies.items()}
            left = [one for one in left if any(self._is_open(where, one, copy) for where, copy in found[one].items())]
        for user_id, copies in found.items():
            for cluster, copy in copies.items():
                if copy.state is State.ABSENT:
                    self._count_absent(cluster, user_id, counts_of(copy))
                else:
                    self._count(cluster, counts_of(copy))
                self._note(differences_of(user_id, cluster, copy, self._must_be_there(cluster, user_id)))

    def _look_closely(self, users: Sequence[int]) -> dict[int, dict[str, Findings]]:
        """One look at every entry, with fresh reads: the lists, then what the database expects of them."""
        found: dict[int, dict[str, Findings]] = {}
        for at in range(0, len(users), DUMP_USERS):
            part, length = users[at : at + DUMP_USERS], self.timelines.live.timeline_entries
            lists = {cluster: dict(self._lists(cluster, part)) for cluster in CLUSTERS}
            longest = max(len(listed) for copy in lists.values() for listed in copy.values())
            expected = read_expected(self.engine, part, max(limit_for(length), longest + 1))
            short = {one for copy in lists.values() for one, listed in copy.items() if _is_short(listed, length)}
            floors = read_floors(self.engine, sorted(short), length)
            for one in part:
                found[one] = {
                    cluster: compare(copy[one], expected[one], length, floors.get(one, 0))
                    for cluster, copy in lists.items()
                }
        return found

    def _is_open(self, cluster: str, user_id: int, findings: Findings) -> bool:
        """Whether another look may see something better."""
        if findings.state is State.PRESENT:
            return findings.differs
        return findings.state is State.REBUILDING or self._must_be_there(cluster, user_id)

    def _count_absent(self, cluster: str, user_id: int, counts: Counts) -> None:
        """What a copy lacks that is filling or down is no wonder, and is not counted."""
        if self._is_serving(cluster, user_id):
            self._count(cluster, counts)

    def _count(self, cluster: str, counts: Counts) -> None:
        self.counts[cluster] += counts

    def _note(self, differences: Sequence[Difference]) -> None:
        self.differences += differences[: DIFFERENCES_SAID_MAX - len(self.differences)]

    def _facts(self, difference: Difference) -> TweetFacts | None:
        tweet = difference.tweet
        return read_facts(self.engine, difference.user_id, int(tweet)) if tweet.isdigit() else None


def _is_short(listed: Sequence[bytes], length: int) -> bool:
    """Whether a floor may stand above the newest `length` entries."""
    return 0 < len(listed) <= length and listed[0] != b"0"
