"""Which page of a list is asked for: Mastodon's paging."""

import reprlib
from dataclasses import dataclass

from infra.errors import InvalidInput
from infra.ids import ID_MAX

LIMIT_DEFAULT = 20
LIMIT_MAX = 40


@dataclass(frozen=True, slots=True)
class Cursor:
    """Older than `max_id`, newer than `since_id`; `min_id` asks for the oldest above it."""

    limit: int = LIMIT_DEFAULT
    max_id: int | None = None
    since_id: int | None = None
    min_id: int | None = None

    def __post_init__(self) -> None:
        if type(self.limit) is not int or not 1 <= self.limit <= LIMIT_MAX:
            raise InvalidInput(f"limit is {reprlib.repr(self.limit)}, but must be from 1 to {LIMIT_MAX}")
        for name in ("max_id", "since_id", "min_id"):
            bound = getattr(self, name)
            if bound is not None and (type(bound) is not int or not 0 <= bound <= ID_MAX):
                raise InvalidInput(f"{name} is {reprlib.repr(bound)}, but must be a whole number from 0 to {ID_MAX}")
