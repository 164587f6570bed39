"""Import: files of follows and tweets into the tables, with the events that take them through the whole pipeline.

A file is taken in batches, each one transaction under the import's lock, which also writes how far the file got: so an
import is idempotent by file name and line number, and a killed one goes on where it stopped. Import follows before the
first user is active: then who is a celebrity is decided at its end, at once and without an event.
"""

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import sqlalchemy as sa

from infra import outbox
from infra.database import LOCK_TIMEOUT_MS, lock_for_import, reading, transaction
from infra.errors import InvalidInput
from producers.bad_lines import BadLine, BadLinesFile
from producers.import_files import BATCH_LINES_MAX, Line, batches, check_is_file, count_lines, numbered_lines
from producers.import_follows import FollowRows
from producers.import_rows import Numbered, Rows
from producers.import_tweets import TweetRows
from producers.publish import now_ms

WAIT_MS = 6 * LOCK_TIMEOUT_MS  # for publishers, each of which ends within their limit
SHOWN_CHARACTERS_MAX = 100  # of a bad line in a message

T = TypeVar("T")
Progress = Callable[[int, int], None]  # lines read so far, lines of the file


@dataclass(frozen=True, slots=True)
class ImportResult:
    """What an import did. `lines` (neither blank nor the header) = imported + already + bad.

    `already` counts lines of an earlier import and follows that are there. `bad_lines_file` is None when no line was
    bad. `celebrities` are all there are at the end, without those whom the status keeper will take there since somebody
    is active already. `complete` is False when it was stopped between two batches.
    """

    lines: int
    imported: int
    already: int
    bad: int
    bad_lines_file: str | None
    users_created: int
    celebrities: int
    complete: bool = True


@dataclass(slots=True)
class _Counts:
    lines: int = 0
    imported: int = 0
    bad: int = 0
    users: int = 0
    complete: bool = True


@dataclass(frozen=True, slots=True)
class _Options:
    name: str | None
    strict: bool
    bad_lines: Path | None
    progress: Progress
    stop: threading.Event
    batch_lines: int


def ignore_progress(_lines: int, _of: int) -> None:
    """For callers who do not show it."""


def import_follows(
    engine: sa.Engine,
    path: Path,
    *,
    threshold: int,
    name: str | None = None,
    strict: bool = False,
    bad_lines: Path | None = None,
    progress: Progress = ignore_progress,
    stop: threading.Event | None = None,
    clock_ms: Callable[[], int] = now_ms,
    batch_lines: int = BATCH_LINES_MAX,
) -> ImportResult:
    """Follows from TSV or CSV; creates the users they name; authors with more followers than `threshold` get `pull`,
    unless somebody has to be told of that: then the status keeper does it.

    `name` (default: the file's own) and the line number say what was imported before. Bad lines go to `bad_lines`
    (default: `<file name>.bad.tsv` in the current folder); with `strict` the first one raises `InvalidInput` and
    nothing is changed. When `stop` is set it ends after the batch in hand.
    """
    options = _Options(name, strict, bad_lines, progress, stop or threading.Event(), batch_lines)
    return _Import(engine, path, FollowRows(threshold, clock_ms), options).run()


def import_tweets(
    engine: sa.Engine,
    path: Path,
    *,
    name: str | None = None,
    strict: bool = False,
    bad_lines: Path | None = None,
    progress: Progress = ignore_progress,
    stop: threading.Event | None = None,
    clock_ms: Callable[[], int] = now_ms,
    batch_lines: int = BATCH_LINES_MAX,
) -> ImportResult:
    """Tweets from JSON lines (author, text, created_at) under ids made from `created_at`. Else as `import_follows`."""
    options = _Options(name, strict, bad_lines, progress, stop or threading.Event(), batch_lines)
    return _Import(engine, path, TweetRows(clock_ms), options).run()


class _Import(Generic[T]):
    """One run over one file."""

    def __init__(self, engine: sa.Engine, path: Path, rows: Rows[T], options: _Options) -> None:
        self._engine, self._path, self._rows, self._options = engine, path, rows, options
        if options.name is not None and not options.name.strip():
            raise InvalidInput("--name is empty; give the import a name, or leave --name out to use the file's")
        own_name = path.name.encode(errors="backslashreplace").decode()
        self._name = f"{rows.kind}:{options.name or own_name}"  # the same file name may be of both kinds
        self._bad_path = options.bad_lines or Path(f"{path.name}.bad.tsv")
        self._counts = _Counts()

    def run(self) -> ImportResult:
        check_is_file(self._path)
        done = self._done()
        bad_file = BadLinesFile(self._bad_path, done)
        bad_file.check(self._path)
        total = count_lines(self._path)
        self._options.progress(0, total)
        if self._options.strict:
            self._validate(done)
        with bad_file:
            for lines, last in self._batches(done):
                if self._options.stop.is_set():
                    self._counts.complete = False
                    break
                self._take(lines, last, bad_file)
                self._options.progress(lines[-1].number, total)
            return self._result(bad_file)

    def _batches(self, done: int) -> Iterator[tuple[list[Line], bool]]:
        """The lines after `done`, without the header; the others only count."""

        def new_lines() -> Iterator[Line]:
            for place, line in enumerate(numbered_lines(self._path)):
                if place == 0 and self._rows.is_header(line):
                    continue
                if line.number > done:
                    yield line
                else:
                    self._counts.lines += 1

        return batches(new_lines(), self._options.batch_lines)

    def _validate(self, done: int) -> None:
        """Raises `InvalidInput` for the first bad line, before anything is written."""
        for lines, _ in self._batches(done):
            if self._options.stop.is_set():
                break
            rows, bad = self._parsed(lines)
            with reading(self._engine) as connection:
                bad += self._refused(connection, rows, lines)
            self._check_strict(bad)
        self._counts = _Counts()

    def _take(self, lines: list[Line], last: bool, bad_file: BadLinesFile) -> None:
        """One batch. Killed before its commit, the next run reads it again and drops its bad lines from their file."""
        parsed, wrong = self._parsed(lines)
        with transaction(self._engine) as connection:
            connection.execute(_LIMITS)
            self._rows.stage(connection, parsed)
            lock_for_import(connection)
            self._rows.lock(connection)
            done = _lines_done(connection, self._name)
            rows = [row for row in parsed if row[0] > done]  # another import of the same file may be ahead
            bad = [line for line in wrong if line.number > done] + self._refused(connection, rows, lines)
            self._check_strict(bad)
            good = self._keep(connection, parsed, {row[0] for row in rows} - {line.number for line in bad})
            written = self._rows.write(connection, good)
            bad_file.write(sorted(bad))
            # A file without one good line so far leaves no trace, so that it can be imported once it is mended.
            if done or good or self._counts.lines > self._counts.bad:
                if last:
                    self._rows.finish(connection)
                connection.execute(_SAVE, {"name": self._name, "lines": max(done, lines[-1].number)})
        if written.events:
            outbox.wake_relay(self._engine)
        self._counts.lines += len(lines)
        self._counts.imported += written.rows
        self._counts.bad += len(bad)
        self._counts.users += written.users

    def _keep(self, connection: sa.Connection, staged: list[Numbered[T]], numbers: set[int]) -> list[Numbered[T]]:
        dropped = [number for number, _ in staged if number not in numbers]
        if dropped:
            connection.execute(_DROP_STAGED, {"lines": dropped})
        return [row for row in staged if row[0] in numbers]

    def _parsed(self, lines: list[Line]) -> tuple[list[Numbered[T]], list[BadLine]]:
        rows: list[Numbered[T]] = []
        bad: list[BadLine] = []
        for number, data in lines:
            try:
                rows.append((number, self._rows.parse(data)))
            except InvalidInput as error:
                bad.append(BadLine(number, str(error), data))
        return rows, bad

    def _refused(self, connection: sa.Connection, rows: list[Numbered[T]], lines: list[Line]) -> list[BadLine]:
        reasons = self._rows.refused(connection, rows)
        return [BadLine(number, reasons[number], data) for number, data in lines if number in reasons]

    def _check_strict(self, bad: list[BadLine]) -> None:
        if bad and self._options.strict:
            number, reason, data = min(bad)
            shown = data[: 4 * SHOWN_CHARACTERS_MAX].decode(errors="backslashreplace")[:SHOWN_CHARACTERS_MAX]
            raise InvalidInput(f"line {number} of {self._path} cannot be imported: {reason}: {shown!r}")

    def _done(self) -> int:
        with reading(self._engine) as connection:
            return _lines_done(connection, self._name)

    def _result(self, bad_file: BadLinesFile) -> ImportResult:
        counts = self._counts
        with reading(self._engine) as connection:
            if counts.imported:  # the plans of what reads these tables next are made from it
                connection.execute(sa.text(f"ANALYZE {self._rows.tables}"))
            celebrities = int(connection.execute(_COUNT_CELEBRITIES).scalar_one())
        already = counts.lines - counts.imported - counts.bad
        return ImportResult(
            counts.lines,
            counts.imported,
            already,
            counts.bad,
            bad_file.written,
            counts.users,
            celebrities,
            counts.complete,
        )


def _lines_done(connection: sa.Connection, name: str) -> int:
    found = connection.execute(_DONE, {"name": name}).scalar_one_or_none()
    return 0 if found is None else int(found)


# A frozen importer must not hold up publishers for longer than a frozen publisher may hold up its author.
_LIMITS = sa.text(
    f"SET LOCAL lock_timeout = {WAIT_MS}; SET LOCAL idle_in_transaction_session_timeout = {LOCK_TIMEOUT_MS}"
)

_DROP_STAGED = sa.text(
    "DELETE FROM staged USING unnest(CAST(:lines AS bigint[])) AS dropped (line) WHERE staged.line = dropped.line"
)

_DONE = sa.text("SELECT lines FROM imports WHERE name = :name")

_SAVE = sa.text(
    """
    INSERT INTO imports (name, lines) VALUES (:name, :lines)
    ON CONFLICT (name) DO UPDATE SET lines = excluded.lines, updated_at = now()
    """
)

_COUNT_CELEBRITIES = sa.text("SELECT count(*) FROM users WHERE status <> 'push'")
