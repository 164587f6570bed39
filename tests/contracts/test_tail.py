"""`fanfold tail` as a user runs it, on the real servers."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from infra.cli import build_app
from infra.composition import Stores
from infra.errors import FanfoldError, InvalidInput, NotFound
from infra.events import Activity, ActivityType
from infra.settings import PREFIX, Settings
from producers.publish import NewTweet, Publisher
from tests.live_client import Logs

POSTED, FOLLOWED = ActivityType.POSTED, ActivityType.FOLLOWED
ENDS_WITHIN_S = 5.0
WITHIN_S = 60.0

MakeUsers = Callable[[int], list[int]]


@pytest.fixture
def logs(settings: Settings) -> Iterator[Logs]:
    made = Logs(settings.kafka_bootstrap)
    yield made
    made.close()


@pytest.fixture
def environ(settings: Settings) -> dict[str, str]:
    return {key: value for key, value in os.environ.items() if not key.startswith(PREFIX)} | {
        f"{PREFIX}DATABASE_URL": settings.database_url,
        f"{PREFIX}KAFKA_BOOTSTRAP": settings.kafka_bootstrap,
        f"{PREFIX}ZOOKEEPER_HOSTS": settings.zookeeper_hosts,
    }


def command(folder: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "infra", "--data-dir", str(folder), "tail", *words]


def test_it_prints_what_was_asked_for_to_programs_and_to_people(
    environ: dict[str, str], stores: Stores, publisher: Publisher, logs: Logs, make_users: MakeUsers, tmp_path: Path
) -> None:
    ann, bob = make_users(2)
    tweet = publisher.post(NewTweet(ann, "Hello BOB \x1b[2J")).id
    now_ms = time.time_ns() // 1_000_000
    logs.happen(Activity(POSTED, ann, tweet, now_ms))
    logs.happen(Activity(FOLLOWED, ann, bob, now_ms))

    def lines(*words: str) -> list[str]:
        done = subprocess.run(
            command(tmp_path, *words), env=environ, capture_output=True, text=True, timeout=WITHIN_S, check=True
        )
        assert done.stderr == ""
        return done.stdout.splitlines()

    found = [json.loads(line) for line in lines("--author", str(ann), "--json")]
    assert [(one["type"], one["author_id"]) for one in found] == [("posted", str(ann)), ("followed", str(ann))]
    assert (found[0]["tweet_id"], found[0]["text"], found[1]["follower_id"]) == (
        str(tweet),
        "Hello BOB \x1b[2J",
        str(bob),
    )

    [line] = lines("--from", "beginning", "--author", f"@u{ann}", "--type", "posted", "--grep", "hello bob")
    assert line.endswith(f"tweet {tweet}  Hello BOB \\x1b[2J")


def test_it_follows_until_it_is_told_to_end(
    environ: dict[str, str], stores: Stores, logs: Logs, make_users: MakeUsers, tmp_path: Path
) -> None:
    [ann] = make_users(1)
    words = command(tmp_path, "--from", "1m", "--author", str(ann), "--follow", "--json")
    logs.happen(Activity(FOLLOWED, ann, 1, 1))
    with subprocess.Popen(words, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["follower_id"] == "1"
        logs.happen(Activity(FOLLOWED, ann, 2, 1))
        assert json.loads(process.stdout.readline())["follower_id"] == "2"
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=ENDS_WITHIN_S)

    assert (process.returncode, out, err) == (0, "", "")


def test_a_reader_that_goes_away_ends_it_quietly(
    environ: dict[str, str], stores: Stores, logs: Logs, make_users: MakeUsers, tmp_path: Path
) -> None:
    [ann] = make_users(1)
    words = command(tmp_path, "--from", "1m", "--author", str(ann), "--follow")
    logs.happen(Activity(FOLLOWED, ann, 1, 1))
    with subprocess.Popen(words, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        logs.happen(Activity(FOLLOWED, ann, 2, 1))
        assert process.wait(WITHIN_S) == 0
        assert process.stderr.read() == ""


@pytest.mark.parametrize(
    ("words", "error", "said"),
    [
        (("--author", "nobody"), NotFound, "there is no user 'nobody'; name an id or a handle"),
        (("--author", "4711"), NotFound, "user 4711 does not exist"),
        (("--type", "liked"), InvalidInput, "'liked' is no type of event; those are posted, "),
        (("--from", "2999-01-01T00:00Z"), InvalidInput, "is in the future"),
        (("--from", "soon"), InvalidInput, "'soon' says not where to begin"),
        (("--from", "0:999999999"), InvalidInput, "activity 0 does not have offset 999999999; it has 0 to"),
        (("--from", "99:0"), InvalidInput, "activity has no partition 99; it has 0 to 7"),
        (("--grep", ""), InvalidInput, "has 1 to 1000 characters"),
    ],
)
def test_what_cannot_be_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
    environ: dict[str, str],
    stores: Stores,
    tmp_path: Path,
    words: tuple[str, ...],
    error: type[FanfoldError],
    said: str,
) -> None:
    for key, value in environ.items():
        monkeypatch.setenv(key, value)

    with pytest.raises(error, match=said):
        build_app("tail")(["--data-dir", str(tmp_path), "tail", *words], standalone_mode=False)


def test_a_time_without_a_zone_is_taken_as_utc_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    environ: dict[str, str],
    stores: Stores,
    tmp_path: Path,
) -> None:
    for key, value in environ.items():
        monkeypatch.setenv(key, value)
    words = ["--data-dir", str(tmp_path), "tail", "--from", "2026-01-31T12:00", "--author", "4711"]

    with pytest.raises(NotFound):
        build_app("tail")(words, standalone_mode=False)

    assert "2026-01-31T12:00 has no zone and is taken as UTC: 2026-01-31T12:00:00.000Z" in capsys.readouterr().err
