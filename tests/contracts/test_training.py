"""What the Java runtime learns of Kafka, and that it may fail without harm."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from infra.errors import StackError
from infra.stack import java, training
from infra.stack.java import java_command
from infra.stack.kafka_broker import MAIN_CLASS
from infra.stack.part import Part

SAID: list[str] = []


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a test's own training goes, and where servers look for it."""
    monkeypatch.setattr(java, "TRAINED", tmp_path / "made" / "java.aot")
    monkeypatch.setattr(training, "LOAD_S", 1.0)
    return java.TRAINED


def test_a_server_uses_what_was_learned_and_starts_without_it(target: Path, tmp_path: Path) -> None:
    assert not any(java.USES_TRAINED in word for word in java_command(tmp_path, (), MAIN_CLASS))
    target.parent.mkdir()
    target.touch()
    assert f"{java.USES_TRAINED}{target}" in java_command(tmp_path, (), MAIN_CLASS)


def test_what_was_learned_fits_the_servers_that_are_started(target: Path, tmp_path: Path) -> None:
    training.train(target, SAID.append)
    command = java_command(tmp_path, (), MAIN_CLASS)
    only_with_it = (*command[: command.index(MAIN_CLASS)], "-XX:AOTMode=on", "-version")  # fails if it does not fit
    assert subprocess.run(only_with_it, capture_output=True, check=False).returncode == 0
    assert sorted(target.parent.iterdir()) == [target]


@pytest.mark.parametrize(
    ("program", "starts", "expected"),
    [
        ("print('no such option'); raise SystemExit(1)", False, "kafka does not start; it said:\nno such option"),
        ("import time; print('learning', flush=True); time.sleep(60)", True, "wrote nothing .*said:\nlearning"),
    ],
)
def test_what_was_learned_before_stays_when_learning_fails(
    target: Path, monkeypatch: pytest.MonkeyPatch, program: str, starts: bool, expected: str
) -> None:
    def no_kafka(folder: Path, *_ports: int) -> Part:
        folder.mkdir()
        command: Sequence[str] = (sys.executable, "-c", program)
        said = folder.with_suffix(".log")
        return Part("kafka", "server", (*command,), "", lambda _: starts and b"learning" in said.read_bytes(), 1.0)

    monkeypatch.setattr(training, "kafka_part", no_kafka)
    monkeypatch.setattr(training, "_load", lambda _: None)
    # A Python in the place of Java takes this one for whatever it says.
    monkeypatch.setattr(training, "LEARNS", "-X")
    target.parent.mkdir()
    target.write_bytes(b"before")
    with pytest.raises(StackError, match=f"(?s){expected}"):
        training.train(target, SAID.append)
    assert target.read_bytes() == b"before"
    assert sorted(target.parent.iterdir()) == [target]
