"""`fanfold config get|set|history|rollback` on a real ZooKeeper: checked, versioned, never half done."""

import itertools
import json
import secrets
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from infra.cli import main
from infra.live_settings import SETTINGS, LiveSettings, ensure_live_settings, read_live_settings, set_live_settings
from infra.settings_history import VERSIONS_MAX, read_history
from infra.zookeeper import LIVE_SETTINGS_PATH, ZooKeeper
from tests.services import Services

Config = Callable[..., tuple[int, str, str]]


@pytest.fixture
def hosts(services: Services) -> str:
    """A folder of this test's own."""
    return f"{services.zookeeper}/test_{secrets.token_hex(6)}"


@pytest.fixture
def zookeeper(hosts: str) -> Iterator[ZooKeeper]:
    session = ZooKeeper(hosts)
    yield session
    session.close()


@pytest.fixture
def config(hosts: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Config:
    """Runs `fanfold config …`; the exit code, standard output and standard error."""

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setenv("FANFOLD_ZOOKEEPER_HOSTS", hosts)
        monkeypatch.setattr(sys, "argv", ["fanfold", "--data-dir", str(tmp_path), "config", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return run


def answer(config: Config, *words: str) -> Any:
    """The one JSON object of a command that succeeds."""
    code, out, _ = config(*words, "--json")
    assert code == 0
    assert out.count("\n") == 1
    return json.loads(out)


def test_a_change_is_shown_by_get_and_by_the_history(config: Config, zookeeper: ZooKeeper) -> None:
    ensure_live_settings(zookeeper)

    assert answer(config, "set", "threshold=5", "rate_per_token=0") == {
        "version": 2,
        "changes": [
            {"name": "threshold", "old": 10_000, "new": 5},
            {"name": "rate_per_token", "old": 200, "new": 0},
        ],
    }
    shown = answer(config, "get", "threshold")
    assert shown["version"] == 2
    assert shown["settings"]["threshold"] == {
        "value": 5,
        "default": 10_000,
        "low": 1,
        "high": 100_000,
        "unit": "followers",
        "meaning": SETTINGS["threshold"].meaning,
    }
    assert list(answer(config, "get")["settings"]) == list(SETTINGS)
    newest, first = answer(config, "history")["versions"]
    assert (newest["version"], newest["values"]["threshold"], first["version"]) == (2, 5, 1)
    assert "@" in newest["by"]
    assert read_live_settings(zookeeper) == LiveSettings(threshold=5, rate_per_token=0)


def test_people_are_shown_the_same_in_lines(config: Config, zookeeper: ZooKeeper) -> None:
    ensure_live_settings(zookeeper)

    assert config("set", "threshold", "5")[2] == "threshold 10,000 → 5\nversion 2\n"
    assert config("set", "threshold", "5")[2] == "nothing to change: version 2 stays in force\n"
    code, out, err = config("get")
    assert (code, err) == (0, "version 2\n")
    header, *lines = out.splitlines()
    assert header.split() == ["name", "value", "default", "range", "unit", "meaning"]
    assert [line.split()[0] for line in lines] == list(SETTINGS)
    assert "5" in lines[0].split()
    assert SETTINGS["threshold"].meaning in lines[0]
    history = config("history")[1].splitlines()
    assert [line.split("\t")[0] for line in history] == ["2", "1"]
    assert history[0].endswith("\tthreshold 10,000 → 5")


def test_before_anything_is_stored_the_defaults_are_shown_and_nothing_is_written(
    config: Config, zookeeper: ZooKeeper
) -> None:
    assert answer(config, "get", "threshold")["version"] == 0
    assert answer(config, "history") == {"versions": []}
    assert config("rollback")[0] == 2

    assert zookeeper.read(LIVE_SETTINGS_PATH) is None


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["get", "thresold"], "'thresold' is no live setting; they are threshold"),
        (["set", "thresold=5"], "'thresold' is no live setting; they are threshold"),
        (["set", "threshold=0"], "live setting threshold is 0, but must be a whole number from 1 to 100,000"),
        (["set", "threshold", "-5"], "live setting threshold is -5, but must be"),
        (["set", "threshold=5", "rate_per_token=-1"], "live setting rate_per_token is -1, but must be"),
        (["rollback", "9"], "there is no version 9 of the live settings: those kept are 1 to 1"),
        (["rollback"], "there is no older version of the live settings to go back to"),
    ],
)
def test_bad_use_is_one_sentence_with_exit_code_2_and_changes_nothing(
    config: Config, zookeeper: ZooKeeper, words: list[str], sentence: str
) -> None:
    ensure_live_settings(zookeeper)
    before = zookeeper.read(LIVE_SETTINGS_PATH)

    code, out, err = config(*words, "--json")

    assert (code, out) == (2, "")
    assert err.startswith(f"fanfold: {sentence}")
    assert err.count("\n") == 1
    assert zookeeper.read(LIVE_SETTINGS_PATH) == before
    assert len(read_history(zookeeper)) == 1


def test_a_rollback_puts_older_values_in_force_as_a_new_version(config: Config, zookeeper: ZooKeeper) -> None:
    ensure_live_settings(zookeeper)
    set_live_settings(zookeeper, threshold=5)
    set_live_settings(zookeeper, rate_per_token=0)

    undone = answer(config, "rollback")
    assert undone == {"version": 4, "changes": [{"name": "rate_per_token", "old": 0, "new": 200}]}
    assert read_live_settings(zookeeper) == LiveSettings(threshold=5)
    assert answer(config, "rollback", "1")["version"] == 5
    assert read_live_settings(zookeeper) == LiveSettings()
    assert answer(config, "rollback", "1") == {"version": 5, "changes": []}
    history = answer(config, "history")["versions"]
    assert [(one["version"], one["rollback_to"]) for one in history] == [
        (5, 1),
        (4, 2),
        (3, None),
        (2, None),
        (1, None),
    ]
    assert config("history")[1].splitlines()[1].endswith("rate_per_token 0 → 200 (rollback to 2)")


def test_a_value_that_somebody_wrote_by_hand_is_shown_as_it_was(config: Config, zookeeper: ZooKeeper) -> None:
    ensure_live_settings(zookeeper)
    data, version = zookeeper.read(LIVE_SETTINGS_PATH) or (b"", 0)
    assert zookeeper.compare_and_set(
        LIVE_SETTINGS_PATH, data.replace(b'"threshold": 10000', b'"threshold": "many"'), version
    )

    assert config("set", "threshold=5")[::2] == (0, "threshold 'many' → 5\nversion 2\n")
    assert config("history")[1].splitlines()[0].endswith("\tthreshold 'many' → 5")


def test_what_nobody_can_read_is_one_sentence_until_a_rollback_replaces_it(
    config: Config, zookeeper: ZooKeeper
) -> None:
    ensure_live_settings(zookeeper)
    set_live_settings(zookeeper, threshold=5)
    found = zookeeper.read(LIVE_SETTINGS_PATH)
    assert found is not None
    assert zookeeper.compare_and_set(LIVE_SETTINGS_PATH, b"nonsense", found[1])

    for words in (["get"], ["set", "threshold=6"]):
        code, _, err = config(*words)
        assert code == 1
        assert "the live settings in ZooKeeper cannot be read: they begin with b'nonsense'" in err
        assert err.count("\n") == 1

    assert answer(config, "rollback")["version"] == 3
    assert read_live_settings(zookeeper) == LiveSettings(threshold=5)


def test_changes_at_the_same_time_all_take_effect_and_each_has_its_version(hosts: str, zookeeper: ZooKeeper) -> None:
    ensure_live_settings(zookeeper)
    sessions = [ZooKeeper(hosts) for _ in range(6)]
    names = list(SETTINGS)[: len(sessions)]

    def change(session: ZooKeeper, name: str) -> None:
        for step in range(5):
            set_live_settings(session, **{name: SETTINGS[name].low + step + 1})

    with ThreadPoolExecutor(len(sessions)) as threads:
        for done in [threads.submit(change, *one) for one in zip(sessions, names, strict=True)]:
            done.result()
    for session in sessions:
        session.close()

    assert read_live_settings(zookeeper) == LiveSettings(**{name: SETTINGS[name].low + 5 for name in names})
    history = read_history(zookeeper)
    assert [one.version for one in history] == list(range(31, 0, -1))
    for newer, older in itertools.pairwise(history):
        (change_,) = newer.changes
        assert newer.values == {**older.values, change_.name: change_.new}


def test_the_history_is_bounded_and_its_oldest_versions_go(zookeeper: ZooKeeper) -> None:
    for number in range(VERSIONS_MAX + 5):
        set_live_settings(zookeeper, threshold=number + 1)

    history = read_history(zookeeper)
    assert [one.version for one in history] == list(range(VERSIONS_MAX + 5, 5, -1))
    assert read_live_settings(zookeeper).version == VERSIONS_MAX + 5


def test_without_a_zookeeper_a_command_says_so_with_exit_code_3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("infra.zookeeper.CONNECT_TIMEOUT_S", 0.2)
    monkeypatch.setenv("FANFOLD_ZOOKEEPER_HOSTS", "127.0.0.1:1")
    monkeypatch.setattr(sys, "argv", ["fanfold", "--data-dir", str(tmp_path), "config", "set", "threshold=5"])

    with pytest.raises(SystemExit) as ended:
        main()

    assert ended.value.code == 3
    *_, last = capsys.readouterr().err.splitlines()  # kazoo logs its tries before
    assert last == "fanfold: ZooKeeper at 127.0.0.1:1 does not answer: Connection time-out"
