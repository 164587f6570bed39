"""Frozen workers and frozen Redis nodes that thaw when others have gone on: nothing of theirs is applied any more."""

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from consumers.applied import wait_until_applied
from consumers.audit import audit
from consumers.delivered import delivered
from consumers.read_timeline import TimelineReader
from infra import outbox
from infra.composition import Stores, stores
from infra.kafka import GROUP
from infra.kafka_logs import agent_lags
from infra.readiness import EXIT_UNFINISHED
from infra.settings import Settings
from infra.shard_map import CLUSTERS
from infra.stack.supervisor import Stack
from infra.timelines import Kind
from producers.importer import import_follows
from producers.publish import NewTweet, Publisher, need_all
from tests.services import fresh_folder
from tests.stack.holding_worker import Place

AUTHOR, LEAVER = 1, 2
FOLLOWERS = range(LEAVER, 322)  # some 40 in each partition: a run of one tweet is cut into as many calls
APPLIED_S = 90.0
READY_S = 60.0
ENDED_S = 15.0

Process = subprocess.Popen[bytes]


@dataclass(frozen=True)
class Fenced:
    """A stack without a worker, and one author whom everybody follows."""

    stack: Stack
    stores: Stores
    settings: Settings

    @property
    def publisher(self) -> Publisher:
        return Publisher(self.stores)

    @contextmanager
    def worker(self, name: str, *command: str) -> Iterator[Process]:
        """A worker that is ready; whatever becomes of it, it is gone afterwards."""
        folder = self.stack.data_dir
        ready = folder / "run" / f"{name}.ready"
        ready.unlink(missing_ok=True)
        environ = os.environ | {"FANFOLD_READY_FILE": str(ready)}
        with self.log(name).open("wb") as out:
            process = Process(
                [sys.executable, "-m", *command], env=environ, stdout=out, stderr=out, cwd=Path(__file__).parents[2]
            )
        try:
            wait_for(lambda: ready.exists() or process.poll() is not None, f"{name} to be ready", READY_S)
            yield process
        finally:
            process.kill()
            process.wait()

    def plain_worker(self, name: str = "newer") -> AbstractContextManager[Process]:
        return self.worker(name, "infra", "--data-dir", str(self.stack.data_dir), "worker")

    @contextmanager
    def frozen_worker(self, place: Place, act: Callable[[], None]) -> Iterator[Process]:
        """A worker that was frozen at a place in the middle of what `act` made it do; thawed, it goes on from there."""
        folder = self.stack.data_dir
        for name in ("held", "go"):
            (folder / name).unlink(missing_ok=True)
        with self.worker(place, "tests.stack.holding_worker", str(folder), place) as process:
            self.wait_applied()
            (folder / "hold").touch()
            act()
            wait_for((folder / "held").exists, "the worker to come to its place")
            process.send_signal(signal.SIGSTOP)
            (folder / "go").touch()
            yield process

    def log(self, name: str) -> Path:
        return self.stack.data_dir / "logs" / f"{name}.log"

    def wait_applied(self) -> None:
        wait_until_applied(self.stores.engine, self.settings.kafka_bootstrap, APPLIED_S)

    def wait_fanned_out(self) -> None:
        wait_for(lambda: not outbox.unsent(self.stores.engine), "the relay")
        wait_for(lambda: not agent_lags(self.settings.kafka_bootstrap)["fan_out"], "fan_out")

    def holders(self, tweet_id: int, users: range = FOLLOWERS) -> dict[str, set[int]]:
        """Whose home timelines show a tweet, in each cluster."""
        entry = str(tweet_id).encode()
        return {
            cluster: {
                user
                for user, entries in self.stores.timelines.dump(cluster, Kind.HOME, users).items()
                if entry in map(bytes, entries)
            }
            for cluster in CLUSTERS
        }

    def check(self) -> None:
        """Everything is applied in time, and every timeline of every active user is right in every cluster."""
        self.wait_applied()
        result = audit(self.stores.engine, self.stores.timelines, complete=True)
        assert result.differences == ()
        assert (result.clean, result.active_users) == (True, len(FOLLOWERS))
        assert agent_lags(self.settings.kafka_bootstrap) == {"fan_out": 0, "deliver": 0}


def in_every_copy(users: set[int]) -> dict[str, set[int]]:
    return dict.fromkeys(CLUSTERS, users)


def exit_code(process: Process) -> int | None:
    """None when it works on; the audit says then whether it did harm."""
    try:
        return process.wait(ENDED_S)
    except subprocess.TimeoutExpired:
        return None


def wait_for(condition: Callable[[], bool], what: str, limit_s: float = 30.0) -> None:
    pause = threading.Event()
    for _ in range(int(limit_s / 0.05)):
        if condition():
            return
        pause.wait(0.05)
    raise AssertionError(f"waited {limit_s} s in vain for {what}")


@pytest.fixture(scope="module")
def fenced() -> Iterator[Fenced]:
    folder = fresh_folder("fencing")
    stack = Stack(folder, roles=("registrar", "coordinator", "relay"))
    stack.start()
    try:
        with stores(stack.settings()) as opened:
            follows = Path(folder) / "follows.tsv"
            follows.write_text("".join(f"{user}\t{AUTHOR}\n" for user in FOLLOWERS))
            import_follows(opened.engine, follows, threshold=10_000)
            TimelineReader(opened).warm(FOLLOWERS)
            yield Fenced(stack, opened, stack.settings())
    finally:
        stack.stop()
    shutil.rmtree(folder)


@pytest.mark.parametrize("place", [Place.PLANNED, Place.BUFFERED, Place.CHECKED])
def test_chunks_of_a_worker_that_froze_over_its_session_do_not_come_after_an_unmerge(
    fenced: Fenced, place: Place
) -> None:
    """They were cut when the follower still followed: applied now, they would put the tweet back."""
    tweets = []
    with fenced.frozen_worker(
        place, lambda: tweets.extend(need_all(fenced.publisher.post_many([NewTweet(AUTHOR, place)])))
    ) as old:
        fenced.publisher.unfollow(LEAVER, AUTHOR)
        with fenced.plain_worker():
            fenced.wait_applied()
            stay = set(FOLLOWERS) - {LEAVER}
            assert fenced.holders(tweets[0].id) == in_every_copy(stay)

            old.send_signal(signal.SIGCONT)
            code = exit_code(old)
            fenced.check()

    assert fenced.holders(tweets[0].id) == in_every_copy(stay)
    assert code == EXIT_UNFINISHED
    why = "is not in generation" if place is Place.PLANNED else "a newer producer has taken over"
    assert why in fenced.log(place).read_text()
    fenced.publisher.follow(LEAVER, AUTHOR)


def test_the_rest_of_a_run_of_a_worker_that_froze_over_its_session_is_refused(fenced: Fenced) -> None:
    """It had called the nodes for some of the followers; meanwhile the tweet was delivered to all, and deleted."""
    place, tweets = Place.CALLING, []

    def post() -> None:
        """Until fan_out is through with it: frozen before its commit, the worker would end for its old producer."""
        tweets.extend(need_all(fenced.publisher.post_many([NewTweet(AUTHOR, "cut")])))
        fenced.wait_fanned_out()

    with fenced.frozen_worker(place, post) as old:
        some = fenced.holders(tweets[0].id)
        assert all(0 < len(users) < len(FOLLOWERS) for users in some.values())
        with fenced.plain_worker() as newer:
            fenced.wait_applied()
            assert fenced.holders(tweets[0].id) == in_every_copy(set(FOLLOWERS))
            fenced.publisher.delete(tweets[0].id)
            fenced.wait_applied()
            before = delivered(fenced.stores.clusters)

            old.send_signal(signal.SIGCONT)
            code = exit_code(old)
            fenced.check()
            assert newer.poll() is None

    assert fenced.holders(tweets[0].id) == in_every_copy(set())
    assert code == EXIT_UNFINISHED
    said = fenced.log(place).read_text()  # by a node or, when one was emptied meanwhile, by the broker
    assert "SUPERSEDED generation" in said or f"of group {GROUP} any more" in said
    assert delivered(fenced.stores.clusters) == before
    assert before.copies == len(CLUSTERS)


def test_a_node_that_froze_over_a_call_is_left_out_emptied_and_repaired_and_late_calls_do_nothing(
    fenced: Fenced,
) -> None:
    """What timed out lies in its sockets when it thaws; by then it has another incarnation."""
    clusters = fenced.stores.clusters
    with fenced.plain_worker("going on") as worker:
        fenced.publisher.post_many([NewTweet(AUTHOR, f"opens connections {number}") for number in range(10)])
        fenced.wait_applied()
        before = clusters.shard_map.copies.incarnations["b1"]
        fenced.stack.kill("b1", signal.SIGSTOP)
        try:
            kept, gone = need_all(fenced.publisher.post_many([NewTweet(AUTHOR, "kept"), NewTweet(AUTHOR, "gone")]))
            fenced.wait_applied()
            fenced.publisher.delete(gone.id)
            fenced.wait_applied()
        finally:
            fenced.stack.kill("b1", signal.SIGCONT)
        wait_for(lambda: clusters.shard_map.copies.incarnations.get("b1", before) != before, "b1 to be admitted again")
        fenced.publisher.post_many([NewTweet(AUTHOR, "afterwards")])
        wait_for(lambda: clusters.shard_map.copies.all_serving, "repair")
        fenced.check()
        assert worker.poll() is None

    assert fenced.holders(kept.id) == in_every_copy(set(FOLLOWERS))
    assert fenced.holders(gone.id) == in_every_copy(set())
