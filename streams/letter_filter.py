"""Which dead letters are meant: the options of `fanfold dlq list`, `redrive` and `drop`. Pure."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from infra import dead_letters
from infra.errors import InvalidInput
from streams.read_dead_letters import Buried

UNITS_MS: Mapping[str, int] = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
OFFSET_MAX = (1 << 63) - 1
AGE_DIGITS_MAX = 6  # a million days are more than anything is kept for


@dataclass(frozen=True, slots=True)
class Offsets:
    """A range of offsets; both ends belong to it."""

    first: int = 0
    last: int = OFFSET_MAX


@dataclass(frozen=True, slots=True)
class Wanted:
    """Every condition must hold; one that is None holds for every letter. Offsets are the letters' own; `before_ms` and
    `since_ms` are about when they were buried; the partition is the message's."""

    offsets: Offsets = Offsets()
    reason: str | None = None
    before_ms: int | None = None
    since_ms: int | None = None
    partition: int | None = None
    key: str | None = None

    def matches(self, letter: Buried) -> bool:
        """Whether it is meant. The reason may stand anywhere in the error's class and message, in any case."""
        return (
            self.offsets.first <= letter.offset <= self.offsets.last
            and (self.reason is None or self.reason.casefold() in letter.reason.casefold())
            and (self.before_ms is None or letter.time_ms <= self.before_ms)
            and (self.since_ms is None or letter.time_ms >= self.since_ms)
            and (self.partition is None or letter.header(dead_letters.PARTITION) == str(self.partition))
            and (self.key is None or letter.key == os.fsencode(self.key))
        )

    @property
    def is_all(self) -> bool:
        """Whether nothing is asked for."""
        return self == Wanted()


def parse_offsets(text: str) -> Offsets:
    """`7` or `7-12`. Raises `InvalidInput`."""
    match = re.fullmatch(r"([0-9]{1,19})(?:-([0-9]{1,19}))?", text)
    first, last = (int(match[1]), int(match[2] or match[1])) if match else (0, OFFSET_MAX + 1)
    if not match or last > OFFSET_MAX:
        raise InvalidInput(f"{text[:50]!r} is not an offset or a range of them, as in 7 or 7-12")
    if last < first:
        raise InvalidInput(f"the offsets {text} end before they begin; write the lower one first")
    return Offsets(first, last)


def parse_age_ms(text: str) -> int:
    """`90s`, `30m`, `2h` or `7d`, in milliseconds. Raises `InvalidInput`."""
    match = re.fullmatch(rf"([0-9]{{1,{AGE_DIGITS_MAX}}})([smhd])", text)
    if not match:
        raise InvalidInput(f"{text[:50]!r} is not an age: a number with s, m, h or d, as in 30m or 7d")
    return int(match[1]) * UNITS_MS[match[2]]
