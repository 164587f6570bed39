"""Dead letters as text and as JSON. Pure functions; nothing that a message holds reaches a terminal as it is."""

import base64
import json
from collections.abc import Iterator
from enum import StrEnum
from typing import Any

from infra import dead_letters
from infra.errors import Undecodable
from infra.events import Delivery, decode_activity, decode_deliveries
from infra.reactions import decode_reaction
from infra.shown_text import LINE_CHARS_MAX, printable, time_text
from infra.topics import ACTIVITY, DELIVERIES, REACTIONS, dead_letters_of
from streams.read_dead_letters import Buried, Line, Yard

DUMP_BYTES_MAX = 4_096  # 256 lines; `--value raw` has them all
TEXT_CHARS_MAX = 20_000  # about 200 lines
RECORDS_MAX = 50  # of a decoded message of the deliveries log, which has up to 500
IDS_MAX = 5  # of each record's targets, of which there may be 16,384
NUMBER_DIGITS_MAX = 19  # of Kafka's 64 bits

HEADINGS = ("OFFSET", "WAS AT", "BURIED", "BYTES", "REASON")


class Form(StrEnum):
    """How `dlq show` gives a value."""

    RAW = "raw"
    HEX = "hex"
    TEXT = "text"


def bytes_text(data: bytes | None, chars_max: int = LINE_CHARS_MAX) -> str:
    """Bytes as text for people, escaped where they are none."""
    return "(null)" if data is None else printable(data.decode(errors="backslashreplace"), chars_max)


def was_at(letter: Buried) -> str:
    """Where the message was."""
    return "/".join(letter.header(name) for name in (dead_letters.TOPIC, dead_letters.PARTITION, dead_letters.OFFSET))


def table(yard: Yard) -> Iterator[str]:
    """A topic's letters: how many, from when, and the newest of them."""
    if not yard.count:
        yield f"{yard.topic}: no dead letters"
        return
    yield f"{yard.topic}: {yard.count:,}, from {time_text(yard.oldest_ms)} to {time_text(yard.newest_ms)}"
    if not yard.newest:
        return
    rows = [HEADINGS, *map(_row, yard.newest)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADINGS) - 1)]
    for row in rows:
        yield "  " + "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]])
    if len(yard.newest) < yard.count:
        yield f"  … and {yard.count - len(yard.newest):,} older: --limit shows more"


def _row(line: Line) -> tuple[str, ...]:
    letter, size = line.letter, "null" if line.value_bytes is None else f"{line.value_bytes:,}"
    return str(letter.offset), printable(was_at(letter)), time_text(letter.time_ms), size, printable(letter.reason)


def yard_json(yard: Yard) -> dict[str, Any]:
    """A topic in the object that `dlq list --json` prints."""
    return {
        "topic": yard.topic,
        "count": yard.count,
        "oldest": time_text(yard.oldest_ms) or None,
        "newest": time_text(yard.newest_ms) or None,
        "letters": [_place_json(line.letter) | {"value_bytes": line.value_bytes} for line in yard.newest],
    }


def _place_json(letter: Buried) -> dict[str, Any]:
    return {
        "offset": letter.offset,
        "buried": time_text(letter.time_ms),
        "original": {
            "topic": letter.header(dead_letters.TOPIC),
            "partition": _number(letter.header(dead_letters.PARTITION)),
            "offset": _number(letter.header(dead_letters.OFFSET)),
            "time": time_text(_number(letter.header(dead_letters.TIMESTAMP_MS))) or None,
        },
        "agent": letter.header(dead_letters.CONNECTOR_NAME),
        "stage": letter.header(dead_letters.STAGE),
        "exception": letter.header(dead_letters.EXCEPTION),
        "message": letter.header(dead_letters.EXCEPTION_MESSAGE),
        "truncated": letter.header(dead_letters.TRUNCATED) or None,
    }


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= NUMBER_DIGITS_MAX else None


def letter_json(letter: Buried, form: Form | None) -> dict[str, Any]:
    """The object that `dlq show --json` prints. Bytes that are no UTF-8 are escaped, or base64 with `--value raw`."""
    return {
        "topic": letter.topic,
        **_place_json(letter),
        "key": None if letter.key is None else letter.key.decode(errors="backslashreplace"),
        "headers": [
            {"name": name, "value": None if value is None else value.decode(errors="backslashreplace")}
            for name, value in letter.headers
        ],
        "value_bytes": None if letter.value is None else len(letter.value),
        "value_form": {Form.RAW: "base64", Form.HEX: "hex"}.get(form or Form.TEXT, "text"),
        "value": None if letter.value is None else _value_json(letter.value, form),
        "decoded": decoded(letter),
    }


def _value_json(value: bytes, form: Form | None) -> str:
    match form:
        case Form.RAW:
            return base64.b64encode(value).decode()
        case Form.HEX:
            return value.hex()
        case _:
            return value.decode(errors="backslashreplace")


def letter_lines(letter: Buried, form: Form | None) -> Iterator[str]:
    """A letter for a person: where it was, why it is here, its headers, key and value."""
    yield f"{letter.topic} offset {letter.offset}, buried {time_text(letter.time_ms)}"
    yield f"reason  {printable(letter.reason)}"
    yield f"key     {bytes_text(letter.key)}"
    yield f"headers {len(letter.headers)}"
    for name, value in letter.headers:
        first, *more = (value or b"").decode(errors="backslashreplace").splitlines() or [""]
        yield f"  {printable(name)} = {'(null)' if value is None else printable(first)}"
        yield from (f"      {printable(line)}" for line in more)
    yield f"value   {'(null)' if letter.value is None else f'{len(letter.value):,} bytes'}"
    if letter.value is not None:
        yield from _value_lines(letter, letter.value, form)


def _value_lines(letter: Buried, value: bytes, form: Form | None) -> Iterator[str]:
    known = decoded(letter) if form is None else None
    if known is not None:
        yield from ("  " + line for line in json.dumps(known, indent=2).splitlines())
    elif form is Form.TEXT:
        yield from (f"  {line}" for line in _text_lines(value))
    else:
        yield from (f"  {line}" for line in hex_dump(value))


def _text_lines(value: bytes) -> Iterator[str]:
    text = value[: 4 * TEXT_CHARS_MAX].decode(errors="backslashreplace")[:TEXT_CHARS_MAX]
    yield from (printable(line, TEXT_CHARS_MAX) for line in text.splitlines())
    if len(text.encode()) < len(value):
        yield f"… {len(value):,} bytes in all: --value raw writes them to a file"


def hex_dump(value: bytes) -> Iterator[str]:
    """Offset, 16 bytes, and their ASCII, a line; longer values are cut and say so."""
    for at in range(0, min(len(value), DUMP_BYTES_MAX), 16):
        part = value[at : at + 16]
        text = "".join(chr(byte) if 32 <= byte < 127 else "." for byte in part)
        yield f"{at:08x}  {part.hex(' '):<47}  {text}"
    if len(value) > DUMP_BYTES_MAX:
        yield f"… and {len(value) - DUMP_BYTES_MAX:,} more bytes: --value raw writes them all to a file"


def decoded(letter: Buried) -> dict[str, Any] | None:
    """The message as an agent reads it; None when no agent could."""
    try:
        match dead_letters_of(letter.topic.split(".")[0]):  # of a group too
            case ACTIVITY.dead_letters:
                event = decode_activity(letter.value)
                other = "tweet_id" if event.type in ("posted", "deleted") else "follower_id"
                ids = {"author_id": str(event.author_id), other: str(event.other_id)}
                return {"type": event.type.value, **ids, "published_ms": event.published_ms}
            case DELIVERIES.dead_letters:
                records = decode_deliveries(letter.value)
                return {"records": len(records), "first": [_record_json(record) for record in records[:RECORDS_MAX]]}
            case REACTIONS.dead_letters:
                reaction = decode_reaction(letter.value)
                ids = {"tweet_id": str(reaction.tweet_id), "user_id": str(reaction.user_id)}
                return {"type": reaction.type.value, **ids, "published_ms": reaction.published_ms}
    except Undecodable:
        pass
    return None


def _record_json(record: Delivery) -> dict[str, Any]:
    return {
        "kind": record.kind.name.lower(),
        "subjects": len(record.subjects),
        "first_subjects": [str(one) for one in record.subjects[:IDS_MAX]],
        "first_published_ms": record.published_ms[:IDS_MAX].tolist(),
        "targets": len(record.targets),
        "first_targets": [str(one) for one in record.targets[:IDS_MAX]],
        "ids": len(record.ids),
        "first_ids": [str(one) for one in record.ids[:IDS_MAX]],
    }
