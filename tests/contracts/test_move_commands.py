"""`fanfold shards add|drain|rebalance` on real servers: what is stored, waited for, and refused."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner, Result

from infra.adoption import Adopter
from infra.composition import Stores
from infra.copies import CopyState
from infra.emptying import prepare_node
from infra.errors import CheckFailed, FanfoldError
from infra.health import Health
from infra.live_settings import set_live_settings
from infra.members import read_members
from infra.move_progress import Wait
from infra.node_check import look_at
from infra.registrar import Registration
from infra.repair_warmer import warming
from infra.settings import Settings
from infra.shard_znodes import read_znodes
from infra.shards_commands import shards
from infra.slots import SLOTS
from infra.wishes import Wish, change_wishes, read_wishes
from infra.zookeeper import ZooKeeper
from tests.contracts.conftest import Run
from tests.coordinating import coordinating
from tests.redis_server import RedisServer
from tests.waiting import wait_until

ENDED_WITHIN_S = 60.0
Shards = Callable[..., Result]


@pytest.fixture
def run(settings: Settings) -> Shards:
    """`fanfold shards` with these words, in this process."""

    def run(*words: str) -> Result:
        return CliRunner().invoke(shards, words, obj=settings)

    return run


@contextmanager
def at_work(stores: Stores, engine: sa.Engine) -> Iterator[None]:
    """A coordinator that leads and repairs, and a registrar that was told of no node."""
    stop, health = threading.Event(), Health()
    adopter = Adopter(stores.zookeeper, (), health)
    with coordinating(stores.zookeeper, engine) as coordinator, warming(stores, ""):
        threads = [threading.Thread(target=adopter.run, args=(stop,))]
        threads.append(threading.Thread(target=coordinator.run, args=(stop, health)))
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join()


def said(done: Result) -> str:
    """The one sentence with which it was refused."""
    if isinstance(done.exception, FanfoldError):
        return str(done.exception)
    return " ".join(done.stderr.replace("│", " ").split())


def code(done: Result) -> int:
    """The exit code of the command, which its frame makes of an error."""
    return done.exception.exit_code if isinstance(done.exception, FanfoldError) else done.exit_code


def test_a_node_is_added_and_drained_again_and_each_time_it_ends_when_all_slots_serve(
    stores: Stores, engine: sa.Engine, server: RedisServer, shards: Run
) -> None:
    set_live_settings(stores.zookeeper, move_slots_max=SLOTS)
    with at_work(stores, engine):
        added = shards("add", "a3", server.url, "--weight", "2", "--json")
        after_adding = read_znodes(stores.zookeeper).shard_map
        shown = shards()
        drained = shards("drain", "a3", "--json")
        after_draining = read_znodes(stores.zookeeper).shard_map
        again = shards("drain", "a3")
        nodes = {node["name"]: node for node in json.loads(shards("--json").stdout)["nodes"]}

    assert (added.returncode, added.stderr) == (0, "")
    told = json.loads(added.stdout)
    assert {key: told[key] for key in ("node", "url", "epoch", "done", "to_move", "not_serving")} == {
        "node": "a3",
        "url": server.url,
        "epoch": 2,
        "done": True,
        "to_move": 0,
        "not_serving": 0,
    }
    assert after_adding is not None
    assert after_adding.weights_of("a") == {"a1": 1, "a2": 1, "a3": 2}
    assert after_adding.copies.all_serving
    assert "nothing is moving" in shown.stdout
    assert (drained.returncode, json.loads(drained.stdout)["done"]) == (0, True)
    assert after_draining is not None
    assert after_draining.nodes_of("a") == ("a1", "a2")
    assert after_draining.copies.all_serving
    assert again.returncode == 0
    assert "all slots are where they should be, and serve: a1 5" in again.stdout
    assert (nodes["a3"]["drained"], nodes["a3"]["slots"]) == (True, 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_whoever_is_interrupted_is_told_that_the_move_goes_on(
    settings: Settings, stores: Stores, server: RedisServer, tmp_path: Path, number: signal.Signals
) -> None:
    given = {"FANFOLD_DATABASE_URL": settings.database_url, "FANFOLD_ZOOKEEPER_HOSTS": settings.zookeeper_hosts}
    command = [sys.executable, "-m", "infra", "--data-dir", str(tmp_path), "shards", "add", "a3", server.url]
    with subprocess.Popen(
        command, env=os.environ | given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        wait_until(lambda: bool(read_wishes(stores.zookeeper)), "the wish", ENDED_WITHIN_S)
        wait_until(lambda: is_caught(process.pid, number), "the command to wait", ENDED_WITHIN_S)
        process.send_signal(number)
        output, errors = process.communicate(timeout=ENDED_WITHIN_S)

    assert process.returncode == 130, errors
    assert errors.splitlines() == ["interrupted: the move goes on by itself; `fanfold shards` shows how far it is"]
    assert output.endswith("waiting for a3 to be registered\n")
    assert read_wishes(stores.zookeeper) == {"a3": Wish(server.url)}


def is_caught(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler of its own for SIGTERM and this signal by now."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    caught = int(next(line for line in status.splitlines() if line.startswith("SigCgt")).split()[1], 16)
    return all(caught >> (one - 1) & 1 for one in (number, signal.SIGTERM))


def test_without_waiting_the_wish_is_stored_and_what_is_left_is_said(
    stores: Stores, run: Shards, server: RedisServer
) -> None:
    set_live_settings(stores.zookeeper, repair_users_per_s=0)

    added = run("add", "c3", server.url, "--no-wait")
    drained, weighed = run("drain", "a2", "--no-wait", "--json"), run("rebalance", "--weight", "b1=3", "--no-wait")
    pending = run("rebalance", "--no-wait", "--json")

    assert (added.exit_code, drained.exit_code, weighed.exit_code) == (0, 0, 0)
    assert "waiting for c3 to be registered" in added.stdout
    assert json.loads(drained.stdout)["to_move"] == len(stores.clusters.shard_map.slots_on("a2"))
    assert "slots are still to move" in weighed.stdout
    assert json.loads(pending.stdout)["to_move"] > json.loads(drained.stdout)["to_move"]
    assert read_wishes(stores.zookeeper) == {
        "a2": Wish(drained=True),
        "b1": Wish(weight=3),
        "c3": Wish(server.url),
    }
    text = run()
    assert "draining, fit" in text.stdout
    assert "cluster b: 2" in text.stdout
    assert run("drain", "a2", "--no-wait").exit_code == 0, "again it changes nothing"
    back = run("add", "a2", stores.clusters.shard_map.addresses["a2"], "--no-wait")
    assert (back.exit_code, read_wishes(stores.zookeeper)["a2"].drained) == (0, False)


BAD_INPUT = [
    (("drain", "z9"), 2, "there is no node 'z9'; they are a1, a2, b1, b2, c1, c2"),
    (("drain", ""), 2, "there is no node ''"),
    (("add", "a3", "redis://127.0.0.1:1"), 3, "Redis node a3 at redis://127.0.0.1:1 does not answer"),
    (("add", "x3", "SERVER"), 2, "node 'x3' must have a name that begins with its cluster's letter"),
    (("add", "a3", "http://h:1"), 2, "node 'a3' has the address 'http://h:1', but it must be a URL"),
    (("add", "a3", "SERVER", "--weight", "0"), 2, "node 'a3' has weight 0, but it must be from 1 to 100"),
    (("add", "b3", "A1"), 2, "is node a1 already: a server is one node, so name another server"),
    (("add", "a2", "A1"), 2, "there is a node a2 already, at redis://"),
    (("add", "a1", "SERVER"), 2, "there is a node a1 already, at redis://"),
    (("rebalance", "--weight", "a1"), 2, "'a1' is no weight: write NAME=N, N a whole number from 1 to 100"),
    (("rebalance", "--weight", "a1=101"), 2, "'a1=101' is no weight"),
    (("rebalance", "--weight", "a1=2", "--weight", "a1=3"), 2, "node a1 is given two weights, 2 and 3"),
    (("rebalance", "--weight", "a9=2"), 2, "there is no node 'a9'; they are a1"),
]


def test_bad_input_is_one_sentence_and_changes_nothing(stores: Stores, run: Shards, server: RedisServer) -> None:
    """In one test, since nothing is changed: servers that are emptied for each row would take a minute."""
    addresses = {"SERVER": server.url, "A1": stores.clusters.shard_map.addresses["a1"]}
    for words, exit_code, sentence in BAD_INPUT:
        done = run(*(addresses.get(word, word) for word in words))

        assert sentence in said(done), words
        assert (code(done), done.stdout) == (exit_code, ""), words
    assert read_wishes(stores.zookeeper) == {}
    assert look_at(server.node("a3")).incarnation == ""


def test_the_last_node_of_a_cluster_is_not_drained(stores: Stores, run: Shards) -> None:
    assert run("drain", "a1", "--no-wait").exit_code == 0

    done = run("drain", "a2", "--no-wait")

    assert code(done) == 2
    assert said(done).startswith("node a2 is the last node of cluster a and cannot be drained: add another one first")
    assert read_wishes(stores.zookeeper) == {"a1": Wish(drained=True)}


def test_a_node_whose_fellows_are_all_away_is_not_drained(stores: Stores, run: Shards, zookeeper: ZooKeeper) -> None:
    change_wishes(zookeeper, lambda _: {"b3": Wish("redis://127.0.0.1:1")})
    assert run("drain", "b2", "--no-wait").exit_code == 0

    done = run("drain", "b1", "--no-wait")

    assert said(done).startswith("node b1 cannot be drained: no other node of cluster b is fit (b3;")
    assert "b1" not in read_wishes(zookeeper)


def test_nobody_waits_for_a_move_that_would_never_be_warm(stores: Stores, run: Shards, server: RedisServer) -> None:
    set_live_settings(stores.zookeeper, repair_users_per_s=0)

    for words in (("add", "a3", server.url), ("drain", "a1"), ("rebalance",)):
        done = run(*words)
        assert code(done) == 2
        assert said(done).startswith("repair_users_per_s is 0, so no slot that moves would ever serve again")
    assert read_wishes(stores.zookeeper) == {}


def test_a_server_of_another_deployment_or_with_other_keys_is_not_taken(
    stores: Stores, run: Shards, server: RedisServer
) -> None:
    node = server.node("a3")
    node.command("SET", "another program's", "key")
    foreign_keys = run("add", "a3", server.url, "--no-wait")
    node.command("FLUSHALL", "SYNC")
    prepare_node(node, look_at(node).run_id)
    node.command("HSET", "n", "name", "b7", "epoch", "12")
    foreign_node = run("add", "a3", server.url, "--no-wait")
    node.command("CONFIG", "SET", "maxmemory-policy", "noeviction")
    unfit = run("add", "a3", server.url, "--no-wait")
    node.close()

    assert 'was never a node and has a key b"another program\'s"' in said(foreign_keys)
    assert "is or was node b7 of another deployment, and would be emptied" in said(foreign_node)
    assert "has maxmemory-policy 'noeviction'; set it to 'volatile-lru'" in said(unfit)
    assert {code(done) for done in (foreign_keys, foreign_node, unfit)} == {2}
    assert read_wishes(stores.zookeeper) == {}


def test_a_server_that_was_drained_here_may_come_back_under_another_name(
    stores: Stores, run: Shards, zookeeper: ZooKeeper, server: RedisServer, engine: sa.Engine
) -> None:
    set_live_settings(zookeeper, move_slots_max=SLOTS)
    registration = Registration(zookeeper, "a3", server.url)
    registration.look()
    with coordinating(zookeeper, engine) as coordinator:
        for wishes in ({}, {"a3": Wish(drained=True)}):
            change_wishes(zookeeper, lambda _, wishes=wishes: wishes)  # type: ignore[misc]
            wait_until(lambda wishes=wishes: moved(coordinator.step, stores, held=not wishes))  # type: ignore[misc]
    zookeeper.delete("/nodes/a3")
    registration.close()

    done = run("add", "c3", server.url, "--no-wait")

    assert done.exit_code == 0, said(done)
    assert "a3" not in read_members(zookeeper)


def moved(step: Callable[[], object], stores: Stores, *, held: bool) -> bool:
    """After one more step, and with everything warm at once: whether a3 holds slots, or none any more."""
    step()
    shard_map = read_znodes(stores.zookeeper).shard_map
    assert shard_map is not None
    copies = shard_map.copies
    filling = [slot for slot in range(SLOTS) if copies.of("a", slot) is CopyState.FILLING]
    if filling:
        found = stores.zookeeper.read("/copies")
        assert found is not None
        served = copies.changed("a", filling, CopyState.SERVING)
        stores.zookeeper.compare_and_set("/copies", served.encode(), found[1])
    return ("a3" in shard_map.nodes) is held


def test_whoever_waits_is_told_when_somebody_else_wants_something_else(stores: Stores, zookeeper: ZooKeeper) -> None:
    change_wishes(zookeeper, lambda _: {"a1": Wish(weight=2)})
    mine = change_wishes(zookeeper, lambda _: {"a1": Wish(weight=2)})  # also who found it so waits for it
    change_wishes(zookeeper, lambda _: {"a1": Wish(weight=3)})

    with pytest.raises(CheckFailed, match="somebody else wants something else of node a1 by now"):
        Wait(zookeeper, {"a"}, mine, threading.Event()).until_done()
