"""Drill: the threshold changes while everybody posts, deletes, unfollows, follows and reads, so that authors cross it.

Every process of the stack goes by each change within 5 s, and every timeline is right afterwards.
"""

import re
import shutil
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from consumers.applied import wait_until_applied
from consumers.audit import audit
from consumers.read_timeline import TimelineReader
from infra.composition import Stores, stores
from infra.live_settings import roll_back_live_settings, set_live_settings
from infra.paging import Cursor
from infra.settings_history import origin
from infra.stack.ports import load_ports
from infra.stack.roles import ROLE_NAMES
from infra.stack.supervisor import Stack
from producers.importer import import_follows
from producers.publish import NewTweet, Publisher, need_all
from producers.status_keeper import due_steps
from tests.services import fresh_folder
from tests.waiting import wait_until

IN_FORCE_S = 5.0
USERS, AUTHORS = 200, 10
THRESHOLD_FIRST = 10_000
BATCH, BATCH_EVERY_S = 10, 0.2  # 50 tweets a second, each for every user
APPLIED_S = 60.0


@pytest.fixture
def stack() -> Iterator[Stack]:
    made = Stack(fresh_folder("drill-live-settings"), roles=ROLE_NAMES)
    made.start()
    try:
        yield made
    finally:
        made.stop()
    shutil.rmtree(made.data_dir)  # kept when the drill failed in it: its logs say why


@pytest.fixture
def opened(stack: Stack) -> Iterator[Stores]:
    """Users who all follow the authors, and are active."""
    with stores(stack.settings()) as found:
        follows = Path(stack.data_dir) / "follows.tsv"
        pairs = [(user, author) for user in range(1, USERS + 1) for author in range(1, AUTHORS + 1) if user != author]
        follows.write_text("".join(f"{user}\t{author}\n" for user, author in pairs))
        import_follows(found.engine, follows, threshold=THRESHOLD_FIRST)
        TimelineReader(found).warm(range(1, USERS + 1))
        yield found


def versions(stack: Stack) -> dict[str, int]:
    """The version that each role says it goes by; 0 for one that does not say."""
    return {role: _version(stack, role) for role in ROLE_NAMES}


def _version(stack: Stack, role: str) -> int:
    port = load_ports(stack.data_dir)["api" if role == "api" else f"{role}-metrics"]
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        found = re.search(r"^fanfold_live_settings_version (\S+)$", answer.read().decode(), re.MULTILINE)
    return int(float(found[1])) if found else 0


def wait_in_force(stack: Stack, version: int, since_s: float) -> None:
    """Until every role goes by this version; fails if that takes too long."""
    wait_until(
        lambda: min(versions(stack).values()) >= version, f"version {version} in every role", IN_FORCE_S + APPLIED_S
    )
    took_s = time.monotonic() - since_s
    assert took_s < IN_FORCE_S, f"it took {took_s:.1f} s: {versions(stack)}"


@contextmanager
def load(opened: Stores) -> Iterator[None]:
    """While the context lasts, and for a moment before it begins. Raises what a caller raised."""
    stop = threading.Event()
    with Publisher(opened) as publisher, ThreadPoolExecutor(2) as threads:
        begun = threading.Barrier(3)
        calls = [threads.submit(_write, publisher, begun, stop), threads.submit(_read, opened, begun, stop)]
        begun.wait(60)
        try:
            yield
        finally:
            stop.set()
        for call in calls:
            call.result()


def _write(publisher: Publisher, begun: threading.Barrier, stop: threading.Event) -> None:
    for batch in range(10_000):
        tweets = need_all(publisher.post_many([NewTweet(one % AUTHORS + 1, f"{batch} {one}") for one in range(BATCH)]))
        publisher.delete(tweets[batch % BATCH].id)
        reader, author = AUTHORS + 1 + batch % (USERS - AUTHORS), batch % AUTHORS + 1
        publisher.unfollow(reader, author)
        if batch % 2:
            publisher.follow(reader, author)
        if batch == 3:
            begun.wait(60)
        if stop.wait(BATCH_EVERY_S):
            return


def _read(opened: Stores, begun: threading.Barrier, stop: threading.Event) -> None:
    reader = TimelineReader(opened)
    begun.wait(60)
    while not stop.wait(0.02):
        ids = [tweet.id for tweet in reader.home(USERS, Cursor()).tweets]
        assert ids == sorted(set(ids), reverse=True)


def statuses(opened: Stores) -> Sequence[str]:
    with opened.engine.connect() as connection:
        found = connection.execute(
            sa.text("SELECT DISTINCT status FROM users WHERE id <= :authors"), {"authors": AUTHORS}
        )
        return list(found.scalars())


def test_a_change_of_the_threshold_under_load_is_in_force_in_every_process_within_5_s_and_no_timeline_is_wrong(
    stack: Stack, opened: Stores
) -> None:
    before = min(versions(stack).values())
    with load(opened):
        for threshold, arrived in ((USERS // 3, ["pull"]), (THRESHOLD_FIRST, ["push"])):
            began_s = time.monotonic()
            changed = set_live_settings(opened.zookeeper, threshold=threshold)
            assert changed.version > before
            wait_in_force(stack, changed.version, began_s)
            wait_until(lambda arrived=arrived: statuses(opened) == arrived, f"all authors at {arrived}", APPLIED_S)  # type: ignore[misc]
        began_s = time.monotonic()
        back = roll_back_live_settings(opened.zookeeper, None, origin()).settings
        wait_in_force(stack, back.version, began_s)

    wait_until(lambda: not due_steps(opened.engine, back.threshold), "all authors where they belong", APPLIED_S)
    wait_until_applied(opened.engine, stack.settings().kafka_bootstrap, APPLIED_S)
    result = audit(opened.engine, opened.timelines, complete=True)
    assert result.differences == ()
    assert (result.clean, result.active_users) == (True, USERS)
    assert statuses(opened) == ["pull"]
