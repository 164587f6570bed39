"""How a `TweetStream` reads, and what it says of itself. Next: tweet_stream.py."""

import re
import reprlib
from dataclasses import dataclass, field
from enum import StrEnum

from consumers.tweet_stream_filter import Filter
from infra.errors import InvalidInput
from infra.kafka import GROUP
from infra.log_start import Start
from infra.topics import ACTIVITY

GROUP_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")  # it becomes part of the name of its topic of dead letters


class Commit(StrEnum):
    """When the group's place is moved behind what was processed. An event is processed once the next one is asked for,
    a batch once the next batch is, and with `run` when its handler has returned."""

    ON_ITS_OWN = "on its own"  # each second, on closing, and for partitions that go to somebody else
    AFTER_EACH = "after each"  # event or batch, before the next one: a kill repeats one at most
    BY_HAND = "by hand"  # only by `commit`


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """What to read, and from where.

    `group`: members with the same name share the partitions and go on where the group was; None reads all of them, and
    keeps no place. `start` counts for partitions where the group has no place yet. `follow`: whether to go on at the
    end of the log. `topic` is another one only where a replay was sent. Raises `InvalidInput`.
    """

    group: str | None = None
    start: Start = field(default_factory=Start.now)
    only: Filter = field(default_factory=Filter)
    commit: Commit = Commit.ON_ITS_OWN
    follow: bool = True
    topic: str = ACTIVITY.name

    def __post_init__(self) -> None:
        if self.group is not None:
            check_group(self.group)


def check_group(group: str) -> None:
    """Raises `InvalidInput` for the name of a group that cannot be."""
    if not GROUP_NAME.fullmatch(group):
        raise InvalidInput(f"group {reprlib.repr(group)} has another form: 1 to 100 of a-z, A-Z, 0-9, . _ -")
    if group == GROUP or group.startswith(f"{GROUP}-"):
        raise InvalidInput(f"group {group} is Fanfold's own: take a name that does not begin with {GROUP}")


@dataclass(frozen=True, slots=True)
class StreamHealth:
    """`partitions` are this member's; none while others have them all. `lag` are offsets behind the end of the log, 0
    when all is processed and None when Kafka does not say. `waiting_for` says what is being waited for, such as a
    server or a handler that failed. `events` were processed, `buried` ones among them; `unreadable` messages are no
    events."""

    running: bool = True
    partitions: tuple[int, ...] = ()
    lag: int | None = None
    waiting_for: str | None = None
    events: int = 0
    buried: int = 0
    unreadable: int = 0
