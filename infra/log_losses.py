"""What can be missing between what was worked off of a log and what Kafka has of it. Pure.

A reader that went on all the same would skip messages without a word: Kafka's own answer to an offset that is not there
is another offset. Next: worked_logs.py, which asks.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

ACCEPT = "fanfold topics accept"
# Between the time of an event and that of its message, by which is known how far a log was worked off: it waited in the
# outbox, and two clocks differ.
SLACK = timedelta(minutes=2)


class Loss(StrEnum):
    """What is wrong with a partition."""

    OFFSETS_GONE = "offsets gone"
    MADE_ANEW = "made anew"
    UNREAD_LOST = "unread messages lost"
    LOG_TOO_SHORT = "log too short"


@dataclass(frozen=True, slots=True)
class Held:
    """What Kafka has of a partition: the topic's id, its first offset, and the one after the last."""

    log_id: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Seen:
    """How far a partition was seen worked off: all before `next_offset`, which may be behind transaction markers that
    no reader acknowledges; and all that was published before `worked_until`, if that is known."""

    log_id: str
    next_offset: int
    worked_until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """A partition with a loss. `committed` is where its reader would go on; None when Kafka does not say."""

    reader: str
    topic: str
    partition: int
    loss: Loss
    committed: int | None
    seen: Seen | None
    held: Held

    def sentence(self) -> str:
        """What is wrong, with the values."""
        place, held = f"{self.topic} partition {self.partition}", self.held
        until = self.seen and self.seen.worked_until
        worked = f" (what was published before {until:%Y-%m-%dT%H:%M:%SZ} is worked off)" if until else ""
        match self.loss:
            case Loss.OFFSETS_GONE:
                seen = self.seen.next_offset if self.seen else 0
                return f"{self.reader} has no committed offset for {place} any more, and had worked it off to {seen}"
            case Loss.MADE_ANEW:
                return f"{place} was made anew: it is not the log that {self.reader} worked off{worked}"
            case Loss.UNREAD_LOST:
                went = "never read it" if self.committed is None else f"has read it to offset {self.committed}"
                return (
                    f"{place} begins at offset {held.start}, and {self.reader} {went}: what lay between is past its "
                    f"retention, unread{worked}"
                )
            case Loss.LOG_TOO_SHORT:
                reached = max(self.committed or 0, self.seen.next_offset if self.seen else 0)
                return f"{place} ends at offset {held.end}, and {self.reader} had worked it off to {reached}{worked}"


def judge(committed: int | None, seen: Seen | None, held: Held) -> Loss | None:
    """Compares where a reader would go on with what it is known to have reached and with what there is."""
    if seen is not None and seen.log_id != held.log_id:
        return Loss.MADE_ANEW
    reached = max(committed or 0, seen.next_offset if seen else 0)
    if reached > held.end:
        return Loss.LOG_TOO_SHORT
    if committed is None and seen is not None and seen.next_offset > held.start:
        return Loss.OFFSETS_GONE  # what nothing was read of yet has no committed offset
    return Loss.UNREAD_LOST if held.start > reached else None


def refusal(findings: Sequence[Finding]) -> str:
    """One sentence for all of them, with the command that mends it."""
    more = f", and {len(findings) - 1} more partitions have a loss" if len(findings) > 1 else ""
    return (
        f"{findings[0].sentence()}{more}. Nothing was skipped. `{ACCEPT}` shows every partition and from where reading "
        f"would go on; with --execute it goes on there, and says what has to be sent again"
    )


def advice(findings: Sequence[Finding]) -> Iterator[str]:
    """The commands that bring back what was lost, most thorough last; none when nothing of the timelines' was."""
    workers = [one for one in findings if one.loss is not Loss.OFFSETS_GONE and one.reader != COUNTERS]
    if not workers:
        return
    times = [one.seen.worked_until for one in workers if one.seen and one.seen.worked_until]
    if len(times) == len(workers):
        yield f"fanfold replay --since {min(times) - SLACK:%Y-%m-%dT%H:%M:%SZ} --source database --execute"
    yield "fanfold rebuild --active"  # follows and unfollows are in no replay from the database
    yield "fanfold audit"


COUNTERS = "counters"
