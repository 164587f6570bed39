"""Creating users. Erasing them: erasing.py."""

import json
from dataclasses import asdict, dataclass

import sqlalchemy as sa

from infra.errors import Conflict
from producers.idempotency import Kept, check_key, hash_of, keep_answers, kept_answers
from producers.rules import check_handle, check_id
from producers.snowflake import Snowflakes

NOBODY = 0  # whose keys they are when a user is created


@dataclass(frozen=True, slots=True)
class User:
    """A user as he was stored."""

    id: int
    handle: str


def check_new(handle: str, user_id: int | None, key: str | None) -> None:
    """Raises `InvalidInput`."""
    check_handle(handle)
    if user_id is not None:
        check_id(user_id, "user")
    if key is not None:
        check_key(key)


def create(
    connection: sa.Connection, handle: str, user_id: int | None, key: str | None, snowflakes: Snowflakes
) -> User:
    """A new user, or the one of the same id and handle, or of the same key. Raises `Conflict`."""
    request = hash_of(handle, user_id)
    before = _answered(connection, key, request)
    if before is not None:
        return before
    user = User(snowflakes.next() if user_id is None else user_id, handle)
    if not connection.execute(_INSERT, asdict(user)).rowcount:
        # Perhaps by the same call, sent twice: its key is there now that the insert has waited for it.
        return _answered(connection, key, request) or _same(connection, user, by_id=user_id is not None)
    if key is not None:
        keep_answers(connection, {(NOBODY, key): Kept(key, request, json.dumps(asdict(user)))})
    return user


def _answered(connection: sa.Connection, key: str | None, request: bytes) -> User | None:
    if key is None:
        return None
    kept = kept_answers(connection, [(NOBODY, key)]).get((NOBODY, key))
    return None if kept is None else User(**json.loads(kept.answer_to(NOBODY, request)))


def _same(connection: sa.Connection, user: User, *, by_id: bool) -> User:
    taken = connection.execute(_TAKEN, asdict(user)).all()
    if by_id and [tuple(row) for row in taken] == [(user.id, user.handle)]:
        return user
    what = f"handle {user.handle!r}" if any(row.handle == user.handle for row in taken) else f"user id {user.id}"
    raise Conflict(f"the {what} is taken")


_INSERT = sa.text("INSERT INTO users (id, handle) VALUES (:id, :handle) ON CONFLICT DO NOTHING")
_TAKEN = sa.text("SELECT id, handle FROM users WHERE id = :id OR handle = :handle ORDER BY id")
