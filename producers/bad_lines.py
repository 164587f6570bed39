"""The file that takes the lines an import could not use: number, reason and the line itself, separated by tabs."""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, NamedTuple

from infra.errors import InvalidInput

HEADER = b"line\treason\ttext\n"
SHOWN_BYTES_MAX = 1_000  # of each line


class BadLine(NamedTuple):
    """A line that was left out."""

    number: int
    reason: str
    data: bytes


class BadLinesFile:
    """Made with the first bad line. A context manager.

    An import that goes on after line `done` keeps what the file says about the lines up to there: the later ones are
    read again. Each write is flushed, so it comes before the commit of the batch that left the lines out.
    """

    def __init__(self, path: Path, done: int) -> None:
        self.path = path
        self._done = done
        self._file: IO[bytes] | None = None

    def __enter__(self) -> "BadLinesFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    @property
    def written(self) -> str | None:
        """Where the bad lines of this run are; None when there is none."""
        return str(self.path) if self._file is not None else None

    def check(self, source: Path) -> None:
        """Raises `InvalidInput` when the path cannot take bad lines, before anything is imported."""
        if self.path.exists() and self.path.samefile(source):
            raise InvalidInput(f"the bad lines cannot go to {self.path}, which is the file to import")
        if self.path.is_dir() or not self.path.parent.is_dir():
            raise InvalidInput(f"the bad lines cannot go to {self.path}: it is a folder or in a folder that is missing")

    def write(self, bad: Sequence[BadLine]) -> None:
        """Appends lines and flushes. Raises `InvalidInput` when the file cannot be written."""
        if not bad:
            return
        try:
            if self._file is None:
                self._file = self._open()
            self._file.writelines(_row(line) for line in bad)
            self._file.flush()
        except OSError as error:
            raise InvalidInput(f"the bad lines cannot be written to {self.path}: {error.strerror or error}") from error

    def _open(self) -> IO[bytes]:
        if not self._done or not self.path.exists():
            new = self.path.open("wb")
            new.write(HEADER)
            return new
        file = self.path.open("r+b")
        keep = 0
        for row in file:
            number = row.split(b"\t", 1)[0]
            if row != HEADER and not (number.isdigit() and int(number) <= self._done):
                break
            keep += len(row)
        file.seek(keep)
        file.truncate()
        return file


def _row(line: BadLine) -> bytes:
    cut = line.data[:SHOWN_BYTES_MAX]
    text = cut.replace(b"\\", b"\\\\").replace(b"\t", b"\\t").replace(b"\r", b"\\r")
    return b"%d\t%s\t%s\n" % (line.number, line.reason.encode(errors="backslashreplace"), text)
