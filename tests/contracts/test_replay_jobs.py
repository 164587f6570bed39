"""Replays as jobs in a real ZooKeeper: one at a time of the same, states, and who may write how far one is."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from infra.errors import Conflict, LeaseLost, NotFound
from infra.leases import lease
from infra.replay_jobs import KEPT_MAX, Counts, Jobs, Plan, Position, State, lease_of
from infra.replay_what import Source, What
from infra.zookeeper import ZooKeeper
from tests.replaying import RATE

WHAT = What(Source.DATABASE, topic="nowhere")


def test_of_two_replays_of_the_same_at_once_one_is_refused_and_after_it_is_over_it_may_come_again(jobs: Jobs) -> None:
    def create() -> str:
        try:
            return f"replay {jobs.create(WHAT, Plan(), RATE, 0).id}"
        except Conflict as error:
            return str(error)

    with ThreadPoolExecutor(4) as threads:
        said = sorted(one.result() for one in [threads.submit(create) for _ in range(4)])

    assert said == ["replay 1", *["replay 1 sends the same and is running: `fanfold replay show 1`"] * 3]
    with pytest.raises(Conflict, match="replay 1 sends the same"):
        jobs.create(replace(WHAT, source=Source.AUTO), Plan(), RATE, 0)
    assert jobs.create(replace(WHAT, authors=(5,)), Plan(), RATE, 0).id == 2
    jobs.change(1, State.CANCELLED)
    assert jobs.create(WHAT, Plan(), RATE, 0).id == 3


def test_jobs_that_are_over_are_kept_in_bounded_number(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infra.replay_jobs.KEPT_MAX", 2)
    assert KEPT_MAX == 100
    still = jobs.create(replace(WHAT, topic="open"), Plan(), RATE, 0)
    for _ in range(4):
        jobs.change(jobs.create(WHAT, Plan(), RATE, 0).id, State.CANCELLED)
    jobs.create(WHAT, Plan(), RATE, 0)

    assert [job.id for job in jobs.all()] == [still.id, 4, 5, 6]


def test_states_change_as_they_may_and_who_is_asked_again_has_it_already(jobs: Jobs) -> None:
    job = jobs.create(WHAT, Plan(), RATE, 0)

    assert jobs.change(job.id, State.PAUSED).state is State.PAUSED
    assert jobs.change(job.id, State.PAUSED).state is State.PAUSED
    assert jobs.change(job.id, State.RUNNING).state is State.RUNNING
    jobs.change(job.id, State.CANCELLED)
    with pytest.raises(Conflict, match="replay 1 is cancelled and cannot become running"):
        jobs.change(job.id, State.RUNNING)
    with pytest.raises(NotFound, match="there is no replay 99"):
        jobs.get(99)


def test_only_who_holds_the_lease_writes_and_a_pause_in_between_stays(jobs: Jobs, zookeeper: ZooKeeper) -> None:
    job, at = jobs.create(WHAT, Plan(), RATE, 0), Position(7, {1: 2})
    with lease(zookeeper, lease_of(job.id)) as held:
        jobs.change(job.id, State.PAUSED)
        noted = jobs.record(job.id, held, at, Counts(1, 1), State.RUNNING, "")
        assert (noted.state, noted.position, noted.counts) == (State.PAUSED, at, Counts(1, 1))
    with pytest.raises(LeaseLost):
        jobs.record(job.id, held, Position(), Counts(), State.DONE, "")
    assert jobs.get(job.id) == noted
