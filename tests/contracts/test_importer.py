"""Importing files on the real PostgreSQL."""

import gzip
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from infra.cloud_events import TYPES
from infra.database import lock_authors, transaction
from infra.errors import DatabaseUnavailable, InvalidInput, NotFound
from infra.events import Activity, ActivityType, decode_activity
from producers.import_rows import copy_rows
from producers.importer import ImportResult, import_follows, import_tweets
from producers.snowflake import snowflake
from producers.status_keeper import due_steps

THRESHOLD = 3
NOW_MS = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp() * 1000)
TIME = "2015-02-16T23:36:00Z"
TIME_MS = int(datetime(2015, 2, 16, 23, 36, tzinfo=UTC).timestamp() * 1000)
TABLES = ("users", "follows", "tweets", "outbox", "imports")


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def follows_file(rows: Iterable[str], name: str = "follows.tsv") -> Path:
    path = Path(name)
    path.write_text("follower\tauthor\n" + "".join(f"{row}\n" for row in rows), encoding="utf-8")
    return path


def tweets_file(tweets: Iterable[Mapping[str, object] | str], name: str = "tweets.jsonl") -> Path:
    path = Path(name)
    lines = [one if isinstance(one, str) else json.dumps({"text": "x", "created_at": TIME, **one}) for one in tweets]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def rows(engine: sa.Engine, query: str) -> list[Any]:
    with engine.connect() as connection:
        found = connection.execute(sa.text(query)).all()
    return [row[0] if len(row) == 1 else tuple(row) for row in found]


def contents(engine: sa.Engine) -> dict[str, list[Any]]:
    """Everything in the tables."""
    return {table: sorted(map(repr, rows(engine, f"SELECT * FROM {table}"))) for table in TABLES}


def events(engine: sa.Engine) -> list[Activity]:
    """The outbox in its order."""
    payloads = rows(engine, "SELECT payload FROM outbox ORDER BY id")
    return [decode_activity(payload.encode()) for payload in payloads]


def make_users(engine: sa.Engine, *ids: int, active: bool = False) -> None:
    until = "now() + interval '1 day'" if active else "now() - interval '1 second'"
    with engine.begin() as connection:
        for user_id in ids:
            connection.execute(
                sa.text(f"INSERT INTO users (id, handle, active_until) VALUES (:id, 'h' || :id, {until})"),
                {"id": user_id},
            )


def ring(count: int) -> list[str]:
    """Each user follows the next one."""
    return [f"{user_id}\t{user_id % count + 1}" for user_id in range(1, count + 1)]


def test_follows_create_their_users_under_the_ids_of_the_file(engine: sa.Engine) -> None:
    result = import_follows(engine, follows_file(["1\t2", "3\t2"]), threshold=THRESHOLD)
    assert result == ImportResult(2, 2, 0, 0, None, 3, 0)
    assert rows(engine, "SELECT follower_id, author_id FROM follows ORDER BY 1") == [(1, 2), (3, 2)]
    assert rows(engine, "SELECT id, handle, status FROM users ORDER BY 1") == [
        (1, "u1", "push"),
        (2, "u2", "push"),
        (3, "u3", "push"),
    ]


def test_csv_gzip_and_a_header_in_another_order_are_told_from_the_content(engine: sa.Engine) -> None:
    path = Path("plain-name")
    path.write_bytes(gzip.compress(b"author,follower\r\n2,1\r\n"))
    assert import_follows(engine, path, threshold=THRESHOLD).imported == 1
    assert rows(engine, "SELECT follower_id, author_id FROM follows") == [(1, 2)]


def test_users_that_are_there_keep_their_handles(engine: sa.Engine) -> None:
    make_users(engine, 1)
    assert import_follows(engine, follows_file(["1\t2"]), threshold=THRESHOLD).users_created == 1
    assert rows(engine, "SELECT handle FROM users ORDER BY id") == ["h1", "u2"]


@pytest.mark.parametrize("batch_lines", [1, 2, 3, 100])
def test_authors_above_the_threshold_become_celebrities_and_one_at_it_does_not(
    engine: sa.Engine, batch_lines: int
) -> None:
    at, above = [f"{n}\t100" for n in range(1, THRESHOLD + 1)], [f"{n}\t200" for n in range(1, THRESHOLD + 2)]
    result = import_follows(engine, follows_file(at + above), threshold=THRESHOLD, batch_lines=batch_lines)
    assert result.celebrities == 1
    assert rows(engine, "SELECT id FROM users WHERE status = 'pull'") == [200]


def test_an_author_above_the_threshold_is_left_to_the_status_keeper_while_somebody_has_to_be_told(
    engine: sa.Engine,
) -> None:
    make_users(engine, 99, active=True)

    result = import_follows(engine, follows_file([f"{n}\t200" for n in range(1, THRESHOLD + 2)]), threshold=THRESHOLD)

    assert result.celebrities == 0
    assert [step.author_id for step in due_steps(engine, THRESHOLD)] == [200]


def test_an_import_counts_followers(engine: sa.Engine) -> None:
    lines = [f"{n}\t{author}" for author in (100, 200) for n in range(1, 8)]
    import_follows(engine, follows_file([*lines, *lines[:3]]), threshold=THRESHOLD, batch_lines=3)
    make_users(engine, 99, active=True)
    import_follows(engine, follows_file(["99\t100", "1\t100"], "more"), threshold=THRESHOLD)

    assert rows(engine, "SELECT * FROM follower_counts ORDER BY author_id") == [(100, 8), (200, 7)]


def test_followers_of_earlier_imports_count_towards_the_threshold(engine: sa.Engine) -> None:
    import_follows(engine, follows_file([f"{n}\t100" for n in range(1, THRESHOLD + 1)], "one"), threshold=THRESHOLD)
    result = import_follows(engine, follows_file(["50\t100", "1\t100"], "two"), threshold=THRESHOLD)
    assert (result.imported, result.already, result.celebrities) == (1, 1, 1)


def test_a_follow_that_is_there_or_twice_in_the_file_counts_as_already(engine: sa.Engine) -> None:
    import_follows(engine, follows_file(["1\t2"], "one"), threshold=THRESHOLD)
    result = import_follows(engine, follows_file(["1\t2", "3\t2", "3\t2", "4\t2"], "two"), threshold=THRESHOLD)
    assert (result.lines, result.imported, result.already, result.bad) == (4, 2, 2, 0)


@pytest.mark.parametrize("batch_lines", [1, 2, 100])
def test_follows_tell_their_events_in_the_order_of_the_file_while_somebody_is_active(
    engine: sa.Engine, batch_lines: int
) -> None:
    make_users(engine, 99, active=True)
    path = follows_file(["9\t5", "1\t5", "1\t5", "8\t4", "2\t5"])
    import_follows(engine, path, threshold=THRESHOLD, batch_lines=batch_lines, clock_ms=lambda: NOW_MS)
    assert events(engine) == [
        Activity(ActivityType.FOLLOWED, author_id, follower_id, NOW_MS)
        for follower_id, author_id in [(9, 5), (1, 5), (8, 4), (2, 5)]
    ]
    assert rows(
        engine, "SELECT DISTINCT aggregatetype, aggregateid = payload::json ->> 'author_id', type FROM outbox"
    ) == [("activity", True, TYPES[ActivityType.FOLLOWED])]


def test_follows_tell_no_events_while_nobody_is_active(engine: sa.Engine) -> None:
    make_users(engine, 99, active=False)
    import_follows(engine, follows_file(["1\t2"]), threshold=THRESHOLD)
    assert events(engine) == []


def test_follows_tell_their_events_once_somebody_has_posted(engine: sa.Engine) -> None:
    """A worker may hold the author's followers by then, and knows of new ones by their events only."""
    make_users(engine, 10, active=False)
    with engine.begin() as connection:
        connection.execute(sa.text("INSERT INTO tweets (id, author_id, created_at) VALUES (5, 10, now())"))

    import_follows(engine, follows_file(["1\t10"]), threshold=THRESHOLD)

    assert rows(engine, "SELECT type FROM outbox") == [TYPES[ActivityType.FOLLOWED]]


def test_somebody_who_becomes_active_between_two_batches_gets_the_events_from_then_on(engine: sa.Engine) -> None:
    def progress(lines: int, _of: int) -> None:
        if lines == 3:  # the header and two follows
            make_users(engine, 99, active=True)

    import_follows(engine, follows_file(ring(4)), threshold=THRESHOLD, batch_lines=2, progress=progress)
    assert [event.other_id for event in events(engine)] == [3, 4]


def test_tweets_get_ids_from_their_times_and_events_in_the_order_of_the_file(engine: sa.Engine) -> None:
    make_users(engine, 1, 2)
    path = tweets_file(
        [
            {"author": 2, "text": "second &amp; last", "created_at": "2015-02-17T01:36:01.5+02:00"},
            {"author": 1, "text": 'tab\t, "quote", back\\slash, line\nend, \\N, 😡'},
            {"author": 1},
        ]
    )
    result = import_tweets(engine, path, clock_ms=lambda: NOW_MS)
    assert result == ImportResult(3, 3, 0, 0, None, 0, 0)
    first, other, late = snowflake(TIME_MS, 0, 0), snowflake(TIME_MS, 0, 1), snowflake(TIME_MS + 1_500, 0, 0)
    assert rows(engine, "SELECT id, author_id, text FROM tweets ORDER BY id") == [
        (first, 1, 'tab\t, "quote", back\\slash, line\nend, \\N, 😡'),
        (other, 1, "x"),
        (late, 2, "second &amp; last"),
    ]
    assert rows(engine, "SELECT created_at FROM tweets ORDER BY id DESC LIMIT 1") == [
        datetime(2015, 2, 16, 23, 36, 1, 500_000, UTC)
    ]
    assert events(engine) == [
        Activity(ActivityType.POSTED, author_id, tweet_id, NOW_MS)
        for author_id, tweet_id in [(2, late), (1, first), (1, other)]
    ]


@pytest.mark.parametrize("batch_lines", [1, 3, 100])
def test_tweets_whose_ids_are_taken_take_the_next_ones(engine: sa.Engine, batch_lines: int) -> None:
    make_users(engine, 1)
    with engine.begin() as connection:
        connection.execute(
            sa.text("INSERT INTO tweets (id, author_id, text, created_at) VALUES (:id, 1, 'taken', now())"),
            [{"id": snowflake(TIME_MS, 0, 1)}, {"id": snowflake(TIME_MS, 0, 4_095)}],
        )
    tweets = tweets_file([{"author": 1}] * 5)
    assert import_tweets(engine, tweets, batch_lines=batch_lines).imported == 5
    assert import_tweets(engine, tweets, name="again", batch_lines=batch_lines).imported == 5
    ids = rows(engine, "SELECT id FROM tweets WHERE text = 'x' ORDER BY id")
    assert ids == [snowflake(TIME_MS, 1, sequence) for sequence in range(10)]


@pytest.mark.parametrize("batch_lines", [1, 2, 100])
def test_bad_lines_go_to_a_file_with_number_and_reason_and_the_good_ones_are_kept(
    engine: sa.Engine, batch_lines: int
) -> None:
    make_users(engine, 1)
    path = tweets_file([{"author": 1}, {"author": 5}, "{", "", {"author": 1, "text": " "}, {"author": 1}])
    result = import_tweets(engine, path, batch_lines=batch_lines)
    assert result == ImportResult(5, 2, 0, 3, "tweets.jsonl.bad.tsv", 0, 0)
    reported = [line.split("\t")[:2] for line in Path("tweets.jsonl.bad.tsv").read_text().splitlines()]
    assert reported == [
        ["line", "reason"],
        ["2", "user 5 does not exist"],
        ["3", "it is not JSON"],
        ["5", "the text is empty; a tweet has 1 to 280 characters"],
    ]
    assert len(events(engine)) == 2


def test_bad_follows_leave_neither_users_nor_follows(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        connection.execute(sa.text("INSERT INTO users (id, handle) VALUES (1, 'u7'), (8, 'u1')"))
    path = follows_file(["3\t3", "x\t4", "5\t7", "8\t1", "7\t6"])
    result = import_follows(engine, path, threshold=THRESHOLD, bad_lines=Path("elsewhere.tsv"))
    assert (result.imported, result.bad, result.bad_lines_file) == (1, 4, "elsewhere.tsv")
    assert rows(engine, "SELECT id FROM users ORDER BY id") == [1, 8]
    assert rows(engine, "SELECT follower_id, author_id FROM follows") == [(8, 1)]
    assert "4\tuser 7 cannot be created: user 1 has the handle u7\t5\\t7" in Path("elsewhere.tsv").read_text()


def test_the_same_file_again_changes_nothing(engine: sa.Engine) -> None:
    make_users(engine, 99, active=True)
    follows = follows_file(["1\t2", "x\t2", *[f"{n}\t5" for n in range(10, 15)]])
    tweets = tweets_file([{"author": 1}, {"author": 1}])
    import_follows(engine, follows, threshold=THRESHOLD)
    import_tweets(engine, tweets)
    before, report = contents(engine), Path("follows.tsv.bad.tsv").read_bytes()
    assert import_follows(engine, follows, threshold=THRESHOLD) == ImportResult(7, 0, 7, 0, None, 0, 0)
    assert import_tweets(engine, tweets, strict=True) == ImportResult(2, 0, 2, 0, None, 0, 0)
    assert contents(engine) == before
    assert Path("follows.tsv.bad.tsv").read_bytes() == report


def test_lines_added_to_a_file_are_imported_by_the_next_run(engine: sa.Engine) -> None:
    import_follows(engine, follows_file(["1\t2"]), threshold=THRESHOLD)
    result = import_follows(engine, follows_file(["1\t2", "3\t2"]), threshold=THRESHOLD)
    assert (result.imported, result.already) == (1, 1)


def test_a_file_of_follows_and_one_of_tweets_may_have_the_same_name(engine: sa.Engine) -> None:
    import_follows(engine, follows_file(["1\t2"], "data"), threshold=THRESHOLD)
    assert import_tweets(engine, tweets_file([{"author": 1}], "data")).imported == 1


def test_a_file_without_one_good_line_can_be_imported_once_it_is_mended(engine: sa.Engine) -> None:
    before = contents(engine)
    path = tweets_file([{"author": 1}, {"author": 2}])
    assert import_tweets(engine, path, batch_lines=1).bad == 2
    assert contents(engine) == before
    make_users(engine, 1, 2)
    assert import_tweets(engine, path).imported == 2


def _strict_follows(engine: sa.Engine, path: Path, batch_lines: int) -> None:
    import_follows(engine, path, threshold=THRESHOLD, strict=True, batch_lines=batch_lines)


def _strict_tweets(engine: sa.Engine, path: Path, batch_lines: int) -> None:
    import_tweets(engine, path, strict=True, batch_lines=batch_lines)


@pytest.mark.parametrize("batch_lines", [2, 100])
@pytest.mark.parametrize(
    ("run", "make", "message"),
    [
        (_strict_follows, lambda: follows_file([*ring(5), "7\t7"]), "line 7 of .*cannot follow himself: '7.*7'"),
        (_strict_follows, lambda: follows_file([*ring(5), "8\t70", "x\t1"]), "line 7 .*has the handle u70"),
        (_strict_tweets, lambda: tweets_file([{"author": 1}] * 5 + [{"author": 5}, "{"]), "line 6 .*5 does not exist"),
        (_strict_tweets, lambda: tweets_file([{"author": 1}] * 5 + ["{", {"author": 5}]), "line 6 .*not JSON: '{'"),
    ],
)
def test_strict_stops_at_the_first_bad_line_and_changes_nothing(
    engine: sa.Engine,
    run: Callable[[sa.Engine, Path, int], None],
    make: Callable[[], Path],
    message: str,
    batch_lines: int,
) -> None:
    with engine.begin() as connection:
        connection.execute(sa.text("INSERT INTO users (id, handle) VALUES (1, 'u70')"))
    before = contents(engine)
    with pytest.raises(InvalidInput, match=message):
        run(engine, make(), batch_lines)
    assert contents(engine) == before
    assert not list(Path().glob("*.bad.tsv"))


def test_strict_imports_a_file_that_is_all_good(engine: sa.Engine) -> None:
    result = import_follows(engine, follows_file(ring(5)), threshold=THRESHOLD, strict=True, batch_lines=2)
    assert result == ImportResult(5, 5, 0, 0, None, 5, 0)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (None, NotFound, "does not exist"),
        (gzip.compress(b"1\t2\n" * 1_000_000, 1)[:-9], InvalidInput, "cut off"),
        (b"source\ttarget\n1\t2\n", InvalidInput, "neither a header"),
    ],
)
def test_a_file_that_cannot_be_read_changes_nothing(
    engine: sa.Engine, data: bytes | None, error: type[Exception], message: str
) -> None:
    path = Path("follows.tsv")
    if data is not None:
        path.write_bytes(data)
    before = contents(engine)
    with pytest.raises(error, match=message):
        import_follows(engine, path, threshold=THRESHOLD)
    assert contents(engine) == before


def test_an_empty_file_is_fine(engine: sa.Engine) -> None:
    Path("empty").touch()
    assert import_follows(engine, Path("empty"), threshold=THRESHOLD) == ImportResult(0, 0, 0, 0, None, 0, 0)
    assert import_tweets(engine, Path("empty")) == ImportResult(0, 0, 0, 0, None, 0, 0)
    assert import_follows(engine, follows_file([]), threshold=THRESHOLD).lines == 0


def test_bad_lines_never_overwrite_the_file_to_import(engine: sa.Engine) -> None:
    path = follows_file(["1\t1"])
    with pytest.raises(InvalidInput, match="which is the file to import"):
        import_follows(engine, path, threshold=THRESHOLD, bad_lines=path.absolute())
    with pytest.raises(InvalidInput, match="folder that is missing"):
        import_follows(engine, path, threshold=THRESHOLD, bad_lines=Path("missing/bad.tsv"))
    assert path.read_text() == "follower\tauthor\n1\t1\n"


def test_a_stopped_import_ends_between_two_batches_and_goes_on_where_it_was(engine: sa.Engine) -> None:
    stop = threading.Event()
    path = follows_file([*ring(5), *[f"{n}\t9" for n in range(1, THRESHOLD + 2)]])

    def progress(lines: int, _of: int) -> None:
        if lines > 4:
            stop.set()

    result = import_follows(engine, path, threshold=THRESHOLD, batch_lines=2, progress=progress, stop=stop)
    assert result == ImportResult(4, 4, 0, 0, None, 5, 0, complete=False)
    result = import_follows(engine, path, threshold=THRESHOLD, batch_lines=2)
    assert result == ImportResult(9, 5, 4, 0, None, 1, 1)


# Imports a file in batches of two lines and gets a signal at one of two moments: between batches, or after the rows,
# events and bad lines of the second batch are written, before its commit.
CHILD = """
import os, signal, sys
from pathlib import Path
from infra.database import make_engine
from producers import importer

url, moment, number = sys.argv[1], sys.argv[2], int(sys.argv[3])

def hit():
    os.kill(os.getpid(), number)

def progress(lines, _of):
    if moment == "between" and lines == 2:
        hit()

class Bad(importer.BadLinesFile):
    batches = 0
    def write(self, bad):
        super().write(bad)
        self.batches += 1
        if moment == "inside" and self.batches == 2:
            hit()

importer.BadLinesFile = Bad
importer.import_tweets(make_engine(url), Path("tweets.jsonl"), batch_lines=2, progress=progress)
"""


def child(database_url: str, moment: str, number: signal.Signals) -> "subprocess.Popen[bytes]":
    """Its folder is the test's own, so it gets the path of the code from here."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen([sys.executable, "-c", CHILD, database_url, moment, str(int(number))], env=environment)


@pytest.mark.parametrize("moment", ["between", "inside"])
def test_a_killed_import_goes_on_where_it_stopped(engine: sa.Engine, database_url: str, moment: str) -> None:
    make_users(engine, 1)
    path = tweets_file([{"author": 1, "text": "0"}, "{", {"author": 1, "text": "1"}, "[", {"author": 1, "text": "2"}])
    assert child(database_url, moment, signal.SIGKILL).wait(60) == -signal.SIGKILL
    assert rows(engine, "SELECT text FROM tweets") == ["0"]
    result = import_tweets(engine, path, batch_lines=2)
    assert (result.imported, result.already, result.bad) == (2, 2, 1)
    assert rows(engine, "SELECT text FROM tweets ORDER BY id") == ["0", "1", "2"]
    assert [event.other_id for event in events(engine)] == rows(engine, "SELECT id FROM tweets ORDER BY id")
    reported = Path("tweets.jsonl.bad.tsv").read_text().splitlines()
    assert [line.split("\t")[0] for line in reported] == ["line", "2", "4"]


def test_a_frozen_import_holds_publishers_up_for_a_few_seconds_only(engine: sa.Engine, database_url: str) -> None:
    make_users(engine, 1)
    tweets_file([{"author": 1}] * 4)
    frozen = child(database_url, "inside", signal.SIGSTOP)
    try:
        assert os.WIFSTOPPED(os.waitpid(frozen.pid, os.WUNTRACED)[1])
        deadline = time.monotonic() + 30
        while True:
            try:
                with transaction(engine) as connection:
                    lock_authors(connection, [1])
                break
            except DatabaseUnavailable:  # a publisher waits for a lock no longer than its limit
                assert time.monotonic() < deadline
        assert len(rows(engine, "SELECT id FROM tweets")) == 2
    finally:
        frozen.kill()
        frozen.wait()


def end_other_sessions(engine: sa.Engine) -> None:
    others = "datname = current_database() AND pid <> pg_backend_pid()"
    rows(engine, f"SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity WHERE {others}")


def test_a_connection_lost_before_a_commit_is_one_clear_error_and_the_import_goes_on_afterwards(
    engine: sa.Engine,
) -> None:
    make_users(engine, 1)
    path = tweets_file([{"author": 1}] * 6)
    asked = itertools.count(1)

    def clock_ms() -> int:
        if next(asked) == 6:  # each batch of two asks for both lines, then for its events
            end_other_sessions(engine)
        return NOW_MS

    with pytest.raises(DatabaseUnavailable, match="PostgreSQL at"):
        import_tweets(engine, path, batch_lines=2, clock_ms=clock_ms)
    assert len(rows(engine, "SELECT id FROM tweets")) == len(events(engine)) == 2
    assert import_tweets(engine, path, batch_lines=2).imported == 4


def test_a_copy_that_the_server_refuses_is_one_clear_error(engine: sa.Engine) -> None:
    def copy() -> None:
        with transaction(engine) as connection:
            connection.execute(sa.text("SET LOCAL lock_timeout = 1"))
            copy_rows(connection, "line", [(1,)])

    with engine.begin() as other:
        other.execute(sa.text("CREATE TABLE staged (line bigint)"))
    with engine.begin() as other:
        other.execute(sa.text("LOCK TABLE staged"))
        with pytest.raises(DatabaseUnavailable, match=r"PostgreSQL at .* lock timeout"):
            copy()


def test_an_import_waits_for_a_publish_that_is_under_way(engine: sa.Engine) -> None:
    make_users(engine, 1)
    path = tweets_file([{"author": 1}])
    results: list[ImportResult] = []
    with transaction(engine) as connection:
        lock_authors(connection, [1])
        thread = threading.Thread(target=lambda: results.append(import_tweets(engine, path)))
        thread.start()
        waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        deadline = time.monotonic() + 10
        while rows(engine, waiting) != [1]:
            assert time.monotonic() < deadline
        assert rows(engine, "SELECT id FROM tweets") == []
    thread.join(10)
    assert results[0].imported == 1


def test_two_imports_of_the_same_file_at_once_import_each_line_once(engine: sa.Engine) -> None:
    make_users(engine, 1)
    path = tweets_file([{"author": 1, "text": str(n)} for n in range(40)] + ["{"])
    results: list[ImportResult] = []
    start = threading.Barrier(2)

    def run(number: int) -> None:
        start.wait()
        results.append(import_tweets(engine, path, batch_lines=3, bad_lines=Path(f"{number}.tsv")))

    threads = [threading.Thread(target=run, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sum(result.imported for result in results) == 40
    assert sum(result.bad for result in results) == 1
    assert all(result.lines == 41 for result in results)
    assert rows(engine, "SELECT count(*), count(DISTINCT text) FROM tweets") == [(40, 40)]
    assert len(events(engine)) == 40
