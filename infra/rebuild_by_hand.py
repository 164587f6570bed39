"""Rebuilding timelines although they are there, for given users or for all active ones: both timelines and the set of
followed celebrities, in every copy that is not down, one copy after another, by the one primitive.

Input: ids. Output: what became of them. Idempotent; stopped on the way, it may begin again. Used by
rebuild_commands.py.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path

import sqlalchemy as sa

from infra import redis_keys
from infra.active_users import active_groups
from infra.celebrities import all_celebrities, celebrities_of
from infra.composition import Stores
from infra.database import reading
from infra.errors import InvalidInput, NotFound, TokenLost
from infra.ids import ID_MAX
from infra.rebuild import BATCH_USERS_MAX, rebuild_each_copy
from infra.shard_map import CLUSTERS
from infra.timelines import Kind, Timelines

LINE_CHARS_MAX = 1_000  # an id has 19; longer lines are read up to here
NAMED_MAX = 1_000  # bad ids that are named one by one; all are counted


@dataclass(frozen=True, slots=True)
class Asked:
    """An id that was asked for: `line` is where it stands in its file, None when it came from the command line."""

    text: str
    line: int | None = None

    @property
    def place(self) -> str:
        """Where it stands, for people."""
        return f"line {self.line}" if self.line is not None else "--user"


@dataclass(frozen=True, slots=True)
class Bad:
    """One that was left out, and why."""

    asked: Asked
    why: str


@dataclass(slots=True)
class Counts:
    """What became of the users so far."""

    rebuilt: int = 0
    bad: int = 0
    failed: int = 0
    named: list[Bad] = field(default_factory=list)

    def leave_out(self, bad: Bad) -> None:
        """Counts one that was left out, and keeps it while there is room."""
        self.bad += 1
        if len(self.named) < NAMED_MAX:
            self.named.append(bad)

    @property
    def looked_at(self) -> int:
        """All so far."""
        return self.rebuilt + self.bad + self.failed


def read_asked(path: Path) -> Iterator[Asked]:
    """The ids of a file, one a line; blank lines and those that begin with # are none. Raises `NotFound` and
    `InvalidInput` when it cannot be read."""
    try:
        with path.open(encoding="utf-8", errors="backslashreplace") as file:
            number = 0
            while line := file.readline(LINE_CHARS_MAX):
                number += 1
                rest = line
                while not rest.endswith("\n") and (rest := file.readline(LINE_CHARS_MAX)):
                    continue
                if (text := line.strip()) and not text.startswith("#"):
                    yield Asked(text, number)
    except FileNotFoundError as error:
        raise NotFound(f"file {path} does not exist") from error
    except OSError as error:
        raise InvalidInput(f"file {path} cannot be read: {error.strerror or error}") from error


def rebuild_asked(opened: Stores, asked: Iterable[Asked]) -> Iterator[Counts]:
    """Rebuilds the users that are there; the counts after each batch. Raises `RedisUnavailable`."""
    counts, rest = Counts(), iter(asked)
    while batch := list(islice(rest, BATCH_USERS_MAX)):
        users = _existing(opened.engine, batch, counts)
        _rebuild_all(opened, opened.timelines, users, counts)
        yield counts


def rebuild_active(opened: Stores) -> Iterator[Counts]:
    """Rebuilds every active user, and the user timelines of all celebrities; nobody is active for longer by it."""
    counts = Counts()
    for authors in all_celebrities(opened.engine):
        with suppress(TokenLost):  # what is absent then is rebuilt when it is read
            rebuild_each_copy(opened.engine, opened.timelines, Kind.USER, authors)
    for users, ttl_s in active_groups(opened.engine):
        for start in range(0, len(users), BATCH_USERS_MAX):
            _rebuild_all(opened, opened.timelines.living_for(ttl_s), users[start : start + BATCH_USERS_MAX], counts)
            yield counts


def _existing(engine: sa.Engine, batch: Sequence[Asked], counts: Counts) -> list[int]:
    ids = {one: number for one in batch if (number := _number(one.text)) is not None}
    with reading(engine) as connection:
        known = set(connection.execute(_USERS, {"ids": list(set(ids.values()))}).scalars())
    for one in batch:
        if one not in ids:
            counts.leave_out(
                Bad(one, f"{one.text[:50]!r} is not a user id, which is a whole number from 1 to {ID_MAX}")
            )
        elif ids[one] not in known:
            counts.leave_out(Bad(one, f"user {ids[one]} does not exist"))
    return list(dict.fromkeys(number for number in ids.values() if number in known))


def _number(text: str) -> int | None:
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(ID_MAX))):
        return None
    return int(text) if 1 <= int(text) <= ID_MAX else None


def _rebuild_all(opened: Stores, timelines: Timelines, users: Sequence[int], counts: Counts) -> None:
    try:
        for kind in (Kind.USER, Kind.HOME):
            rebuild_each_copy(opened.engine, timelines, kind, users)
        for cluster in CLUSTERS:
            timelines.forget(cluster, redis_keys.CELEBRITIES, users)
            timelines.fill_celebrities(users, partial(celebrities_of, opened.engine))
        counts.rebuilt += len(users)
    except TokenLost:  # removals came in between all the time
        counts.failed += len(users)


_USERS = sa.text("SELECT id FROM users WHERE id = ANY (CAST(:ids AS bigint[])) AND deleted_at IS NULL")
