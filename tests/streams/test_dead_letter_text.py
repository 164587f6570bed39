"""Dead letters as text and JSON: nothing in a message may reach the terminal as it is."""

import json
from typing import Any

import pytest

from infra.events import (
    Activity,
    ActivityType,
    DeliveryKind,
    encode_activity,
    encode_deliveries,
    one_chunk,
)
from infra.reactions import Reaction, ReactionType, encode_reaction
from infra.shown_text import LINE_CHARS_MAX, printable, time_text
from streams.dead_letter_text import (
    DUMP_BYTES_MAX,
    TEXT_CHARS_MAX,
    Form,
    decoded,
    hex_dump,
    letter_json,
    letter_lines,
    table,
    yard_json,
)
from streams.read_dead_letters import Buried, Line, Yard

ESCAPES = "\x1b[2J\x07\r\x9b31m\u202e\u2028"  # clears the screen, rings, returns, colours, turns the direction
EVENT = encode_activity(Activity(ActivityType.POSTED, 1, 2, 3)).encode()


def buried(value: bytes | None = b"v", topic: str = "activity.dlq", **headers: str) -> Buried:
    names = {"topic": "activity", "partition": "3", "offset": "120", "exception.class.name": "ZeroDivisionError"}
    given = names | {"exception.message": "unforeseen"} | headers
    return Buried(
        topic, 17, 1_000, b"42", value, [(f"__connect.errors.{name}", text.encode()) for name, text in given.items()]
    )


def lines_of(letter: Buried, form: Form | None = None) -> str:
    return "\n".join(letter_lines(letter, form))


def test_a_list_shows_where_the_message_was_when_it_was_buried_and_why() -> None:
    yard = Yard("activity.dlq", 1_234, 0, 1_000, (Line(buried(None), 2_000_000),))

    assert list(table(yard)) == [
        "activity.dlq: 1,234, from 1970-01-01T00:00:00.000Z to 1970-01-01T00:00:01.000Z",
        "  OFFSET  WAS AT          BURIED                    BYTES      REASON",
        "  17      activity/3/120  1970-01-01T00:00:01.000Z  2,000,000  ZeroDivisionError: unforeseen",
        "  … and 1,233 older: --limit shows more",
    ]


def test_a_list_as_json_has_the_same() -> None:
    [letter] = yard_json(Yard("activity.dlq", 1, 0, 1_000, (Line(buried(None), None),)))["letters"]

    assert (letter["offset"], letter["value_bytes"]) == (17, None)
    assert letter["original"] == {"topic": "activity", "partition": 3, "offset": 120, "time": None}
    assert (letter["exception"], letter["message"]) == ("ZeroDivisionError", "unforeseen")


def test_an_empty_topic_is_said_to_be_empty() -> None:
    yard = Yard("activity.dlq", 0, None, None, ())

    assert list(table(yard)) == ["activity.dlq: no dead letters"]
    assert yard_json(yard) == {"topic": "activity.dlq", "count": 0, "oldest": None, "newest": None, "letters": []}


@pytest.mark.parametrize("form", [None, Form.HEX, Form.TEXT])
def test_what_a_terminal_would_act_on_is_escaped_wherever_it_stands(form: Form | None) -> None:
    letter = buried(ESCAPES.encode(), **{"exception.message": ESCAPES, "partition": ESCAPES, ESCAPES: ESCAPES})
    letter = Buried(letter.topic, 1, 1, ESCAPES.encode() + b"\xff\x9b", letter.value, letter.headers)

    shown = lines_of(letter, form) + "\n".join(table(Yard("activity.dlq", 1, 1, 1, (Line(letter, 3),))))

    assert all(char.isprintable() for char in shown.replace("\n", ""))
    assert r"\x1b[2J\x07\r\x9b31m\u202e\u2028" in shown


@pytest.mark.parametrize("form", [None, Form.HEX, Form.TEXT])
@pytest.mark.parametrize("value", [b"\xff" * 3_000_000, b"a" * 3_000_000, b"\n" * 3_000_000], ids=["ff", "a", "lines"])
def test_a_huge_value_is_cut_and_says_so(value: bytes, form: Form | None) -> None:
    shown = lines_of(buried(value), form)

    assert len(shown) < 3 * TEXT_CHARS_MAX + 2_000
    assert "3,000,000 bytes" in shown
    assert "--value raw" in shown


def test_a_long_line_is_cut_and_says_how_long_it_was() -> None:
    assert printable("é" * 1_000) == "é" * LINE_CHARS_MAX + "… (1,000 characters)"


def test_a_dump_has_offsets_bytes_and_their_text() -> None:
    assert list(hex_dump(b"\x00Fanfold\x1b\xff 0123456")) == [
        "00000000  00 46 61 6e 66 6f 6c 64 1b ff 20 30 31 32 33 34  .Fanfold.. 01234",
        "00000010  35 36                                            56",
    ]
    assert len(list(hex_dump(b"x" * DUMP_BYTES_MAX))) == DUMP_BYTES_MAX // 16


def test_a_value_that_an_agent_could_read_is_shown_decoded() -> None:
    record = one_chunk(DeliveryKind.DELIVER, 7, 3, range(1, 1_001))

    assert decoded(buried(EVENT)) == {"type": "posted", "author_id": "1", "tweet_id": "2", "published_ms": 3}
    known = decoded(buried(encode_deliveries([record] * 100), topic="deliveries.dlq"))
    assert known is not None
    assert (known["records"], len(known["first"])) == (100, 50)
    assert known["first"][0]["first_subjects"] == ["7"]
    assert known["first"][0]["targets"] == 1_000
    assert known["first"][0]["first_targets"] == ["1", "2", "3", "4", "5"]
    assert '"tweet_id": "2"' in lines_of(buried(EVENT))
    liked = encode_reaction(Reaction(ReactionType.LIKED, 5, 6, 7))
    assert decoded(buried(liked, topic="reactions.dlq")) == {
        "type": "liked",
        "tweet_id": "5",
        "user_id": "6",
        "published_ms": 7,
    }


@pytest.mark.parametrize("value", [None, b"", b"\xff", b'{"version":2}'])
@pytest.mark.parametrize("topic", ["activity.dlq", "deliveries.dlq", "reactions.dlq"])
def test_a_value_that_no_agent_can_read_is_not_decoded(value: bytes | None, topic: str) -> None:
    letter = buried(value, topic)

    assert decoded(letter) is None
    assert lines_of(letter)


@pytest.mark.parametrize(
    ("form", "value_form", "value"),
    [(None, "text", "a\\xff"), (Form.TEXT, "text", "a\\xff"), (Form.HEX, "hex", "61ff"), (Form.RAW, "base64", "Yf8=")],
)
def test_a_letter_as_json_has_its_whole_value(form: Form | None, value_form: str, value: str) -> None:
    shown: dict[str, Any] = json.loads(json.dumps(letter_json(buried(b"a\xff"), form)))

    assert (shown["value_form"], shown["value"], shown["value_bytes"]) == (value_form, value, 2)
    assert {"name": "__connect.errors.offset", "value": "120"} in shown["headers"]
    assert shown["decoded"] is None


@pytest.mark.parametrize("number", ["", "x", "-1", "9" * 5_000])
def test_a_letter_that_others_wrote_is_shown_all_the_same(number: str) -> None:
    letter = Buried("activity.dlq", 1, -1, None, None, [("__connect.errors.partition", number.encode()), ("x", None)])

    assert letter_json(letter, None)["original"]["partition"] is None
    assert "key     (null)" in lines_of(letter)


def test_an_instant_that_is_no_date_is_shown_as_the_number() -> None:
    assert time_text(10**18) == f"{10**18} ms"
