"""Replays as jobs in ZooKeeper: what each sends, how far it is, and in which state. One znode each, below one folder.

Who creates one, or changes its state, compares and sets; who runs it writes how far it is while it holds the job's
lease, so of two runners only one can. The folder's own bytes are the number of the last job: of two that are created at
the same time the second one sees the first. Next: replay.py runs one.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any

from infra.errors import Conflict, NotFound, Undecodable
from infra.lease import Lease
from infra.replay_pace import TARGET_S
from infra.replay_what import What, decode_what
from infra.znodes import UNREADABLE, Change, Create, Remove, Replace
from infra.zookeeper import REPLAYS_PATH, ZooKeeper

KEPT_MAX = 100  # jobs that are over; the oldest go when one is created
TRIES_MAX = 100  # of a change that others are ahead of each time


class State(StrEnum):
    """Where a job stands, and what may come next."""

    RUNNING = "running"  # somebody runs it, or takes it over
    PAUSED = "paused"
    DONE = "done"
    CANCELLED = "cancelled"
    FAILED = "failed"

    @property
    def is_open(self) -> bool:
        """Whether it may still send something."""
        return bool(NEXT[self])

    def check_next(self, wanted: "State", job: int) -> None:
        """Raises `Conflict` for a step that there is not."""
        if wanted not in NEXT[self]:
            may = " or ".join(sorted(NEXT[self])) or "nothing else any more"
            raise Conflict(f"replay {job} is {self.value} and cannot become {wanted.value}: it may become {may}")


NEXT: Mapping[State, frozenset[State]] = {
    State.RUNNING: frozenset({State.PAUSED, State.DONE, State.CANCELLED, State.FAILED}),
    State.PAUSED: frozenset({State.RUNNING, State.CANCELLED}),
    State.FAILED: frozenset({State.RUNNING, State.CANCELLED}),
    State.DONE: frozenset(),
    State.CANCELLED: frozenset(),
}


@dataclass(frozen=True, slots=True)
class Plan:
    """What of the sources a job reads, fixed when it is created: ids of tweets above the first and below the second,
    and of each partition of the activity log the first offset, and the one where it ends. Read in this order."""

    ids: tuple[int, int] = (0, 0)
    offsets: Mapping[int, tuple[int, int]] = field(default_factory=dict)

    def start(self) -> "Position":
        """Where a job begins."""
        return Position(self.ids[0], {partition: first for partition, (first, _) in self.offsets.items()})


@dataclass(frozen=True, slots=True)
class Position:
    """What is done: tweets up to this id, and of each partition what is before this offset."""

    after_id: int = 0
    offsets: Mapping[int, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Counts:
    """What a job has done so far, over all who ran it. `looked`: rows and messages; `sent`: events; `unreadable`:
    messages of the log that nobody can read."""

    looked: int = 0
    sent: int = 0
    unreadable: int = 0

    def plus(self, other: "Counts") -> "Counts":
        """Both together."""
        return Counts(self.looked + other.looked, self.sent + other.sent, self.unreadable + other.unreadable)


@dataclass(frozen=True, slots=True)
class Job:
    """One replay. `total` is about how many rows and messages there are to look at; `rate` is in events a second;
    for about `live_wait_s` live tweets may wait behind what it has sent."""

    id: int
    what: What
    plan: Plan
    rate: int
    total: int
    created_ms: int
    changed_ms: int
    state: State = State.RUNNING
    reason: str = ""
    position: Position = field(default_factory=Position)
    counts: Counts = field(default_factory=Counts)
    live_wait_s: float = TARGET_S

    def encode(self) -> bytes:
        """The znode's bytes, and what `--json` shows."""
        return json.dumps(self.as_json(), sort_keys=True).encode()

    def as_json(self) -> dict[str, Any]:
        """Ids are strings."""
        return {
            "id": self.id,
            "what": self.what.encode(),
            "plan": {
                "ids": [str(one) for one in self.plan.ids],
                "offsets": {str(partition): list(range_) for partition, range_ in sorted(self.plan.offsets.items())},
            },
            "rate": self.rate,
            "live_wait_s": self.live_wait_s,
            "total": self.total,
            "created_ms": self.created_ms,
            "changed_ms": self.changed_ms,
            "state": self.state.value,
            "reason": self.reason,
            "position": {
                "after_id": str(self.position.after_id),
                "offsets": {str(partition): offset for partition, offset in sorted(self.position.offsets.items())},
            },
            "counts": asdict(self.counts),
        }


def decode_job(data: bytes) -> Job:
    """Raises `Undecodable`."""
    try:
        value = json.loads(data)
        first, last = map(int, value["plan"]["ids"])
        offsets = {int(one): (int(a), int(b)) for one, (a, b) in value["plan"]["offsets"].items()}
        at = value["position"]
        return Job(
            int(value["id"]),
            decode_what(value["what"]),
            Plan((first, last), offsets),
            int(value["rate"]),
            int(value["total"]),
            int(value["created_ms"]),
            int(value["changed_ms"]),
            State(value["state"]),
            str(value["reason"]),
            Position(int(at["after_id"]), {int(one): int(offset) for one, offset in at["offsets"].items()}),
            Counts(**{name: int(count) for name, count in value["counts"].items()}),
            float(value.get("live_wait_s", TARGET_S)),
        )
    except UNREADABLE as error:
        raise Undecodable(f"a replay's znode cannot be read: {data[:60]!r}") from error


class Jobs:
    """All replays of a deployment. Raises `ZooKeeperUnavailable`."""

    def __init__(self, zookeeper: ZooKeeper) -> None:
        self._zookeeper = zookeeper

    def create(self, what: What, plan: Plan, rate: int, total: int, live_wait_s: float = TARGET_S) -> Job:
        """A new one, `running`. Raises `Conflict` when an open one sends the same."""
        self._zookeeper.create(REPLAYS_PATH, b"0")
        for _ in range(TRIES_MAX):
            found = self._zookeeper.read(REPLAYS_PATH)
            last, version = (int(found[0]), found[1]) if found else (0, 0)
            others = self.all()
            for other in others:
                if other.state.is_open and _same(other.what, what):
                    raise Conflict(
                        f"replay {other.id} sends the same and is {other.state.value}: `fanfold replay show {other.id}`"
                    )
            now_ms = _now_ms()
            job = Job(last + 1, what, plan, rate, total, now_ms, now_ms, position=plan.start(), live_wait_s=live_wait_s)
            over = [Remove(_path(one.id)) for one in others if not one.state.is_open][:-KEPT_MAX]
            changes: list[Change] = [
                Replace(REPLAYS_PATH, b"%d" % job.id, version),
                Create(_path(job.id), job.encode()),
                *over,
            ]
            if self._zookeeper.write_together(changes):
                return job
        raise Conflict(f"others created replays {TRIES_MAX} times meanwhile: try again")

    def all(self) -> list[Job]:
        """By number; one that cannot be read is left out, and `get` says why."""
        jobs = []
        for name in self._zookeeper.children(REPLAYS_PATH):
            found = self._zookeeper.read(f"{REPLAYS_PATH}/{name}")
            try:
                jobs += [decode_job(found[0])] if found else []
            except Undecodable:
                continue
        return sorted(jobs, key=lambda job: job.id)

    def get(self, job_id: int) -> Job:
        """One of them. Raises `NotFound`."""
        return self._read(job_id)[0]

    def change(self, job_id: int, wanted: State) -> Job:
        """Another state, unless it has it already. Raises `NotFound`, and `Conflict` for a step that there is not."""
        for _ in range(TRIES_MAX):
            job, version = self._read(job_id)
            if job.state is wanted:
                return job
            job.state.check_next(wanted, job_id)
            changed = replace(job, state=wanted, reason="", changed_ms=_now_ms())
            if self._zookeeper.compare_and_set(_path(job_id), changed.encode(), version):
                return changed
        raise Conflict(f"others changed replay {job_id} {TRIES_MAX} times meanwhile: try again")

    def record(self, job_id: int, held: Lease, position: Position, counts: Counts, state: State, reason: str) -> Job:
        """How far its runner is, by whom alone it is written; and a state, unless somebody has stopped the job by now.
        Raises `LeaseLost` when the lease is gone."""
        while True:
            job, version = self._read(job_id)
            stays = job.state is not State.RUNNING
            changed = replace(
                job,
                position=position,
                counts=counts,
                changed_ms=_now_ms(),
                state=job.state if stays else state,
                reason=job.reason if stays else reason,
            )
            if self._zookeeper.write_together([Replace(_path(job_id), changed.encode(), version)], holding=held):
                return changed
            held.check()

    def _read(self, job_id: int) -> tuple[Job, int]:
        found = self._zookeeper.read(_path(job_id))
        if found is None:
            raise NotFound(f"there is no replay {job_id}: `fanfold replay list` shows those that there are")
        return decode_job(found[0]), found[1]


def lease_of(job_id: int) -> str:
    """The name of the lease that whoever runs a job holds."""
    return f"replay-{job_id}"


def _same(one: What, other: What) -> bool:
    """Whatever the source: into one place the same events."""
    return replace(one, source=other.source) == other


def _path(job_id: int) -> str:
    return f"{REPLAYS_PATH}/{job_id:010d}"


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
