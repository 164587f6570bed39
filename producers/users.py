"""Creating users. Erasing them: erasing.py."""

import json
from dataclasses import asdict, dataclass

import sqlalchemy as sa

from infra.database import limit_waits
from infra.errors import Conflict
from producers.idempotency import NOBODY, Kept, check_key, hash_of, keep_answers, kept_answers, lock_key
from producers.rules import check_handle, check_id
from producers.snowflake import Snowflakes


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
    """A new user, or the one of the same id and handle, or of the same key. Raises `Conflict`.

    Idempotent by key: the answer is kept in the same transaction, under the key's lock.
    """
    limit_waits(connection)
    request = hash_of(handle, user_id)
    if key is not None:
        lock_key(connection, key)
        kept = kept_answers(connection, [(NOBODY, key)]).get((NOBODY, key))
        if kept is not None:
            return User(**json.loads(kept.answer_to(NOBODY, request)))
    user = User(snowflakes.next() if user_id is None else user_id, handle)
    if not connection.execute(_INSERT, asdict(user)).rowcount:
        _check_same(connection, user, by_id=user_id is not None)
    if key is not None:
        keep_answers(connection, {(NOBODY, key): Kept(key, request, json.dumps(asdict(user)))})
    return user


def _check_same(connection: sa.Connection, user: User, *, by_id: bool) -> None:
    """Raises `Conflict` unless the user that is there is the same one, and not deleted."""
    taken = connection.execute(_TAKEN, asdict(user)).all()
    if by_id and [(row.id, row.handle, row.deleted_at) for row in taken] == [(user.id, user.handle, None)]:
        return
    if any(row.handle == user.handle and row.deleted_at is None for row in taken):
        raise Conflict(f"the handle {user.handle!r} is taken")
    for row in taken:
        if row.id == user.id:
            raise Conflict(f"the user id {user.id} is taken" + (" by a user who was deleted" if row.deleted_at else ""))
    raise Conflict(f"the handle {user.handle!r} is free only when the user who had it is wholly deleted; try later")


_INSERT = sa.text("INSERT INTO users (id, handle) VALUES (:id, :handle) ON CONFLICT DO NOTHING")
_TAKEN = sa.text("SELECT id, handle, deleted_at FROM users WHERE id = :id OR handle = :handle ORDER BY id")
