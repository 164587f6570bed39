"""Questions to the database about users: who one is, who follows him, and whom he follows."""

import re
import reprlib
from dataclasses import dataclass

import sqlalchemy as sa

from infra.database import reading
from infra.errors import NotFound
from infra.ids import ID_MAX
from infra.paging import Cursor

# Pages in the order of an index: (author_id, follower_id) for followers, (follower_id, author_id) for following.
_PAGE = """
    SELECT users.id, users.handle FROM follows JOIN users ON users.id = follows.{other}
    WHERE follows.{one} = :user AND follows.{other} > :above AND follows.{other} <= :highest
      AND users.deleted_at IS NULL
    ORDER BY follows.{other} {order} LIMIT :wanted
"""
_FOLLOWERS = {
    order: sa.text(_PAGE.format(one="author_id", other="follower_id", order=order)) for order in ("DESC", "ASC")
}
_FOLLOWING = {
    order: sa.text(_PAGE.format(one="follower_id", other="author_id", order=order)) for order in ("DESC", "ASC")
}

ID = re.compile(r"[0-9]{1,18}|[0-8][0-9]{18}")  # what the database can compare with an id
HANDLE = re.compile(r"@?[A-Za-z0-9_]{1,30}")

_USER = sa.text("SELECT id, handle FROM users WHERE id = :id AND deleted_at IS NULL")
_NAMED = sa.text("SELECT id, handle FROM users WHERE handle = :handle AND deleted_at IS NULL")


@dataclass(frozen=True, slots=True)
class User:
    """A user as readers show him."""

    id: int
    handle: str


@dataclass(frozen=True, slots=True)
class UserPage:
    """Users, the highest id first. `next_max_id` asks for the following ones; None when there are none."""

    users: list[User]
    next_max_id: int | None


def user(engine: sa.Engine, user_id: int) -> User:
    """One user. Raises `NotFound`."""
    with reading(engine) as connection:
        return _need_user(connection, user_id)


def user_named(engine: sa.Engine, name: str) -> User:
    """The user of this id or, when it is no number or has an @ before it, of this handle. Raises `NotFound`."""
    if ID.fullmatch(name):
        return user(engine, int(name))
    row = None
    if HANDLE.fullmatch(name):
        with reading(engine) as connection:
            row = connection.execute(_NAMED, {"handle": name.removeprefix("@")}).one_or_none()
    if row is None:
        raise NotFound(f"there is no user {reprlib.repr(name)}; name an id or a handle")
    return User(*row)


def followers(engine: sa.Engine, user_id: int, cursor: Cursor) -> UserPage:
    """A page of a user's followers, by id. Raises `NotFound`."""
    return _page(engine, _FOLLOWERS, user_id, cursor)


def following(engine: sa.Engine, user_id: int, cursor: Cursor) -> UserPage:
    """A page of those whom a user follows, by id. Raises `NotFound`."""
    return _page(engine, _FOLLOWING, user_id, cursor)


def _page(engine: sa.Engine, queries: dict[str, sa.TextClause], user_id: int, cursor: Cursor) -> UserPage:
    upwards = cursor.min_id is not None
    limits = {
        "user": user_id,
        "highest": ID_MAX if cursor.max_id is None else cursor.max_id - 1,
        "above": cursor.min_id if cursor.min_id is not None else cursor.since_id or 0,
        "wanted": cursor.limit + (not upwards),
    }
    with reading(engine) as connection:
        _need_user(connection, user_id)
        found = [User(*row) for row in connection.execute(queries["ASC" if upwards else "DESC"], limits)]
    if upwards:
        return UserPage(found[::-1], found[0].id if found else None)
    return UserPage(found[: cursor.limit], found[cursor.limit - 1].id if len(found) > cursor.limit else None)


def _need_user(connection: sa.Connection, user_id: int) -> User:
    row = connection.execute(_USER, {"id": user_id}).one_or_none()
    if row is None:
        raise NotFound(f"user {user_id} does not exist")
    return User(*row)
