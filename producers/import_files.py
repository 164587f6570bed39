"""Reads a file to import, gzip or not: its lines with their numbers, in bounded batches. Next: import_lines.py.

Memory stays bounded whatever the file holds: lines, batches of lines and the read buffer each have a limit.
"""

import gzip
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import IO, NamedTuple

from infra.errors import InvalidInput, NotFound

GZIP_MAGIC = b"\x1f\x8b"
BOM = b"\xef\xbb\xbf"
READ_BYTES = 1 << 20
LINE_BYTES_MAX = 65_536  # a tweet of 280 characters, each four bytes or escaped in twelve, needs 3,360
BATCH_LINES_MAX = 20_000  # one transaction of well under a second, for which publishers wait
BATCH_BYTES_MAX = 8 << 20  # the same for long lines


class Line(NamedTuple):
    """One line without its end. `number` counts all lines of the file from 1, as an editor does.

    `data` of a line that is too long is cut to a little over `LINE_BYTES_MAX`.
    """

    number: int
    data: bytes


def check_is_file(path: Path) -> None:
    """Raises `NotFound` or `InvalidInput` when there is no regular file that can be opened."""
    with _named_errors(path):
        if not path.exists():
            raise NotFound(f"file {path} does not exist")
        if not path.is_file():
            raise InvalidInput(f"{path} is not a file; give a regular file (it is read twice)")
        path.open("rb").close()


def count_lines(path: Path) -> int:
    """The number of lines. Reads everything once, so that a cut or broken file fails before anything is written."""
    check_is_file(path)
    lines, end = 0, b"\n"
    with _opened(path) as file:
        while block := file.read(READ_BYTES):
            lines += block.count(b"\n")
            end = block[-1:]
    return lines + (end != b"\n")


def numbered_lines(path: Path) -> Iterator[Line]:
    """The lines of the file that are not blank."""
    with _opened(path) as file:
        number = 0
        while data := file.readline(LINE_BYTES_MAX + 2):
            number += 1
            if len(data) > LINE_BYTES_MAX and not data.endswith(b"\n"):
                _skip_to_line_end(file)
            if number == 1:
                data = data.removeprefix(BOM)
            data = data.rstrip(b"\r\n")
            if data and not data.isspace():
                yield Line(number, data)


def batches(lines: Iterable[Line], lines_max: int = BATCH_LINES_MAX) -> Iterator[tuple[list[Line], bool]]:
    """Runs of lines within both limits, each with whether it is the last one."""
    batch: list[Line] = []
    size = 0
    for line in lines:
        if batch and (len(batch) >= lines_max or size + len(line.data) > BATCH_BYTES_MAX):
            yield batch, False
            batch, size = [], 0
        batch.append(line)
        size += len(line.data)
    if batch:
        yield batch, True


def _skip_to_line_end(file: IO[bytes]) -> None:
    while rest := file.readline(READ_BYTES):
        if rest.endswith(b"\n"):
            return


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    with _named_errors(path), path.open("rb", buffering=READ_BYTES) as file:
        zipped = file.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        file.seek(0)
        if zipped:
            with gzip.GzipFile(fileobj=file) as unzipped:
                yield BufferedReader(unzipped, READ_BYTES)
        else:
            yield file


@contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except EOFError as error:
        raise InvalidInput(f"file {path} is cut off: its gzip data end too early") from error
    except (gzip.BadGzipFile, zlib.error) as error:
        raise InvalidInput(f"file {path} has broken gzip data ({error})") from error
    except OSError as error:
        raise InvalidInput(f"file {path} cannot be read: {error.strerror or error}") from error
