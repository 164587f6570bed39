"""What a replay sends again: a range of time or of offsets, whose activity, from where, and into what. Pure values.

Next: replay_plan.py says which part of the log and of the database that is.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from infra.errors import InvalidInput, Undecodable
from infra.ids import ID_MAX
from infra.topics import ACTIVITY, check_backfill_topic
from infra.tweet_ids import EPOCH_MS, time_ms_of

AUTHORS_MAX = 1_000  # named by hand; a znode holds them
TWEET_DIGITS = 18  # from so many on a number is a tweet's id; a time has fewer

_OFFSETS = re.compile(r"([0-9]{1,4}):([0-9]{1,18})-([0-9]{1,18})")


class Source(StrEnum):
    """Where the activity is read."""

    LOG = "log"
    DATABASE = "database"
    AUTO = "auto"  # the log as far back as it reaches, and the database before that


@dataclass(frozen=True, slots=True)
class What:
    """What is sent again: events that happened from `since_ms` on and before `until_ms` (Unix time; None: no bound),
    or those at `offsets` (partition → first and last, the last one left out). Of these `authors`, of all when there
    are none, or of the followers of one user. `topic`: not into the live timelines but there."""

    source: Source = Source.AUTO
    since_ms: int | None = None
    until_ms: int | None = None
    offsets: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    authors: tuple[int, ...] = ()
    followers_of: int | None = None
    topic: str | None = None

    def check(self, now_ms: int) -> None:
        """Raises `InvalidInput` for what cannot be meant."""
        for name, time_ms in (("--since", self.since_ms), ("--until", self.until_ms)):
            if time_ms is not None and time_ms > now_ms:
                raise InvalidInput(
                    f"{name} is {shown_time(time_ms)}, which is in the future; nothing happened there yet"
                )
        if self.since_ms is not None and self.until_ms is not None and self.since_ms >= self.until_ms:
            raise InvalidInput(
                f"the range ends at {shown_time(self.until_ms)}, before or where it starts, {shown_time(self.since_ms)}"
            )
        if self.offsets and (self.since_ms is not None or self.until_ms is not None):
            raise InvalidInput("--offsets exclude --since and --until: they are a range themselves")
        if self.offsets and self.source is Source.DATABASE:
            raise InvalidInput("--offsets are places in the log, and --source is database: leave one out")
        if self.authors and self.followers_of is not None:
            raise InvalidInput("--author and --followers-of exclude each other: leave one out")
        if self.topic is not None:
            check_backfill_topic(self.topic)
        if len(self.authors) > AUTHORS_MAX:
            raise InvalidInput(f"{len(self.authors):,} authors are named, and at most {AUTHORS_MAX:,} can be")

    def encode(self) -> dict[str, Any]:
        """As JSON has it: ids are strings."""
        return {
            "source": self.source.value,
            "since_ms": self.since_ms,
            "until_ms": self.until_ms,
            "offsets": {str(partition): list(range_) for partition, range_ in sorted(self.offsets.items())},
            "authors": [str(author) for author in self.authors],
            "followers_of": None if self.followers_of is None else str(self.followers_of),
            "topic": self.topic,
        }

    def __str__(self) -> str:
        """For a person."""
        parts = [f"{ACTIVITY.name} {p}:{first}-{last}" for p, (first, last) in sorted(self.offsets.items())]
        if not parts:
            since = "the beginning" if self.since_ms is None else shown_time(self.since_ms)
            until = "now" if self.until_ms is None else shown_time(self.until_ms)
            parts.append(f"from {since} until {until}")
        if self.authors:
            parts.append(f"of {len(self.authors):,} author{'s' * (len(self.authors) > 1)}")
        if self.followers_of is not None:
            parts.append(f"of the followers of {self.followers_of}")
        return f"{', '.join(parts)}, {'into topic ' + self.topic if self.topic else 'into the live timelines'}"


def decode_what(value: Any) -> What:
    """The inverse of `What.encode`. Raises `Undecodable`."""
    try:
        return What(
            Source(value["source"]),
            value["since_ms"],
            value["until_ms"],
            {int(partition): (int(first), int(last)) for partition, (first, last) in value["offsets"].items()},
            tuple(map(int, value["authors"])),
            None if value["followers_of"] is None else int(value["followers_of"]),
            value["topic"],
        )
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise Undecodable(f"what a replay sends cannot be read: {json.dumps(value)[:100]}") from error


@dataclass(frozen=True, slots=True)
class GivenTime:
    """A time that somebody typed; `assumed_utc`: he named no zone."""

    time_ms: int
    assumed_utc: bool = False


def parse_time(option: str, text: str) -> GivenTime:
    """A time with its zone, a date, or a tweet's id, which stands for the time inside it. Raises `InvalidInput`."""
    if text.isascii() and text.isdigit() and len(text) >= TWEET_DIGITS:
        if not 0 < int(text) <= ID_MAX:
            raise InvalidInput(f"{option} is {text[:40]}, which is no id: they end at {ID_MAX}")
        return GivenTime(time_ms_of(int(text)))
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidInput(
            f"{option} is {text[:40]!r}, and must be a time such as 2026-11-26T09:30:00+01:00, a date, or a tweet's id"
        ) from error
    assumed = at.tzinfo is None
    time_ms = int((at.replace(tzinfo=UTC) if assumed else at).timestamp() * 1000)
    if time_ms < EPOCH_MS:
        raise InvalidInput(f"{option} is {text[:40]}, and nothing is older than {shown_time(EPOCH_MS)}")
    return GivenTime(time_ms, assumed)


def parse_offsets(text: str) -> tuple[int, tuple[int, int]]:
    """A part of one partition of the activity log, as P:FROM-TO, TO left out. Raises `InvalidInput`."""
    found = _OFFSETS.fullmatch(text)
    if found is None:
        raise InvalidInput(f"--offsets is {text[:40]!r}, and must be PARTITION:FROM-TO, as in 3:1000-2000")
    partition, first, last = map(int, found.groups())
    if partition >= ACTIVITY.partitions:
        raise InvalidInput(
            f"--offsets names partition {partition}, and {ACTIVITY.name} has 0 to {ACTIVITY.partitions - 1}"
        )
    if first >= last:
        raise InvalidInput(f"--offsets of partition {partition} end at {last}, before or where they start, {first}")
    return partition, (first, last)


def shown_time(time_ms: int) -> str:
    """In UTC, for a person; the number for what is no date."""
    try:
        return datetime.fromtimestamp(time_ms / 1000, UTC).isoformat(sep=" ", timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return f"{time_ms} ms"
