"""Which events are wanted. Most of what is not wanted is dropped by its key, or by a look at its bytes, undecoded.

Pure. The key of a message is its author, so with `authors` set nothing else of it is looked at.
"""

import re
import reprlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from consumers.tweet_stream_events import Event, Posted
from infra.errors import InvalidInput
from infra.events import ActivityType
from infra.ids import ID_MAX

TEXT_CHARS_MAX = 1_000  # of what is looked for: over three times the longest tweet
AUTHORS_MAX = 100_000  # of one filter: a few MB

Look = Callable[[Sequence[Any]], list[Any]]


@dataclass(frozen=True, slots=True)
class Filter:
    """What to let through; an empty filter lets everything through. All of what is named must hold.

    `types`: only these. `authors`: only these ids. `text`: only posted tweets that are live and contain it, whatever
    the case of either; a compiled pattern is searched for instead. Raises `InvalidInput`.
    """

    types: frozenset[ActivityType] = frozenset()
    authors: frozenset[int] = frozenset()
    text: str | re.Pattern[str] | None = None

    def __post_init__(self) -> None:
        wrong = next((one for one in self.authors if not 1 <= one <= ID_MAX), None)
        if wrong is not None:
            raise InvalidInput(f"{reprlib.repr(wrong)} is not an author's id, which is from 1 to {ID_MAX}")
        if len(self.authors) > AUTHORS_MAX:
            raise InvalidInput(f"{len(self.authors)} authors are too many for a filter, which takes {AUTHORS_MAX}")
        if isinstance(self.text, str) and not 1 <= len(self.text) <= TEXT_CHARS_MAX:
            raise InvalidInput(
                f"a text to look for has 1 to {TEXT_CHARS_MAX} characters, and this has {len(self.text)}"
            )

    @property
    def needs_text(self) -> bool:
        """Whether tweets have to be read to decide."""
        return self.text is not None

    def wants(self, event: Event) -> bool:
        """Whether an event passes, but for its text."""
        if self.types and event.type not in self.types:
            return False
        if self.text is not None and not isinstance(event, Posted):
            return False
        return not self.authors or event.author_id in self.authors

    def wants_text(self, event: Event) -> bool:
        """Whether an event that `wants` let through has the text."""
        if self.text is None:
            return True
        if not isinstance(event, Posted) or event.tweet is None:
            return False
        if isinstance(self.text, str):
            return self.text.casefold() in event.tweet.text.casefold()
        return self.text.search(event.tweet.text) is not None

    def look(self) -> Look:
        """A look at raw messages: those that may be wanted, reports of errors among them. It lets through what it
        cannot tell, such as what is not readable, and never drops what is wanted."""
        return _look(self._keys(), self._unwanted())

    def _keys(self) -> frozenset[bytes | None] | None:
        # None is the key of a report.
        return frozenset([None, *(str(one).encode() for one in self.authors)]) if self.authors else None

    def _unwanted(self) -> re.Pattern[bytes] | None:
        wanted = self.types or frozenset(ActivityType)
        if self.needs_text:
            wanted &= {ActivityType.POSTED}
        unwanted = [one.value.encode() for one in ActivityType if one not in wanted]
        return re.compile(rb'"type": ?"(?:%b)"' % b"|".join(unwanted)) if unwanted else None


def _look(keys: frozenset[bytes | None] | None, unwanted: re.Pattern[bytes] | None) -> Look:
    def by_key(messages: Sequence[Any]) -> list[Any]:
        return list(messages) if keys is None else [one for one in messages if one.key() in keys]

    if unwanted is None:
        return by_key
    names = unwanted.search
    return lambda messages: [
        one for one in by_key(messages) if one.error() is not None or not names(one.value() or b"")
    ]


def parse_types(names: Iterable[str]) -> frozenset[ActivityType]:
    """Types by their names. Raises `InvalidInput`."""
    known = {one.value: one for one in ActivityType}
    found = set()
    for name in names:
        if name not in known:
            raise InvalidInput(f"{reprlib.repr(name)} is no type of event; those are {', '.join(known)}")
        found.add(known[name])
    return frozenset(found)
