"""What a line of an imported file says: pure functions, each bad line with one sentence. Next: import_rows.py."""

import csv
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from infra.errors import InvalidInput
from infra.ids import ID_MAX
from producers.import_files import LINE_BYTES_MAX
from producers.rules import check_id, check_not_self, check_text
from producers.snowflake import EARLIEST

UNIX_START = datetime(1970, 1, 1, tzinfo=UTC)
ID_DIGITS_MAX = len(str(ID_MAX))
FOLLOWER_NAMES = ("follower", "follower_id")
AUTHOR_NAMES = ("author", "author_id")
TWEET_FIELDS = ("author", "text", "created_at")


class Follow(NamedTuple):
    """One line of a file of follows."""

    follower_id: int
    author_id: int


class ImportedTweet(NamedTuple):
    """One line of a file of tweets. `time_ms` is Unix time."""

    author_id: int
    text: str
    time_ms: int


@dataclass(frozen=True, slots=True)
class Columns:
    """Where a file of follows has its two columns, and how many columns it has."""

    follower: int = 0
    author: int = 1
    count: int = 2


def read_header(data: bytes) -> Columns | None:
    """The columns that a first line names; None when it holds numbers, and so is no header.

    Raises `InvalidInput` for a header that does not name both columns.
    """
    fields = [field.lower() for field in _fields(data)]
    if any(_is_number(field) for field in fields):
        return None
    followers = [place for place, field in enumerate(fields) if field in FOLLOWER_NAMES]
    authors = [place for place, field in enumerate(fields) if field in AUTHOR_NAMES]
    if len(followers) != 1 or len(authors) != 1:
        shown = data[:100].decode(errors="backslashreplace")
        raise InvalidInput(
            f"the first line {shown!r} is neither a header that names the columns follower and author, "
            "nor two user ids separated by a tab or a comma"
        )
    return Columns(followers[0], authors[0], len(fields))


def parse_follow(data: bytes, columns: Columns) -> Follow:
    """Raises `InvalidInput` with what is wrong with the line."""
    fields = data.split(b"\t" if b"\t" in data else b",")
    if len(fields) == columns.count == 2:  # the usual line; twice as fast as the careful way below
        follower, author = fields[columns.follower], fields[columns.author]
        if follower.isdigit() and author.isdigit() and max(len(follower), len(author)) <= ID_DIGITS_MAX:
            return _follow(int(follower), int(author))
    careful = _fields(_decoded(data))
    if len(careful) != columns.count:
        raise InvalidInput(f"the number of columns is {len(careful)} instead of {columns.count}")
    return _follow(_user_id(careful[columns.follower]), _user_id(careful[columns.author]))


def parse_tweet(data: bytes, now_ms: int) -> ImportedTweet:
    """Raises `InvalidInput` with what is wrong with the line."""
    try:
        value: Any = json.loads(_decoded(data))
    except (ValueError, RecursionError):
        raise InvalidInput("it is not JSON") from None
    if not isinstance(value, dict):
        raise InvalidInput("it is not a JSON object")
    for field in TWEET_FIELDS:
        if field not in value:
            raise InvalidInput(f"it has no field {field}")
    author, text = value["author"], value["text"]
    if not isinstance(text, str):
        raise InvalidInput("its text is not a string")
    if isinstance(author, bool) or not isinstance(author, int | str):
        raise InvalidInput("its author is not a user id")
    author_id = _user_id(author) if isinstance(author, str) else check_id(author, "user")
    return ImportedTweet(author_id, check_text(text), _time_ms(value["created_at"], now_ms))


def _follow(follower_id: int, author_id: int) -> Follow:
    check_id(follower_id, "user")
    check_id(author_id, "user")
    check_not_self(follower_id, author_id)
    return Follow(follower_id, author_id)


def _time_ms(created_at: object, now_ms: int) -> int:
    if not isinstance(created_at, str):
        raise InvalidInput("its created_at is not a string")
    try:
        time = datetime.fromisoformat(created_at)
    except ValueError:
        raise InvalidInput(f"its created_at {created_at[:50]!r} is not a time as in 2015-02-16T23:36:00Z") from None
    if time.tzinfo is None:
        raise InvalidInput(f"its created_at {created_at!r} has no time zone; add Z for UTC")
    if time < EARLIEST:
        raise InvalidInput(f"its created_at {created_at!r} is before {EARLIEST:%Y-%m-%d}")
    time_ms = (time - UNIX_START) // timedelta(milliseconds=1)
    if time_ms > now_ms:
        raise InvalidInput(f"its created_at {created_at!r} is in the future")
    return time_ms


def _decoded(data: bytes) -> str:
    if len(data) > LINE_BYTES_MAX:
        raise InvalidInput(f"it is longer than {LINE_BYTES_MAX:,} bytes")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise InvalidInput(f"it is not UTF-8 at byte {error.start + 1}") from None


def _fields(line: str | bytes) -> list[str]:
    text = line.decode(errors="replace") if isinstance(line, bytes) else line
    delimiter = "\t" if "\t" in text else ","
    try:
        return [field.strip() for row in csv.reader([text], delimiter=delimiter) for field in row]
    except csv.Error:
        return [field.strip() for field in text.split(delimiter)]


def _is_number(field: str) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _user_id(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > ID_DIGITS_MAX:
        raise InvalidInput(f"{text[:50]!r} is not a user id, which is a whole number from 1 to {ID_MAX}")
    return int(text)
