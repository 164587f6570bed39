"""The stack's ports: free when new, then the same, and a clear sentence when somebody else has one."""

import json
import os
import random
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.errors import StackError
from infra.stack.ports import RANGE, choose_ports, is_free, load_ports, refuse_taken, remember_ports


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_every_name_gets_a_free_port_of_its_own_below_the_range_of_outgoing_connections() -> None:
    chosen = choose_ports(["a", "b", "c"], {}, {}, random.Random(1))
    assert sorted(chosen) == ["a", "b", "c"]
    assert len(set(chosen.values())) == 3
    assert all(port in RANGE and is_free(port) for port in chosen.values())


def test_a_port_is_remembered_and_one_that_a_person_wants_comes_before_it() -> None:
    chosen = choose_ports(["a", "b"], {"a": 20_001, "b": 20_002}, {"b": 8_400}, random.Random(1))
    assert chosen == {"a": 20_001, "b": 8_400}


def test_a_folder_keeps_its_ports_and_a_new_part_only_adds_one(tmp_path: Path) -> None:
    first = remember_ports(tmp_path, ["kafka", "a1"], {}, random.Random(1))
    second = remember_ports(tmp_path, ["worker-2-metrics"], {}, random.Random(2))
    assert first.items() <= second.items()
    assert load_ports(tmp_path) == second


def test_a_port_in_use_is_refused_with_its_number_its_part_its_holder_and_what_to_do(
    tmp_path: Path, taken_port: int
) -> None:
    with pytest.raises(StackError) as refused:
        refuse_taken(tmp_path, {"kafka": taken_port}, ["kafka"])
    sentence = str(refused.value)
    assert f"port {taken_port} of kafka is in use" in sentence
    assert f"(pid {os.getpid()})" in sentence
    assert str(tmp_path / "ports.json") in sentence


def test_no_free_port_in_the_whole_range_is_said_instead_of_looking_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infra.stack.ports.is_free", lambda _port: False)
    with pytest.raises(StackError, match="no free port"):
        choose_ports(["a"], {}, {}, random.Random(1))


@pytest.mark.parametrize("text", ["{", "[1]", json.dumps({"a": "x"})])
def test_a_damaged_ports_file_is_named_with_what_to_do(tmp_path: Path, text: str) -> None:
    (tmp_path / "ports.json").write_text(text)
    with pytest.raises(StackError, match="delete it"):
        load_ports(tmp_path)
