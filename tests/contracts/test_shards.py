"""`fanfold shards` on real servers: the map, where a timeline lies, and the way back after ZooKeeper lost its data."""

import json
import subprocess
from collections.abc import Callable, Sequence

import pytest
import sqlalchemy as sa

from infra import restore as restoring
from infra.composition import Stores
from infra.copies import Copies
from infra.emptying import prepare_node
from infra.epochs import Epochs, note_written, plan, read
from infra.errors import UseError
from infra.members import member_path, read_members
from infra.redis_node import RedisNode
from infra.restore import restore
from infra.settings import Settings
from infra.shard_map import CLUSTERS, decode_shard_map
from infra.slots import SLOTS, slot_of
from infra.zookeeper import COPIES_PATH, NODES_PATH, PLACEMENT_PATH, ZooKeeper
from tests.coordinating import coordinating
from tests.waiting import wait_until

MakeUsers = Callable[[int], list[int]]
Run = Callable[..., "subprocess.CompletedProcess[str]"]
NOBODY = 9_000_000_000_000_000_001  # above all ids that tests make


def wipe(zookeeper: ZooKeeper) -> None:
    """What a ZooKeeper that lost its data has lost of the shard map; registrars register again by themselves."""
    zookeeper.delete(PLACEMENT_PATH)
    zookeeper.delete(COPIES_PATH)


def stored(zookeeper: ZooKeeper) -> Sequence[object]:
    return [zookeeper.read(path) for path in (PLACEMENT_PATH, COPIES_PATH)]


def test_the_whole_map_is_one_object(stores: Stores, engine: sa.Engine, shards: Run) -> None:
    note_written(engine, 1)

    done = shards("--json")

    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert (shown["epoch"], shown["slots"], shown["refused"], shown["moving"]) == (1, SLOTS, None, [])
    assert shown["copies"] == {"serving": 3 * SLOTS, "filling": 0, "down": 0}
    assert shown["on_record"] == {"planned": 1, "written": 1}
    assert 1 <= shown["balance"] <= 1.15
    shard_map = stores.clusters.shard_map
    assert {node["name"]: node["slots"] for node in shown["nodes"]} == {
        name: len(shard_map.slots_on(name)) for name in shard_map.nodes
    }
    assert {(node["fit"], node["admitted"], node["weight"]) for node in shown["nodes"]} == {(True, True, 1)}


def test_a_person_sees_rings_a_table_and_what_is_moving(stores: Stores, shards: Run) -> None:
    stores.shard_maps.mark_down("b1", stores.clusters.shard_map)

    done = shards()

    assert done.returncode == 0, done.stderr
    assert "epoch 1, 1,024 slots in each cluster; the highest share is 10" in done.stdout
    assert all(f"cluster {cluster}" in done.stdout for cluster in CLUSTERS)
    assert f"b1: {len(stores.clusters.shard_map.slots_on('b1'))} down: " in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_a_user_is_told_where_his_timelines_lie_and_why(stores: Stores, make_users: MakeUsers, shards: Run) -> None:
    (user,) = make_users(1)
    shard_map, slot = stores.clusters.shard_map, slot_of(user)

    found, text, by_slot = (
        shards("--user", str(user), "--json"),
        shards("--user", str(user)),
        shards("--slot", str(slot)),
    )

    shown = json.loads(found.stdout)
    assert (shown["user_id"], shown["slot"], int(shown["hash"], 16) % SLOTS) == (str(user), slot, slot)
    assert [(copy["cluster"], copy["node"], copy["state"], copy["url"]) for copy in shown["copies"]] == [
        (cluster, name, "serving", shard_map.addresses[name])
        for cluster, name in ((cluster, shard_map.node_of(cluster, slot)) for cluster in CLUSTERS)
    ]
    assert f"mod 1,024 is slot {slot}" in text.stdout
    assert by_slot.stdout in text.stdout
    assert by_slot.stdout.count("serving") == 3


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--slot", "1024"), "'1024' is not a slot, which is a whole number from 0 to 1023"),
        (("--slot", "-1"), "'-1' is not a slot"),
        (("--slot", "x"), "'x' is not a slot"),
        (("--user", "0"), "'0' is not an id"),
        (("--user", str(NOBODY)), f"user {NOBODY} does not exist"),
        (("--user", "1", "--slot", "1"), "--slot and --user exclude each other"),
        (("--json", "restore"), "options belong behind `restore`"),
    ],
)
def test_bad_use_is_one_sentence(stores: Stores, shards: Run, words: tuple[str, ...], sentence: str) -> None:
    done = shards(*words)

    assert done.returncode == 2, done.stderr
    assert sentence in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_without_zookeeper_nothing_can_be_told(shards: Run) -> None:
    done = shards(FANFOLD_ZOOKEEPER_HOSTS="127.0.0.1:1")

    assert done.returncode == 3
    assert done.stderr.splitlines()[-1].startswith("fanfold: ZooKeeper at 127.0.0.1:1 does not answer")
    assert (done.stdout, "Traceback" in done.stderr) == ("", False)


def test_without_postgresql_the_map_is_shown_and_the_record_is_not(stores: Stores, shards: Run) -> None:
    done = shards("--json", FANFOLD_DATABASE_URL="postgresql://nobody@127.0.0.1:1/nothing")

    shown = json.loads(done.stdout)
    assert (done.returncode, shown["epoch"], shown["on_record"]) == (0, 1, None)


def test_before_the_first_placement_there_is_none_to_show_and_none_to_restore(shards: Run) -> None:
    whole, one, restored = shards(), shards("--slot", "3"), shards("restore")

    assert (whole.returncode, one.returncode, restored.returncode) == (0, 3, 2)
    assert "there is no placement yet" in whole.stderr
    assert "ZooKeeper holds no placement yet: is a coordinator running?" in one.stderr
    assert "there is nothing to restore: no placement was ever written" in restored.stderr


def test_a_placement_that_is_there_is_not_restored(stores: Stores, engine: sa.Engine, shards: Run) -> None:
    note_written(engine, 1)
    before = stored(stores.zookeeper)

    done = shards("restore", "--json")

    assert done.returncode == 2
    assert "there is nothing to restore: ZooKeeper holds the placement of epoch 1" in done.stderr
    assert (stored(stores.zookeeper), read(engine)) == (before, Epochs(1, 1))


def test_without_registrars_nothing_is_restored(engine: sa.Engine, shards: Run) -> None:
    note_written(engine, 1)

    done = shards("restore")

    assert done.returncode == 2
    assert "no fit node is registered in clusters a, b, c, so nothing was changed: start the registrars" in done.stderr
    assert read(engine) == Epochs(1, 1)


def test_after_a_wipe_every_copy_starts_unproven_and_comes_back_emptied(
    settings: Settings, stores: Stores, engine: sa.Engine, shards: Run
) -> None:
    note_written(engine, 3)
    plan(engine, 5)
    wipe(stores.zookeeper)
    told = json.loads(shards("--json").stdout)
    assert told["epoch"] is None
    assert "`fanfold shards restore`" in told["refused"]

    done = shards("restore", "--json")

    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert (shown["epoch"], shown["nodes"]) == (6, list(settings.redis_nodes))
    assert read(engine) == Epochs(6, 6)
    found = [stores.zookeeper.read(path) for path in (PLACEMENT_PATH, COPIES_PATH)]
    assert found[0] is not None
    assert found[1] is not None
    copies = Copies.decode(found[1][0])
    assert decode_shard_map(found[0][0]).epoch == copies.epoch == 6
    assert max(copies.in_use) == 0

    with coordinating(stores.zookeeper, engine) as coordinator:
        for _ in range(3):
            assert not coordinator.step()
        assert admitted(stores.zookeeper) == set(), "what a node holds may be old: it has to be emptied first"
        for name, url in settings.redis_nodes.items():
            empty(stores.zookeeper, name, url)
        while not coordinator.step():
            continue
    assert admitted(stores.zookeeper) == set(settings.redis_nodes)


def test_a_node_that_was_away_during_the_restore_is_not_admitted_with_what_it_holds(
    stores: Stores, engine: sa.Engine
) -> None:
    note_written(engine, 1)
    found = stores.zookeeper.read(f"{NODES_PATH}/a1")
    assert found is not None
    stores.zookeeper.delete(f"{NODES_PATH}/a1")
    wipe(stores.zookeeper)
    restored = restore(stores.zookeeper, engine).shard_map
    incarnation = json.loads(found[0])["incarnation"]
    assert not restored.copies.needs_emptying("a1", incarnation)

    stores.zookeeper.create(f"{NODES_PATH}/a1", found[0], ephemeral=True)
    with coordinating(stores.zookeeper, engine) as coordinator:

        def has_to_be_emptied() -> bool:
            coordinator.step()
            assert admitted(stores.zookeeper) == set()
            copies = stores.zookeeper.read(COPIES_PATH)
            return copies is not None and Copies.decode(copies[0]).needs_emptying("a1", incarnation)

        wait_until(has_to_be_emptied, "the coordinator to find that a1 was in use")


def test_who_comes_second_changes_nothing(stores: Stores, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one restores just before this one writes."""
    note_written(engine, 3)
    wipe(stores.zookeeper)

    def overtaken(engine: sa.Engine, epoch: int) -> None:
        monkeypatch.undo()
        restore(stores.zookeeper, engine)

    monkeypatch.setattr(restoring, "plan", overtaken)
    with pytest.raises(UseError, match="somebody else wrote the shard map at the same time"):
        restore(stores.zookeeper, engine)

    assert read(engine) == Epochs(4, 4)


def admitted(zookeeper: ZooKeeper) -> set[str]:
    found = zookeeper.read(COPIES_PATH)
    assert found is not None
    return set(Copies.decode(found[0]).incarnations)


def empty(zookeeper: ZooKeeper, name: str, url: str) -> None:
    """What a registrar does with a node whose incarnation was dropped."""
    node = RedisNode(name, url)
    try:
        incarnation = prepare_node(node, "another run")
    finally:
        node.close()
    assert read_members(zookeeper)[name].incarnation != incarnation
    path = member_path(name)
    found = zookeeper.read(path)
    assert found is not None
    member = json.loads(found[0]) | {"incarnation": incarnation}
    assert zookeeper.compare_and_set(path, json.dumps(member).encode(), found[1])
