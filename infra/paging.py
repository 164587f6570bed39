"""Which page of a list is asked for: Mastodon's paging."""

from dataclasses import dataclass

from infra.errors import InvalidInput

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
        if not 1 <= self.limit <= LIMIT_MAX:
            raise InvalidInput(f"limit is {self.limit}, but must be from 1 to {LIMIT_MAX}")
