"""Runs of replays on real servers: one at a time, stopped, killed anywhere and taken over, and nothing is missing."""

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from infra import replay as module
from infra.errors import FanfoldError, KafkaUnavailable
from infra.kafka import Claim, Message, Place, TransactionalProducer
from infra.leases import lease
from infra.replay_jobs import Counts, Plan, Position, State, lease_of
from infra.replay_keeper import ALONE_LOOKS, Keeper, keeping_replays
from infra.replay_pace import Pace
from infra.replay_sources import Item
from infra.replay_what import Source, What
from producers.publish import NewTweet, Publisher, need_all
from tests.replaying import RATE, Ground
from tests.waiting import wait_until

MakeUsers = Callable[[int], list[int]]


@pytest.fixture
def many(publisher: Publisher, make_users: MakeUsers) -> list[int]:
    """Tweets of one author, more than a page or a share."""
    [author] = make_users(1)
    return [one.id for one in need_all(publisher.post_many([NewTweet(author, f"{n}") for n in range(300)]))]


class Dying(TransactionalProducer):
    """A producer whose process is killed after some transactions: before the job's place was noted."""

    lives = 3

    def send(self, messages: Iterable[Message], claim: Claim | None = None) -> dict[Place, int]:
        behind = super().send(messages, claim)
        Dying.lives -= 1
        if Dying.lives == 0:
            raise SystemExit
        return behind


def test_a_replay_whose_runner_dies_anywhere_is_taken_over_and_nothing_is_missing(
    ground: Ground, many: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infra.replay_sources.PAGE_ROWS", 40)
    monkeypatch.setattr(Dying, "lives", 3)
    what = What(Source.DATABASE, topic=ground.topic())
    job = ground.create(what)
    with monkeypatch.context() as patched:
        patched.setattr(module, "TransactionalProducer", Dying)
        patched.setattr(module, "RECORD_S", 0.0)
        with pytest.raises(SystemExit):
            ground.run(job)
    left = ground.jobs.get(job.id)
    assert (left.state, left.counts.sent) == (State.RUNNING, 80)

    with keeping_replays(ground.stores, ground.bootstrap):
        wait_until(lambda: ground.jobs.get(job.id).state is State.DONE, "the take-over", 15.0)

    sent = [event.other_id for event, _ in ground.read(what.topic or "")]
    assert sent == [*many[:120], *many[80:]]


def test_live_tweets_wait_behind_a_replay_for_as_long_as_its_job_says(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Begun(Exception):
        pass

    def window(_: object, target_s: float) -> None:
        raise Begun(f"with {target_s}")

    monkeypatch.setattr(module, "Window", window)
    job = ground.jobs.create(What(Source.DATABASE), Plan(), 1, 0, live_wait_s=3.5)
    with pytest.raises(Begun, match=r"with 3\.5"):
        ground.run(ground.jobs.get(job.id))


def test_a_replay_that_somebody_runs_or_has_paused_is_left_alone(ground: Ground, many: list[int]) -> None:
    what = What(Source.DATABASE, topic=ground.topic())
    job, paused = ground.create(what), ground.create(replace(what, authors=(), until_ms=1_700_000_000_000))
    ground.jobs.change(paused.id, State.PAUSED)
    keeper = Keeper(ground.stores, ground.bootstrap, threading.Event())
    with lease(ground.stores.zookeeper, lease_of(job.id)):
        assert [keeper.left_alone() for _ in range(2 * ALONE_LOOKS)] == [[]] * 2 * ALONE_LOOKS
    assert [keeper.left_alone() for _ in range(ALONE_LOOKS)][-1] == [job], "once nobody runs it"
    assert ground.jobs.get(paused.id).state is State.PAUSED


@pytest.mark.parametrize("wanted", [State.PAUSED, State.CANCELLED])
def test_a_replay_that_is_stopped_ends_soon_and_keeps_its_place(
    wanted: State, ground: Ground, many: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RECORD_S", 0.05)
    what = What(Source.DATABASE, topic=ground.topic())
    plan = ground.plan(what)
    job = ground.jobs.create(what, plan, 50, 300)
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(ground.run, job)
        wait_until(lambda: ground.jobs.get(job.id).counts.sent > 0, "the first events", 10.0)
        ground.jobs.change(job.id, wanted)
        ended = running.result(10.0)

    assert ended.state is wanted
    assert 0 < ended.counts.sent < len(many)
    assert [event.other_id for event, _ in ground.read(what.topic or "")] == many[: ended.counts.sent]
    if wanted is State.PAUSED:
        monkeypatch.setattr(module, "RECORD_S", 1.0)
        ground.jobs.change(job.id, State.RUNNING)
        faster = replace(ground.jobs.get(job.id), rate=RATE)
        assert ground.run(faster).counts.sent == len(many)
        assert [event.other_id for event, _ in ground.read(what.topic or "")] == many


def test_a_runner_that_froze_is_fenced_by_the_next_one(ground: Ground, many: list[int]) -> None:
    what = What(Source.DATABASE, topic=ground.topic())
    job = ground.create(what)
    with lease(ground.stores.zookeeper, lease_of(job.id)) as held:
        frozen = ground.runner(job, held)
        old = TransactionalProducer(ground.bootstrap, f"fanfold-replay-{job.id}")
        assert frozen.run().state is State.DONE
        frozen._producer = old  # as it had it before the other one began
        frozen._pace = Pace(lambda: RATE, None, time.monotonic)
        with pytest.raises(FanfoldError):
            frozen._send([Item(Message(what.topic or "", b"late", b"1"), Position(), Counts())])

    assert len(ground.read(what.topic or "")) == len(many)


def test_what_goes_wrong_for_good_is_a_failed_job_that_can_be_resumed(
    ground: Ground, many: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    what = What(Source.DATABASE, topic=ground.topic())
    job = ground.create(what)
    with monkeypatch.context() as patched:
        patched.setattr(module, "pages", lambda *_: 1 / 0)
        failed = ground.run(job)
    assert (failed.state, failed.reason) == (State.FAILED, "ZeroDivisionError: division by zero")

    ground.jobs.change(job.id, State.RUNNING)
    assert ground.run(ground.jobs.get(job.id)).counts.sent == len(many)


def test_a_server_that_is_away_is_waited_for(ground: Ground, many: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    what, tries = What(Source.DATABASE, topic=ground.topic()), list[int]()

    class Away(TransactionalProducer):
        def send(self, messages: Iterable[Message], claim: Claim | None = None) -> dict[Place, int]:
            tries.append(1)
            if len(tries) < 3:
                raise KafkaUnavailable("away")
            return super().send(messages, claim)

    monkeypatch.setattr(module, "TransactionalProducer", Away)
    assert ground.run(ground.create(what)).counts.sent == len(many)
