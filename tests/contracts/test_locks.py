"""`fanfold locks` on real servers: it names the holder of each lease, node number and lock."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from infra.advisory_lock import AdvisoryLock, LockClass
from infra.composition import Stores
from infra.leases import COORDINATOR, lease
from infra.locks import read_locks
from infra.settings import PREFIX, Settings
from infra.zookeeper import SNOWFLAKES_PATH
from producers.node_lease import NodeLease
from producers.publish import NewTweet, Publisher

ME = socket.gethostname(), os.getpid()
SOON_MS = 60_000


def fanfold_locks(settings: Settings, folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    environ = {key: value for key, value in os.environ.items() if not key.startswith(PREFIX)} | {
        "FANFOLD_DATABASE_URL": settings.database_url,
        "FANFOLD_ZOOKEEPER_HOSTS": settings.zookeeper_hosts,
    }
    command = [sys.executable, "-m", "infra", "--data-dir", str(folder), "locks", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environ, timeout=60)


def test_each_lease_number_and_lock_is_shown_with_its_holder(
    settings: Settings, stores: Stores, tmp_path: Path
) -> None:
    number, lock = NodeLease(stores.zookeeper), AdvisoryLock(settings.database_url, LockClass.RELAY, 0)
    number.look()
    assert lock.try_take()
    with lease(stores.zookeeper, COORDINATOR) as held:
        done = fanfold_locks(settings, tmp_path, "--json")
        people = fanfold_locks(settings, tmp_path)
    lock.give_back()

    said = json.loads(done.stdout)
    assert (said["leader"]["host"], said["leader"]["pid"]) == ME
    assert [(one["name"], one["number"]) for one in said["leases"]] == [(COORDINATOR, held.number)]
    assert [(one["number"], one["holder"]["pid"]) for one in said["node_numbers"]] == [(number.number(), os.getpid())]
    assert [(one["name"], one["number"], one["holder"]["pid"]) for one in said["database_locks"]] == [
        ("relay", 0, os.getpid())
    ]
    assert f"lease {COORDINATOR}" in people.stdout
    assert str(os.getpid()) in people.stdout
    assert (done.returncode, done.stderr, people.returncode) == (0, "", 0)


def test_a_user_who_is_erased_is_shown_with_whoever_erases_him(
    stores: Stores, publisher: Publisher, make_users: Callable[[int], list[int]]
) -> None:
    [user] = make_users(1)
    publisher.post(NewTweet(user, "hello"))
    seen: list[tuple[str, str, bool]] = []

    def look(_tweets: int, _follows: int) -> None:
        for one in read_locks(stores.zookeeper, stores.engine).database_locks:
            assert one.holder is not None
            recent = abs(time.time() * 1000 - one.holder.since_ms) < SOON_MS
            seen.append((one.name, one.holder.command.split(",")[0], recent))

    assert publisher.delete_user(user, look).complete

    assert seen == [("erasing", f"user {user}", True)]
    assert read_locks(stores.zookeeper, stores.engine).database_locks == ()


def test_a_number_whose_holder_cannot_be_read_is_shown_all_the_same(stores: Stores) -> None:
    stores.zookeeper.create(f"{SNOWFLAKES_PATH}/7", b"an older version wrote this", ephemeral=True)

    [one] = read_locks(stores.zookeeper, stores.engine).node_numbers

    assert (one.number, one.holder) == (7, None)


def test_without_zookeeper_it_is_one_sentence_and_exit_code_3(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        hosts = f"127.0.0.1:{free.getsockname()[1]}"

    done = fanfold_locks(Settings(database_url="postgresql://h/d", zookeeper_hosts=hosts), tmp_path, "--json")

    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == f"fanfold: ZooKeeper at {hosts} does not answer: Connection time-out\n"
