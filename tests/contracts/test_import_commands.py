"""`fanfold import` as it is called: output, exit codes, and what it says to a person."""

import gzip
import io
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from infra.cli import main
from infra.composition import Stores
from infra.live_settings import set_live_settings
from infra.settings import PREFIX, Settings
from producers import importer
from producers.import_commands import progress_of

Run = Callable[..., int]
TWEET = '{"author": 1, "text": "x", "created_at": "2015-02-16T23:36:00Z"}\n'


@pytest.fixture
def run(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Runs a command line in an empty folder and returns its exit code."""
    monkeypatch.chdir(tmp_path)
    for name in ("database_url", "zookeeper_hosts"):
        monkeypatch.setenv(PREFIX + name.upper(), getattr(settings, name))
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def run_command(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["fanfold", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0)

    yield run_command
    for number, handler in before.items():
        signal.signal(number, handler)


def make_user(engine: sa.Engine, user_id: int) -> None:
    with engine.begin() as connection:
        connection.execute(sa.text("INSERT INTO users (id, handle) VALUES (:id, 'h' || :id)"), {"id": user_id})


def test_json_is_one_object_and_the_threshold_is_the_live_one(
    run: Run, stores: Stores, capfd: pytest.CaptureFixture[str]
) -> None:
    set_live_settings(stores.zookeeper, threshold=2)
    Path("follows.gz").write_bytes(gzip.compress(b"1,9\n2,9\n3,9\n1,8\n2,8\n7,7\n"))
    assert run("import", "follows", "follows.gz", "--json") == 0
    out, said = capfd.readouterr()
    assert json.loads(out) == {
        "lines": 6,
        "imported": 5,
        "already": 0,
        "bad": 1,
        "bad_lines_file": "follows.gz.bad.tsv",
        "users_created": 5,
        "celebrities": 1,
        "complete": True,
    }
    assert "imported 5 follows of 6 lines from follows.gz" in said
    assert "1 bad line left out, with numbers and reasons in follows.gz.bad.tsv" in said
    assert "celebrities now: 1" in said


def test_the_same_file_again_says_so_and_another_name_imports_it_again(
    run: Run, engine: sa.Engine, capfd: pytest.CaptureFixture[str]
) -> None:
    make_user(engine, 1)
    Path("tweets.jsonl").write_text(TWEET)
    assert run("import", "tweets", "tweets.jsonl") == 0
    assert run("import", "tweets", "tweets.jsonl") == 0
    out, said = capfd.readouterr()
    assert out == ""
    assert "tweets.jsonl is already imported (1 line); nothing changed" in said
    assert run("import", "tweets", "tweets.jsonl", "--name", "again", "--json") == 0
    assert json.loads(capfd.readouterr().out)["imported"] == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["tweets", "missing.jsonl"], "fanfold: file missing.jsonl does not exist"),
        (["follows", "missing.tsv"], "fanfold: file missing.tsv does not exist"),
        (["tweets", "."], "fanfold: . is not a file"),
        (["tweets", "bad.jsonl", "--strict"], "fanfold: line 2 of bad.jsonl cannot be imported: it is not JSON: '{'"),
        (["tweets", "worse.jsonl"], "fanfold: no line of worse.jsonl is a good one; worse.jsonl.bad.tsv says why"),
        (["tweets", "cut.gz"], "fanfold: file cut.gz is cut off"),
    ],
)
def test_bad_use_is_one_sentence_and_exit_2(
    run: Run, engine: sa.Engine, capfd: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    make_user(engine, 1)
    Path("bad.jsonl").write_text(TWEET + "{\n")
    Path("worse.jsonl").write_text("{\n")
    Path("cut.gz").write_bytes(gzip.compress(TWEET.encode())[:-4])
    assert run("import", *arguments) == 2
    said = capfd.readouterr().err.splitlines()
    assert said[-1].startswith(sentence)
    with engine.connect() as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM tweets")).scalar_one() == 0


def test_ctrl_c_ends_after_the_batch_in_hand_and_says_how_to_go_on(
    run: Run, engine: sa.Engine, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_user(engine, 1)
    Path("tweets.jsonl").write_text(TWEET * 5)
    taken = importer.import_tweets

    def import_tweets(*given: object, progress: importer.Progress, **options: object) -> importer.ImportResult:
        def press(lines: int, of: int) -> None:
            progress(lines, of)
            if lines == 2:
                os.kill(os.getpid(), signal.SIGINT)

        return taken(*given, progress=press, batch_lines=2, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(importer, "import_tweets", import_tweets)
    assert run("import", "tweets", "tweets.jsonl", "--json") == 130
    out, said = capfd.readouterr()
    assert (json.loads(out)["imported"], json.loads(out)["complete"]) == (2, False)
    assert "run the same command again to go on" in said
    monkeypatch.undo()


def test_progress_is_a_line_now_and_then_where_there_is_no_terminal(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("producers.import_commands.time.monotonic", lambda: now[0])
    with progress_of(Path("big.tsv")) as progress:
        for lines in range(1, 9):
            now[0] += 2
            progress(lines * 1000, 8000)
    assert capfd.readouterr().err.splitlines() == ["big.tsv: 3,000 of 8,000 lines", "big.tsv: 6,000 of 8,000 lines"]


def test_progress_is_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with progress_of(Path("big.tsv")) as progress:
        progress(4000, 8000)
    assert "4000/8000" in terminal.getvalue()
    assert "50%" in terminal.getvalue()
