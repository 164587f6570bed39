"""Repair on real servers: copies that were emptied are filled from the database, and serve again."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa

from infra import metrics, redis_keys
from infra import rebuild as rebuilding
from infra import repair as module
from infra.celebrities import all_celebrities, celebrities_of
from infra.composition import Stores
from infra.copies import Copies, CopyState
from infra.errors import LeaseLost
from infra.kafka_logs import Overview
from infra.lease import Lease
from infra.leases import lease, read_lease
from infra.live_settings import DAY_S, set_live_settings
from infra.rebuild import rebuild
from infra.repair import REPAIR, Done, Repair
from infra.repair_warmer import read_applied, read_ends, warming
from infra.settings import PREFIX, Settings
from infra.shard_map import CLUSTERS
from infra.slots import slot_of
from infra.timelines import Kind, Snapshot
from infra.topics import DELIVERIES
from producers.publish import NewTweet, Publisher, need_all
from tests.applying import Applying
from tests.filling import change_copies, empty_node, states_of
from tests.waiting import wait_until

MakeUsers = Callable[[int], list[int]]
READERS = 12
SERVING, FILLING, DOWN = {CopyState.SERVING}, {CopyState.FILLING}, {CopyState.DOWN}
ONE_FOR_ONE_LIST = b"\0\1" + b"\0\0" + bytes(4)  # how many tweets the list gets, which, and its message


@pytest.fixture
def held(stores: Stores) -> Iterator[Lease]:
    with lease(stores.zookeeper, REPAIR) as mine:
        yield mine


@pytest.fixture
def readers(stores: Stores, publisher: Publisher, make_users: MakeUsers) -> list[int]:
    """Active users with two tweets in their home timelines, and somebody whom nobody counts as active."""
    author, celebrity, _, *readers = make_users(READERS + 3)
    publisher.follow_many([(reader, one) for reader in readers for one in (author, celebrity)])
    need_all(publisher.post_many([NewTweet(one, text) for text in "ab" for one in (author, celebrity, *readers)]))
    with stores.engine.begin() as connection:
        connection.execute(sa.text("UPDATE users SET status = 'pull' WHERE id = :id"), {"id": celebrity})
    for kind in Kind:
        rebuild(stores.engine, stores.timelines, kind, readers)
    return readers


def go_on(_: Done) -> bool:
    return True


def listed(stores: Stores, cluster: str, kind: Kind, users: Sequence[int]) -> dict[int, list[bytes]]:
    return stores.timelines.dump(cluster, kind, users)


def on_node(stores: Stores, name: str, users: Sequence[int]) -> list[int]:
    """Those of the users who lie on a node; by chance it may be none of twelve once in four thousand times."""
    found = [user for user in users if stores.clusters.shard_map.node_of(name[0], slot_of(user)) == name]
    assert found
    return found


def run_pass(stores: Stores, held: Lease, goes_on: Callable[[Done], bool] = go_on) -> Done:
    done = Repair(stores, held, goes_on).run_pass()
    assert done is not None
    return done


def test_every_active_user_is_in_an_emptied_copy_again_and_the_copy_serves(
    stores: Stores, held: Lease, readers: list[int]
) -> None:
    for name in ("b1", "b2"):
        empty_node(stores, name)
    assert all(not one for one in listed(stores, "b", Kind.HOME, readers).values())

    done = run_pass(stores, held)

    for kind in Kind:
        assert listed(stores, "b", kind, readers) == listed(stores, "a", kind, readers)
        assert all(len(one) == 3 for one in listed(stores, "b", kind, readers).values())
    assert (done.promoted, states_of(stores, "b1"), states_of(stores, "b2")) == (1_024, SERVING, SERVING)


def test_celebrities_and_who_follows_them_are_there_too(stores: Stores, held: Lease, readers: list[int]) -> None:
    empty_node(stores, "b1")
    empty_node(stores, "b2")
    [celebrity] = [one for batch in all_celebrities(stores.engine) for one in batch]

    run_pass(stores, held)

    assert len(listed(stores, "b", Kind.USER, [celebrity])[celebrity]) == 3
    for reader in readers:
        members = stores.clusters.node_for("b", reader).command("SMEMBERS", redis_keys.celebrities(reader))
        assert set(members) == {b"0", b"%d" % celebrity}


def test_what_another_cluster_has_is_not_read_from_the_database(
    stores: Stores, held: Lease, readers: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    [celebrity] = [one for batch in all_celebrities(stores.engine) for one in batch]
    rebuild(stores.engine, stores.timelines, Kind.USER, [celebrity])
    stores.timelines.fill_celebrities(readers, partial(celebrities_of, stores.engine))
    empty_node(stores, "b1")
    empty_node(stores, "b2")
    Applying(stores).nothing()

    def read(*_: object) -> list[Snapshot]:
        raise AssertionError("the database was read")

    monkeypatch.setattr(rebuilding, "read_snapshots", read)
    done = run_pass(stores, held)

    assert (done.built, done.copied) == (READERS + 1, READERS + 1)
    assert states_of(stores, "b1") | states_of(stores, "b2") == SERVING
    assert listed(stores, "b", Kind.HOME, readers) == listed(stores, "a", Kind.HOME, readers)


def test_what_no_copy_has_beside_a_home_timeline_is_built_beside_the_copied_one(
    stores: Stores, held: Lease, readers: list[int]
) -> None:
    reader = readers[0]
    for cluster in CLUSTERS:
        keys = redis_keys.user_timeline(reader), redis_keys.celebrities(reader)
        stores.clusters.node_for(cluster, reader).command("DEL", *keys)
    empty_node(stores, "b1")
    empty_node(stores, "b2")
    Applying(stores).nothing()

    run_pass(stores, held)

    assert listed(stores, "b", Kind.HOME, readers) == listed(stores, "a", Kind.HOME, readers)
    assert len(listed(stores, "b", Kind.USER, [reader])[reader]) == 3
    assert stores.clusters.node_for("b", reader).command("SISMEMBER", redis_keys.celebrities(reader), "0") == 1


def test_all_nodes_of_two_clusters_are_filled_by_one_pass(stores: Stores, held: Lease, readers: list[int]) -> None:
    for name in ("a1", "a2", "b1", "b2"):
        empty_node(stores, name)

    done = run_pass(stores, held)

    assert (done.looked, done.built) == (READERS + 1, READERS + 1)
    for cluster in "ab":
        assert listed(stores, cluster, Kind.HOME, readers) == listed(stores, "c", Kind.HOME, readers)
    stores.shard_maps.check()
    assert stores.clusters.shard_map.copies.all_serving


def test_who_is_not_active_is_not_built_and_nobody_becomes_active_for_longer(
    stores: Stores, held: Lease, readers: list[int]
) -> None:
    short, gone = readers[0], readers[1]
    with stores.engine.begin() as connection:
        query = sa.text("UPDATE users SET active_until = now() + :left * interval '1 day' WHERE id = :id")
        connection.execute(query, {"id": short, "left": 4})
        connection.execute(query, {"id": gone, "left": 0})
    before = active_until(stores)
    for name in ("b1", "b2"):
        empty_node(stores, name)

    run_pass(stores, held)

    node, others = stores.clusters.node_for, readers[2:]
    left_s = {one: node("b", one).command("TTL", redis_keys.home_timeline(one)) for one in readers}
    assert (left_s[gone], left_s[short] // DAY_S) == (-2, 2)
    assert {left_s[one] // DAY_S for one in others} == {29}
    assert active_until(stores) == before


def active_until(stores: Stores) -> dict[int, datetime | None]:
    with stores.engine.connect() as connection:
        rows = connection.execute(sa.text("SELECT id, active_until FROM users"))
        return {row.id: row.active_until for row in rows}


def test_a_removal_during_repair_is_not_undone(
    stores: Stores, held: Lease, readers: list[int], publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The snapshot holds a tweet that is deleted and retracted before the merge."""
    [reader, *_] = on_node(stores, "b1", readers)
    empty_node(stores, "b1")
    tweet = int(listed(stores, "a", Kind.HOME, [reader])[reader][1])
    read, reads = rebuilding.read_snapshots, list[Kind]()

    def read_then_retract(engine: sa.Engine, kind: Kind, users: Sequence[int], length: int) -> list[Snapshot]:
        snapshots = read(engine, kind, users, length)
        if kind is Kind.HOME and kind not in reads:
            publisher.delete(tweet)
            for cluster in CLUSTERS:
                node = stores.clusters.node_for(cluster, reader)
                fence = stores.clusters.shard_map.fence(node.name)
                for number, one in enumerate(readers, 1):
                    if stores.clusters.node_for(cluster, one) is node:
                        key = redis_keys.home_timeline(one)
                        node.call("apply", 0, fence, 1, number, 0, 0, 800, "R", 0, tweet, key, ONE_FOR_ONE_LIST)
        reads.append(kind)
        return snapshots

    monkeypatch.setattr(rebuilding, "read_snapshots", read_then_retract)
    run_pass(stores, held)

    assert reads.count(Kind.HOME) == 2
    assert len(listed(stores, "b", Kind.HOME, [reader])[reader]) == 2
    assert listed(stores, "b", Kind.HOME, [reader]) == listed(stores, "a", Kind.HOME, [reader])
    assert states_of(stores, "b1") == SERVING


def test_a_node_that_is_marked_down_meanwhile_does_not_serve_and_the_next_pass_promotes_the_others(
    stores: Stores, held: Lease, readers: list[int]
) -> None:
    empty_node(stores, "a1")
    empty_node(stores, "b1")

    def mark(_: Done) -> bool:
        change_copies(stores, lambda copies: copies.without_node("b1", stores.clusters.shard_map.slots_on("b1")))
        return True

    assert run_pass(stores, held, once(mark)).promoted == 0
    assert (states_of(stores, "a1"), states_of(stores, "b1")) == (FILLING, DOWN)

    assert run_pass(stores, held).built == 0
    assert (states_of(stores, "a1"), states_of(stores, "b1")) == (SERVING, DOWN)


def once(act: Callable[[Done], bool]) -> Callable[[Done], bool]:
    """Acts when it is first asked."""
    asked: list[Done] = []

    def ask(done: Done) -> bool:
        asked.append(done)
        return act(done) if len(asked) == 1 else True

    return ask


def test_slots_that_were_emptied_meanwhile_are_not_promoted_by_what_was_seen_before(
    stores: Stores, held: Lease, readers: list[int]
) -> None:
    """As when a move is called off: the same node, the same incarnation, filling again."""
    [reader, *_] = on_node(stores, "b1", readers)
    empty_node(stores, "b1")

    def empty_slot(done: Done) -> bool:
        if done.looked < READERS + 1:
            return True
        change_copies(stores, lambda copies: copies.changed("b", [slot_of(reader)], CopyState.DOWN))
        change_copies(stores, lambda copies: copies.changed("b", [slot_of(reader)], CopyState.FILLING))
        stores.clusters.node("b1").command("DEL", redis_keys.home_timeline(reader))
        return True

    assert run_pass(stores, held, empty_slot).promoted == 0
    assert states_of(stores, "b1") == FILLING

    done = run_pass(stores, held)
    assert (done.built, states_of(stores, "b1")) == (1, SERVING)
    assert listed(stores, "b", Kind.HOME, [reader]) == listed(stores, "a", Kind.HOME, [reader])


def test_what_was_stopped_in_the_middle_goes_on_and_builds_nothing_twice(
    stores: Stores, held: Lease, readers: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH_USERS_MAX", 5)
    for name in ("b1", "b2"):
        empty_node(stores, name)

    first = run_pass(stores, held, lambda done: done.built < 2)
    assert (first.stopped, first.built, first.promoted, states_of(stores, "b1")) == (True, 1 + 2 * 5, 0, FILLING)

    second = run_pass(stores, held)
    assert (second.built, states_of(stores, "b1")) == (READERS + 1 - first.built, SERVING)
    assert listed(stores, "b", Kind.HOME, readers) == listed(stores, "a", Kind.HOME, readers)


def test_whoever_has_lost_the_lease_promotes_nothing(stores: Stores, held: Lease, readers: list[int]) -> None:
    empty_node(stores, "b1")

    def lose(done: Done) -> bool:
        if done.looked == READERS + 1:  # all is filled: only the promotion is left, which does not ask this process
            stores.zookeeper.delete(held.path)
        return True

    assert run_pass(stores, held, lose).promoted == 0
    assert states_of(stores, "b1") == FILLING
    with pytest.raises(LeaseLost):
        run_pass(stores, held)


def test_a_node_that_is_not_open_is_waited_for(stores: Stores, held: Lease, readers: list[int]) -> None:
    empty_node(stores, "b1", opened=False)

    assert Repair(stores, held, go_on).run_pass() is None
    assert states_of(stores, "b1") == FILLING


def test_what_cannot_be_built_holds_its_slot_back_for_some_passes_only(
    stores: Stores, held: Lease, readers: list[int]
) -> None:
    [reader, *_] = on_node(stores, "b1", readers)
    empty_node(stores, "b1")
    assert stores.timelines.put_tokens("b", Kind.HOME, [reader], 5, "claim") == {reader: "T"}
    work = Repair(stores, held, go_on)

    first = work.run_pass()

    assert first is not None
    assert first.promoted == len(stores.clusters.shard_map.slots_on("b1")) - 1
    assert states_of(stores, "b1") == SERVING | FILLING
    promoted = [done.promoted if (done := work.run_pass()) else None for _ in range(4)]
    assert promoted == [0, 0, 1, None]


def test_the_warmer_fills_by_itself_pauses_at_a_rate_of_0_and_gives_way(
    stores: Stores, settings: Settings, readers: list[int]
) -> None:
    set_live_settings(stores.zookeeper, repair_users_per_s=0)
    wait_until(lambda: stores.timelines.live.repair_users_per_s == 0)
    empty_node(stores, "b1")
    with warming(stores, settings.kafka_bootstrap):
        wait_until(lambda: metrics.FILLING.labels("b")._value.get() > 0, "it has looked")
        assert read_lease(stores.zookeeper, REPAIR) is None
        set_live_settings(stores.zookeeper, repair_users_per_s=1)
        wait_until(lambda: read_lease(stores.zookeeper, REPAIR) is not None, "it repairs")
        with lease(stores.zookeeper, REPAIR, wait_s=10):
            assert states_of(stores, "b1") == FILLING
            set_live_settings(stores.zookeeper, repair_users_per_s=1_000)
        wait_until(lambda: states_of(stores, "b1") == SERVING, "b1 serves again")
    assert listed(stores, "b", Kind.HOME, readers) == listed(stores, "a", Kind.HOME, readers)
    assert "repair" not in {thread.name for thread in threading.enumerate()}


def test_how_far_deliveries_are_is_asked_of_log_and_nodes(
    stores: Stores, settings: Settings, readers: list[int]
) -> None:
    partition = slot_of(readers[0]) % DELIVERIES.partitions
    assert read_applied(stores) == {}
    for name, offset in (("a1", 7), ("b1", 9)):
        fence = stores.clusters.shard_map.fence(name)
        stores.clusters.node(name).call("apply", partition, fence, 1, 1, offset, 0, 800)

    assert read_applied(stores) == {partition: 9}
    assert set(read_ends(Overview(settings.kafka_bootstrap, [DELIVERIES]))) == set(range(DELIVERIES.partitions))


# By hand


def fanfold_repair(settings: Settings, folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    environ = {key: value for key, value in os.environ.items() if not key.startswith(PREFIX)} | {
        "FANFOLD_DATABASE_URL": settings.database_url,
        "FANFOLD_ZOOKEEPER_HOSTS": settings.zookeeper_hosts,
    }
    command = [sys.executable, "-m", "infra", "--data-dir", str(folder), "repair", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environ, timeout=60)


def test_by_hand_a_cluster_or_a_slot_is_filled_and_serves(
    stores: Stores, settings: Settings, readers: list[int], tmp_path: Path
) -> None:
    [reader, *_] = on_node(stores, "b1", readers)
    empty_node(stores, "b1")

    one = fanfold_repair(settings, tmp_path, "--cluster", "b", "--slot", f"{slot_of(reader)}", "--json")
    assert (one.returncode, one.stderr) == (0, "")
    said = json.loads(one.stdout)
    assert (said["promoted"], said["users_built"] >= 1, said["filling"]) == (1, True, 0)
    assert states_of(stores, "b1") == SERVING | FILLING

    rest = fanfold_repair(settings, tmp_path, "--cluster", "b")
    assert (rest.returncode, states_of(stores, "b1")) == (0, SERVING), rest.stderr
    assert "copies of cluster b serve again" in rest.stdout


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--cluster", "d"), "fanfold: 'd' is no cluster; they are a, b, c\n"),
        (("--cluster", "b", "--slot", "1024"), "'1024' is not a slot"),
        (("--cluster", "b"), "fanfold: nothing of cluster b is filling: it is serving\n"),
        (("--cluster", "b", "--slot", "7"), "fanfold: nothing of slot 7 in cluster b is filling: it is serving\n"),
        (("--cluster", "b", "--rate", "0"), "fanfold: a rate of 0 users a second would fill nothing: give at least 1"),
        (("--cluster", "b", "--from", "tape"), "'tape' is not one of"),
        ((), "Missing option '--cluster'"),
    ],
)
def test_bad_use_is_one_sentence(
    stores: Stores, settings: Settings, tmp_path: Path, words: Sequence[str], sentence: str
) -> None:
    done = fanfold_repair(settings, tmp_path, *words)

    assert (done.returncode, done.stdout) == (2, "")
    assert sentence in done.stderr


def test_repairing_from_copies_that_are_down_is_refused_and_changes_nothing(
    stores: Stores, settings: Settings, tmp_path: Path
) -> None:
    empty_node(stores, "b1")
    for name in ("a1", "a2", "c1", "c2"):
        slots = stores.clusters.shard_map.slots_on(name)
        change_copies(stores, partial(Copies.without_node, name=name, slots=slots))

    done = fanfold_repair(settings, tmp_path, "--cluster", "b", "--from", "copy")

    assert (done.returncode, done.stdout, states_of(stores, "b1")) == (2, "", FILLING)
    assert "those of clusters a and c are down; use --from database" in done.stderr


def test_whoever_repairs_by_hand_is_told_that_the_background_is_paused(
    stores: Stores, settings: Settings, readers: list[int], tmp_path: Path
) -> None:
    set_live_settings(stores.zookeeper, repair_users_per_s=0)
    empty_node(stores, "b1")

    done = fanfold_repair(settings, tmp_path, "--cluster", "b", "--from", "database", "--json")

    assert (done.returncode, states_of(stores, "b1")) == (0, SERVING)
    assert "paused, since repair_users_per_s is 0" in done.stderr
    assert json.loads(done.stdout)["users_copied"] == 0


def test_copies_that_are_down_are_said_to_be(stores: Stores, settings: Settings, tmp_path: Path) -> None:
    stores.shard_maps.mark_down("b1", stores.clusters.shard_map)

    done = fanfold_repair(settings, tmp_path, "--cluster", "b")

    assert done.returncode == 2
    assert "copies are down until the registrar has emptied their node" in done.stderr
