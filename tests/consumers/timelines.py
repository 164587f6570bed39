"""Timelines made up for tests, and the plain oracle of what pages show of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from hypothesis import strategies as st

from consumers.page_rules import Live, Shown
from consumers.pages import Found
from infra.timeline_windows import Span
from infra.tweet_bodies import Body

NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)


@dataclass(frozen=True)
class Made:
    """One entry as it was made up: what it retweets, and whether its parent and it itself are live."""

    retweet_of: int | None = None
    parent_live: bool = True
    author: int = 1


entries = st.builds(
    Made,
    retweet_of=st.sampled_from([None, None, 1, 2, 3]),
    parent_live=st.sampled_from([True, True, True, False]),
    author=st.integers(1, 4),
)


def live(tweet_id: int, made: Made) -> Live:
    reply_to = None if made.parent_live else 5
    return Live(Body(tweet_id, made.author, "hello", NOON, reply_to, made.retweet_of), made.parent_live)


@dataclass
class Timeline:
    """A timeline that tweets come to and go from between two requests. A dead entry is looked at and is not live."""

    made: dict[int, Made] = field(default_factory=dict)
    dead: set[int] = field(default_factory=set)
    looks: int = 0

    def arrive(self, made: Made) -> int:
        tweet_id = max(self.made, default=100) + 2  # odd ids are cursors between two entries
        self.made[tweet_id] = made
        return tweet_id

    def look(self, span: Span) -> Found:
        self.looks += 1
        if span.upwards:
            beside = sorted(one for one in self.made if one >= (span.cursor or 0))
        else:
            beside = sorted((one for one in self.made if span.cursor is None or one < span.cursor), reverse=True)
        return Found(beside[: span.count], len(beside) < span.count)

    def live_among(self, ids: Sequence[int]) -> list[Live]:
        return [live(one, self.made[one]) for one in ids if one in self.made and one not in self.dead]

    def live_ids(self) -> list[int]:
        """Newest first."""
        return sorted((one for one in self.made if one not in self.dead), reverse=True)


def oracle(entries: Sequence[Live], span: int) -> list[Shown]:
    """What is shown of a whole timeline, newest first, said as plainly as the rule is."""
    found = []
    for at, entry in enumerate(entries):
        original = entry.body.retweet_of
        older = [one for one in entries[at + 1 :][:span] if one.body.retweet_of == original]
        if not entry.parent_live or (original is not None and older):
            continue
        by: list[int] = []
        for one in reversed(entries[max(0, at - span) : at + 1]):
            if original is not None and one.body.retweet_of == original:
                by.insert(0, one.body.author_id)
        first_of_each = [author for place, author in enumerate(by) if author not in by[:place]]
        found.append(Shown(entry.body, tuple(first_of_each)))
    return found
