"""The options that say which dead letters are meant, of several commands."""

import time
from collections.abc import Callable
from typing import Annotated, TypeVar

import typer

from infra.errors import InvalidInput
from infra.topics import TOPICS, dead_letters_of
from streams.letter_filter import Offsets, Wanted, parse_age_ms, parse_offsets

PARTITION_DIGITS_MAX = 4
T = TypeVar("T")


def parse_topic(text: str) -> str:
    """A topic of dead letters, by its own name or its log's."""
    for topic in TOPICS:
        if text in (topic.name, topic.dead_letters):
            return topic.dead_letters
    if text.endswith(dead_letters_of("")):
        return text  # those of a stream's group
    known = ", ".join(topic.name for topic in TOPICS)
    raise typer.BadParameter(
        f"{text!r} is not a log with dead letters; those are {known}, and <log>.<group>.dlq of a TweetStream"
    )


def _parser(parse: Callable[[str], T]) -> Callable[[str], T]:
    def parse_option(text: str) -> T:
        try:
            return parse(text)
        except InvalidInput as error:
            raise typer.BadParameter(str(error)) from error

    return parse_option


def _parse_partition(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= PARTITION_DIGITS_MAX):
        raise InvalidInput(f"{text[:20]!r} is not a partition, which is a whole number from 0")
    return int(text)


TopicOption = Annotated[
    str | None,
    typer.Option(
        "--topic", parser=parse_topic, metavar="TOPIC", help="Only this log's: activity, deliveries or reactions."
    ),
]
OffsetsOption = Annotated[
    Offsets | None,
    typer.Option(
        "--offsets", parser=_parser(parse_offsets), metavar="N-M", help="Only letters at these offsets, both included."
    ),
]
ReasonOption = Annotated[
    str | None, typer.Option("--reason", metavar="TEXT", help="Only those with this in the error's class or message.")
]
OlderThan = Annotated[
    int | None,
    typer.Option(
        "--older-than",
        parser=_parser(parse_age_ms),
        metavar="AGE",
        help="Only those buried so long ago: 90s, 30m, 2h, 7d.",
    ),
]
NewerThan = Annotated[
    int | None,
    typer.Option("--newer-than", parser=_parser(parse_age_ms), metavar="AGE", help="Only those buried since then."),
]
PartitionOption = Annotated[
    int | None,
    typer.Option(
        "--partition",
        parser=_parser(_parse_partition),
        metavar="N",
        help="Only messages that were in this partition of their log.",
    ),
]
KeyOption = Annotated[
    str | None,
    typer.Option(
        "--key",
        "--author",
        metavar="KEY",
        help="Only messages with this key: in activity the author's id, in reactions the tweet's.",
    ),
]
Execute = Annotated[bool, typer.Option("--execute", help="Do it. Without this nothing is changed.")]


def wanted_by(
    offsets: Offsets | None,
    reason: str | None,
    older_than_ms: int | None,
    newer_than_ms: int | None,
    partition: int | None,
    key: str | None,
) -> Wanted:
    """What the options ask for, at this moment."""
    now_ms = time.time_ns() // 1_000_000
    return Wanted(
        offsets or Offsets(),
        reason,
        None if older_than_ms is None else now_ms - older_than_ms,
        None if newer_than_ms is None else now_ms - newer_than_ms,
        partition,
        key,
    )
