"""`fanfold dlq redrive` and `fanfold dlq drop`."""

from collections.abc import Callable
from typing import Any

import typer

from infra.cli import JsonFlag, print_json, settings_of
from infra.errors import CheckFailed
from infra.shown_text import printable
from infra.topics import TOPICS
from streams.clear_letters import REFUSED, Clearing, Fate, clear
from streams.dead_letter_text import was_at
from streams.dead_letters_done import Outcome
from streams.letter_filter import Wanted
from streams.letter_options import (
    Execute,
    KeyOption,
    NewerThan,
    OffsetsOption,
    OlderThan,
    PartitionOption,
    ReasonOption,
    TopicOption,
    wanted_by,
)
from streams.read_dead_letters import Buried

SHOWN_MAX = 1_000  # letters of one run that are told of one by one; all are counted
PLAIN = {Outcome.REDRIVEN.value: "redriven", Outcome.DROPPED.value: "dropped", REFUSED: "refused"}


REDRIVE_HELP = """Send dead letters to their log again, as a replay; without --execute it says what it would do.

\b
What came since is respected: an event is looked at by what the database
says now, deliveries are compared with it right before they are applied,
a like goes only if it is its user's last word when this begins. Those of
one key keep their order. What cannot be read is refused, with the reason, and stays.
Exit 1: some were refused.
"""
DROP_HELP = """Give dead letters up; without --execute it says which.

\b
They are not listed any more and never redriven. Until their retention
`fanfold dlq show` still has them, and `fanfold dlq list --all`.
"""


def clearing(outcome: Outcome) -> Callable[..., None]:
    """The command that does this with the letters that its options name."""

    def command(
        context: typer.Context,
        topic: TopicOption = None,
        offsets: OffsetsOption = None,
        reason: ReasonOption = None,
        older_than: OlderThan = None,
        newer_than: NewerThan = None,
        partition: PartitionOption = None,
        key: KeyOption = None,
        execute: Execute = False,
        as_json: JsonFlag = False,
    ) -> None:
        wanted = wanted_by(offsets, reason, older_than, newer_than, partition, key)
        _run(context, topic, wanted, outcome, execute, as_json)

    return command


def _run(
    context: typer.Context, topic: str | None, wanted: Wanted, outcome: Outcome, execute: bool, as_json: bool
) -> None:
    topics = [topic] if topic else [one.dead_letters for one in TOPICS]
    told: list[dict[str, Any]] = []

    def report(letter: Buried, fate: Fate) -> None:
        if len(told) < SHOWN_MAX:
            told.append(_told(letter, fate))
            if not as_json:
                typer.echo(_line(letter, fate, execute))

    bootstrap = settings_of(context).need("kafka_bootstrap")
    counts = clear(Clearing(bootstrap, wanted, outcome, execute), topics, report)
    if as_json:
        print_json({"executed": execute, **counts, "letters": told, "letters_left_out": counts.total() - len(told)})
    else:
        typer.echo(_summary(counts, len(told), execute))
    if counts[REFUSED]:
        raise CheckFailed(
            f"{counts[REFUSED]:,} of {counts.total():,} dead letters were refused and stay where they are"
        )


def _told(letter: Buried, fate: Fate) -> dict[str, Any]:
    key = None if letter.key is None else letter.key.decode(errors="backslashreplace")
    return {
        "topic": letter.topic,
        "offset": letter.offset,
        "key": key,
        "outcome": fate.name,
        "why": fate.why or None,
    }


def _line(letter: Buried, fate: Fate, execute: bool) -> str:
    what = PLAIN[fate.name] if execute or fate.name == REFUSED else f"would be {PLAIN[fate.name]}"
    why = f": {printable(fate.why)}" if fate.why else ""
    return f"{letter.topic} {letter.offset} (was {printable(was_at(letter))}) {what}{why}"


def _summary(counts: Any, told: int, execute: bool) -> str:
    some = ", ".join(f"{count:,} {PLAIN[name]}" for name, count in counts.items() if count) or "no letter is meant"
    left_out = f"; {counts.total() - told:,} of them are not listed" if counts.total() > told else ""
    return some + left_out + ("" if execute else " (nothing was done: add --execute)")
