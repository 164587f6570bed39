"""What lines of imported files say: rules as rows."""

import json
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from infra.errors import InvalidInput
from producers.import_files import LINE_BYTES_MAX
from producers.import_lines import Columns, Follow, ImportedTweet, parse_follow, parse_tweet, read_header

NOW_MS = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp() * 1000)
GOOD = {"author": 7, "text": "hello", "created_at": "2015-02-16T23:36:00Z"}
GOOD_MS = int(datetime(2015, 2, 16, 23, 36, tzinfo=UTC).timestamp() * 1000)


def _tweet(**changes: object) -> bytes:
    return json.dumps(GOOD | changes).encode()


@pytest.mark.parametrize(
    ("line", "columns"),
    [
        (b"follower\tauthor", Columns(0, 1, 2)),
        (b"author,follower", Columns(1, 0, 2)),
        (b'"Author_ID","Follower_ID"', Columns(1, 0, 2)),
        (b"since\tauthor\tfollower", Columns(2, 1, 3)),
        (b"1\t2", None),
        (b"1,2", None),
        (b"x\t2", None),
        (b"1.5,-2", None),
        (b"12", None),
    ],
)
def test_a_header_says_where_the_columns_are(line: bytes, columns: Columns | None) -> None:
    assert read_header(line) == columns


@pytest.mark.parametrize(
    "line", [b"source\ttarget", b"follower", b"follower,follower,author", b"hello", b"\xff\xfe", b"PK\x03\x04\x14"]
)
def test_a_header_without_both_columns_is_refused(line: bytes) -> None:
    with pytest.raises(InvalidInput, match="neither a header"):
        read_header(line)


@pytest.mark.parametrize(
    ("line", "columns", "follow"),
    [
        (b"1\t2", Columns(), Follow(1, 2)),
        (b"1,2", Columns(), Follow(1, 2)),
        (b"1,2", Columns(1, 0), Follow(2, 1)),
        (b" 1 , 2 ", Columns(), Follow(1, 2)),
        (b'"1","2"', Columns(), Follow(1, 2)),
        (b'"a,b",4,5', Columns(1, 2, 3), Follow(4, 5)),
        (b"9223372036854775807\t1", Columns(), Follow(9223372036854775807, 1)),
    ],
)
def test_a_follow_is_read_in_every_form(line: bytes, columns: Columns, follow: Follow) -> None:
    assert parse_follow(line, columns) == follow


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"1", "number of columns is 1 instead of 2"),
        (b"1\t2\t3", "number of columns is 3 instead of 2"),
        (b"1\t1", "cannot follow himself"),
        (b"0\t1", "user id 0"),
        (b"-1\t2", "'-1' is not a user id"),
        (b"+1\t2", "'[+]1' is not a user id"),
        (b"1_0\t2", "'1_0' is not a user id"),
        (b"1.0\t2", "'1.0' is not a user id"),
        (b"\t2", "'' is not a user id"),
        ("١\t2".encode(), "is not a user id"),
        (b"9223372036854775808\t1", "user id 9223372036854775808"),
        (b"1\t" + b"9" * 6000, "is not a user id"),
        (b"00000000000000000001\t2", "is not a user id"),
        (b"1\t\xff", "not UTF-8 at byte 3"),
        (b"1\t2" + b" " * LINE_BYTES_MAX, "longer than"),
    ],
)
def test_a_bad_follow_says_why(line: bytes, reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        parse_follow(line, Columns())


@pytest.mark.parametrize(
    ("line", "tweet"),
    [
        (_tweet(), ImportedTweet(7, "hello", GOOD_MS)),
        (_tweet(author="7", extra=[1]), ImportedTweet(7, "hello", GOOD_MS)),
        (_tweet(created_at="2015-02-17T01:36:00.0019+02:00"), ImportedTweet(7, "hello", GOOD_MS + 1)),
        (_tweet(text="a &amp; b &lt;3"), ImportedTweet(7, "a &amp; b &lt;3", GOOD_MS)),
        (_tweet(text="e\u0301" * 280), ImportedTweet(7, "é" * 280, GOOD_MS)),
        (_tweet(created_at="2005-08-01T00:00:00Z"), ImportedTweet(7, "hello", 1122854400000)),
        (_tweet(created_at="2026-01-01T00:00:00Z"), ImportedTweet(7, "hello", NOW_MS)),
    ],
)
def test_a_tweet_is_read(line: bytes, tweet: ImportedTweet) -> None:
    assert parse_tweet(line, NOW_MS) == tweet


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"{", "not JSON"),
        (b"[" * 60_000, "not JSON"),
        (b'{"author": ' + b"9" * 5000 + b"}", "not JSON"),
        (b"[1]", "not a JSON object"),
        (b'{"author": 7}', "no field text"),
        (b'{"author": 7, "text": "x"}', "no field created_at"),
        (b'{"text": "x", "created_at": "x"}', "no field author"),
        (_tweet(author=True), "author is not a user id"),
        (_tweet(author=1.0), "author is not a user id"),
        (_tweet(author=None), "author is not a user id"),
        (_tweet(author="x7"), "'x7' is not a user id"),
        (_tweet(author=0), "user id 0"),
        (_tweet(author=1 << 63), "user id 9223372036854775808"),
        (_tweet(text=5), "text is not a string"),
        (_tweet(text=" \n"), "text is empty"),
        (_tweet(text="x" * 281), "281 characters"),
        (_tweet(text="a\x00b"), "NUL"),
        (b'{"author": 7, "text": "\\ud800", "created_at": "2015-02-16T23:36:00Z"}', "lone surrogate"),
        (b'{"author": 7, "text": "\xff", "created_at": "2015-02-16T23:36:00Z"}', "not UTF-8 at byte 24"),
        (_tweet(created_at=1424129760), "created_at is not a string"),
        (_tweet(created_at="yesterday"), "is not a time"),
        (_tweet(created_at="2015-02-30T00:00:00Z"), "is not a time"),
        (_tweet(created_at="2015-02-16T23:36:00"), "no time zone"),
        (_tweet(created_at="2005-07-31T23:59:59.999Z"), "before 2005-08-01"),
        (_tweet(created_at="0001-01-01T00:00:00+14:00"), "before 2005-08-01"),
        (_tweet(created_at="2026-01-01T00:00:00.001Z"), "in the future"),
        (_tweet(created_at="9999-12-31T23:59:59-14:00"), "in the future"),
        (_tweet(text="x" * LINE_BYTES_MAX), "longer than"),
    ],
)
def test_a_bad_tweet_says_why(line: bytes, reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        parse_tweet(line, NOW_MS)


def _reason(parse: Callable[[bytes], object], line: bytes) -> str:
    try:
        parse(line)
    except InvalidInput as error:
        return str(error)
    return "none"


@given(st.binary(max_size=60), st.binary(max_size=60))
@example(b'"', b"\x00")
@example(b"1\r2", b",")
def test_any_bytes_are_a_line_or_a_bad_line_with_a_reason_of_one_line(before: bytes, after: bytes) -> None:
    for line in (before + b"\t" + after, before + b"," + after):
        assert len(_reason(read_header, line).splitlines()) == 1
        assert len(_reason(lambda given: parse_follow(given, Columns()), line).splitlines()) == 1
        assert len(_reason(lambda given: parse_tweet(given, NOW_MS), line).splitlines()) == 1


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists))
def test_any_json_value_makes_a_tweet_or_a_bad_line_with_a_reason_of_one_line(value: object) -> None:
    for field in GOOD:
        line = _tweet(**{field: value})
        assert len(_reason(lambda given: parse_tweet(given, NOW_MS), line).splitlines()) == 1
