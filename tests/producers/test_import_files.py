"""Reading files to import: pure, on files in a temporary folder."""

import gzip
from pathlib import Path

import pytest

from infra.errors import InvalidInput, NotFound
from producers import import_files
from producers.import_files import LINE_BYTES_MAX, Line, batches, count_lines, numbered_lines


def _file(folder: Path, data: bytes) -> Path:
    path = folder / "given"
    path.write_bytes(data)
    return path


def test_gzip_is_told_by_content_and_not_by_name(tmp_path: Path) -> None:
    plain = tmp_path / "plain.gz"
    plain.write_bytes(b"1\t2\n")
    packed = tmp_path / "packed.tsv"
    packed.write_bytes(gzip.compress(b"1\t2\n"))
    assert list(numbered_lines(plain)) == list(numbered_lines(packed)) == [Line(1, b"1\t2")]
    assert count_lines(plain) == count_lines(packed) == 1


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"", []),
        (b"\n \n\t\n", []),
        (b"a", [Line(1, b"a")]),
        (b"a\r\nb\r\n", [Line(1, b"a"), Line(2, b"b")]),
        (b"\n\na\n\nb", [Line(3, b"a"), Line(5, b"b")]),
        (b"\xef\xbb\xbfa\n\xef\xbb\xbfb\n", [Line(1, b"a"), Line(2, b"\xef\xbb\xbfb")]),
    ],
)
def test_lines_keep_the_numbers_that_an_editor_shows(tmp_path: Path, data: bytes, lines: list[Line]) -> None:
    assert list(numbered_lines(_file(tmp_path, data))) == lines


@pytest.mark.parametrize(("data", "count"), [(b"", 0), (b"a", 1), (b"a\n", 1), (b"a\n\nb", 3)])
def test_every_line_is_counted_blank_ones_too(tmp_path: Path, data: bytes, count: int) -> None:
    assert count_lines(_file(tmp_path, data)) == count


def test_a_line_that_is_too_long_is_cut_and_the_next_one_is_whole(tmp_path: Path) -> None:
    path = _file(tmp_path, b"x" * (3 * LINE_BYTES_MAX) + b"\nnext\n" + b"y" * LINE_BYTES_MAX + b"\r\nlast")
    long, following, longest, last = numbered_lines(path)
    assert LINE_BYTES_MAX < len(long.data) <= LINE_BYTES_MAX + 2
    assert following == Line(2, b"next")
    assert longest == Line(3, b"y" * LINE_BYTES_MAX)
    assert last == Line(4, b"last")


@pytest.mark.parametrize("cut", [5, 15, 60, -1])
def test_a_cut_gzip_file_fails_before_anything_is_taken_from_it(tmp_path: Path, cut: int) -> None:
    packed = gzip.compress(bytes(range(256)) * 100)
    with pytest.raises(InvalidInput, match="cut off"):
        count_lines(_file(tmp_path, packed[:cut]))


def test_a_gzip_file_with_a_broken_byte_fails_before_anything_is_taken_from_it(tmp_path: Path) -> None:
    packed = bytearray(gzip.compress(b"1\t2\n" * 1000))
    packed[-6] ^= 1  # the checksum
    with pytest.raises(InvalidInput, match="broken gzip"):
        count_lines(_file(tmp_path, bytes(packed)))


def test_what_is_not_a_file_is_named_in_the_error(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match=r"missing\.tsv does not exist"):
        count_lines(tmp_path / "missing.tsv")
    with pytest.raises(InvalidInput, match="is not a file"):
        count_lines(tmp_path)


def test_batches_keep_order_and_both_limits_and_mark_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(import_files, "BATCH_BYTES_MAX", 10)
    lines = [Line(number, b"x" * size) for number, size in enumerate([1, 1, 1, 9, 9, 30, 1], 1)]
    taken = list(batches(lines, lines_max=2))
    assert [[line.number for line in batch] for batch, _ in taken] == [[1, 2], [3, 4], [5], [6], [7]]
    assert [last for _, last in taken] == [False, False, False, False, True]
    assert list(batches([])) == []
