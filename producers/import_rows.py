"""What the importer needs to know of one kind of file, and COPY. The kinds: import_follows.py and import_tweets.py.

A batch is staged by COPY into a temporary table before the import's lock is taken. Under the lock there are only
statements between which the server's time-out of idle transactions runs: it does not run inside a COPY, and a frozen
importer would hold up all publishers.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Protocol, TypeVar

import sqlalchemy as sa

from infra.database import driver_cursor
from producers.import_files import Line

T = TypeVar("T")
Numbered = tuple[int, T]  # a line's number and what it says


class Written(NamedTuple):
    """What one batch added."""

    rows: int
    users: int = 0
    events: int = 0


class Rows(Protocol[T]):
    """One kind of file."""

    kind: str
    tables: str

    def is_header(self, first: Line, /) -> bool:
        """Whether the file's first line is a header; raises `InvalidInput` for one that does not fit."""

    def parse(self, data: bytes) -> T:
        """What a line says. Raises `InvalidInput`."""

    def stage(self, connection: sa.Connection, rows: Sequence[Numbered[T]]) -> None:
        """Copies rows into the temporary table `staged`, which has a column `line`."""

    def lock(self, connection: sa.Connection) -> None:
        """What has to stand still during a batch beside what the import's lock holds still."""

    def refused(self, connection: sa.Connection, rows: Sequence[Numbered[T]]) -> dict[int, str]:
        """Line numbers and reasons of the rows that the database speaks against."""

    def write(self, connection: sa.Connection, rows: Sequence[Numbered[T]]) -> Written:
        """Writes what is staged, and its events, in this order. `rows` says the same as `staged`.

        No publish runs beside it: what is looked up stays true until the commit (G1), and the outbox rows are in commit
        order for every author (G2).
        """

    def finish(self, connection: sa.Connection) -> None:
        """What the last batch of a file also does, in its transaction."""


def copy_rows(connection: sa.Connection, columns: str, rows: Iterable[Sequence[Any]]) -> None:
    """COPY into `staged` on SQLAlchemy's connection, in its transaction. Raises `DatabaseUnavailable`."""
    with driver_cursor(connection) as cursor, cursor.copy(f"COPY staged ({columns}) FROM STDIN") as copy:
        for row in rows:
            copy.write_row(row)
