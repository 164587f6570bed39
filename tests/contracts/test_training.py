"""What the Java runtime learns of Kafka, and that it may fail without harm."""

import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from infra.errors import StackError
from infra.stack import java, training
from infra.stack.java import java_command
from infra.stack.kafka_broker import MAIN_CLASS
from infra.stack.part import Part
from tests.waiting import wait_until


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
    training.train(target, threading.Event())
    assert training.fits(tmp_path)
    assert sorted(target.parent.iterdir()) == [target]
    target.write_bytes(target.read_bytes()[: 1 << 20])
    assert not training.fits(tmp_path), "half of it is of no use"
    target.unlink()
    assert not training.fits(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_training_that_is_told_to_end_leaves_nothing(target: Path, number: signal.Signals) -> None:
    code = "import sys; from pathlib import Path; from infra.stack import java, training"
    code += "; java.TRAINED = Path(sys.argv[1]); sys.exit(training.main())"
    process = subprocess.Popen([sys.executable, "-c", code, str(target)])
    try:
        wait_until(lambda: bool(kafkas(process.pid)), "the broker", 30)
        [broker] = kafkas(process.pid)
        process.send_signal(number)
        assert process.wait(30) == 1
        assert not broker.is_running()
        assert not list(target.parent.iterdir())
    finally:
        process.kill()
        process.wait()


def kafkas(pid: int) -> list[psutil.Process]:
    """The brokers that a process has started; the tool that formats their folders is none."""
    children = psutil.Process(pid).children()
    return [child for child in children if child.is_running() and MAIN_CLASS in command_of(child)]


def command_of(process: psutil.Process) -> list[str]:
    with suppress(psutil.Error):
        return list(process.cmdline())
    return []


@pytest.mark.parametrize(
    ("program", "starts", "expected"),
    [
        (
            "print('no such option'); raise SystemExit(1)",
            False,
            "kafka ended with exit code 1 while it started.*no such option",
        ),
        ("import signal; print('learning', flush=True); signal.pause()", True, "wrote nothing .*said:\n +learning"),
    ],
)
def test_what_was_learned_before_stays_when_learning_fails(
    target: Path, monkeypatch: pytest.MonkeyPatch, program: str, starts: bool, expected: str
) -> None:
    def no_kafka(folder: Path, *_ports: int) -> Part:
        folder.mkdir()
        command: Sequence[str] = (sys.executable, "-c", program)
        said = folder.parent / "logs" / "kafka.log"
        return Part("kafka", "server", (*command,), "", lambda _: starts and b"learning" in said.read_bytes(), 1.0)

    monkeypatch.setattr(training, "kafka_part", no_kafka)
    monkeypatch.setattr(training, "_load", lambda *_: None)
    # A Python in the place of Java takes this one for whatever it says.
    monkeypatch.setattr(training, "LEARNS", "-X")
    target.parent.mkdir()
    target.write_bytes(b"before")
    with pytest.raises(StackError, match=f"(?s){expected}"):
        training.train(target, threading.Event())
    assert target.read_bytes() == b"before"
    assert sorted(target.parent.iterdir()) == [target]
