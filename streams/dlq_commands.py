"""`fanfold dlq`: looking at the dead letters; redriving and dropping them is next door."""

import sys
from typing import Annotated

import typer

from infra.cli import JsonFlag, print_json, settings_of
from infra.errors import InvalidInput
from infra.topics import TOPICS
from streams.clear_commands import DROP_HELP, REDRIVE_HELP, clearing
from streams.dead_letter_text import Form, letter_json, letter_lines, table, yard_json
from streams.dead_letters_done import DoneLetters, Outcome
from streams.letter_options import (
    KeyOption,
    NewerThan,
    OffsetsOption,
    OlderThan,
    PartitionOption,
    ReasonOption,
    TopicOption,
    parse_topic,
    wanted_by,
)
from streams.read_dead_letters import look, read_one, reader

LIMIT = 20
LIMIT_MAX = 1_000  # letters of a topic in one list: more than anyone reads, and read in a second
OFFSET_MAX = (1 << 63) - 1

HELP = """Dead letters: messages that an agent could not process, with the reason.

Each log has a topic of them: activity.dlq, deliveries.dlq and reactions.dlq. A letter is the message as it was, with
headers that say where it was and why it is here, named as Kafka Connect names them. They are kept for 30 days, and
listed until they are redriven or dropped. Those of a TweetStream's group are in activity.GROUP.dlq.
"""

group = typer.Typer(no_args_is_help=True, help=HELP)


def parse_limit(text: str) -> int:
    """How many letters to show."""
    if not (text.isascii() and text.isdigit() and len(text) <= 4 and int(text) <= LIMIT_MAX):
        raise typer.BadParameter(f"{text!r} is not a number of letters, which is from 0 to {LIMIT_MAX}")
    return int(text)


def parse_offset(text: str) -> int:
    """An offset of Kafka's."""
    if not (text.isascii() and text.isdigit() and len(text) <= 19 and int(text) <= OFFSET_MAX):
        raise typer.BadParameter(f"{text!r} is not an offset, which is a whole number from 0")
    return int(text)


@group.command("list")
def list_letters(
    context: typer.Context,
    topic: TopicOption = None,
    limit: Annotated[
        int | None,
        typer.Option(
            parser=parse_limit,
            metavar=f"0…{LIMIT_MAX}",
            help=f"Letters to show of each topic, the newest first (default {LIMIT}).",
        ),
    ] = None,
    offsets: OffsetsOption = None,
    reason: ReasonOption = None,
    older_than: OlderThan = None,
    newer_than: NewerThan = None,
    partition: PartitionOption = None,
    key: KeyOption = None,
    all_: Annotated[bool, typer.Option("--all", help="Also those that were redriven or dropped.")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Show how many dead letters there are, from when, and the newest of them.

    WAS AT is the message's own topic, partition and offset. OFFSET is the letter's: `fanfold dlq show activity OFFSET`
    shows it whole.
    """
    names = [topic] if topic else [one.dead_letters for one in TOPICS]
    wanted = wanted_by(offsets, reason, older_than, newer_than, partition, key)
    bootstrap = settings_of(context).need("kafka_bootstrap")
    matches, newest_max = None if wanted.is_all else wanted.matches, LIMIT if limit is None else limit
    with reader(bootstrap) as consumer:
        done = None if all_ else DoneLetters(bootstrap, names)
        yards = [look(consumer, name, newest_max, done.of(name) if done else (), matches) for name in names]
    if as_json:
        print_json({"topics": [yard_json(yard) for yard in yards]})
        return
    for yard in yards:
        for line in table(yard):
            typer.echo(line)


group.command("redrive", help=REDRIVE_HELP)(clearing(Outcome.REDRIVEN))
group.command("drop", help=DROP_HELP)(clearing(Outcome.DROPPED))


@group.command("show")
def show_letter(
    context: typer.Context,
    topic: Annotated[
        str, typer.Argument(parser=parse_topic, metavar="TOPIC", help="activity, deliveries or reactions.")
    ],
    offset: Annotated[
        int, typer.Argument(parser=parse_offset, metavar="OFFSET", help="The letter's, as `fanfold dlq list` has it.")
    ],
    value: Annotated[
        Form | None,
        typer.Option(help="The value as a dump (hex), as escaped text (text), or its bytes and nothing else (raw)."),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Show a dead letter: where it was, why it is here, its headers, key and value.

    A value that can be decoded is shown decoded, any other as a dump of its first 4,096 bytes. `--value raw > FILE`
    writes all of it as it is.
    """
    if value is Form.RAW and not as_json and sys.stdout.isatty():
        raise InvalidInput("--value raw writes bytes that a terminal may act on: send them to a file or a pipe")
    with reader(settings_of(context).need("kafka_bootstrap")) as consumer:
        letter = read_one(consumer, topic, offset)
    if as_json:
        print_json(letter_json(letter, value))
    elif value is Form.RAW:
        sys.stdout.buffer.write(letter.value or b"")
        sys.stdout.buffer.flush()
    else:
        for line in letter_lines(letter, value):
            typer.echo(line)
