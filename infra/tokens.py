"""Bearer tokens: who may act as whom over HTTP, and how far. Of a token's secret only its SHA-256 is kept.

A token is `ff_<id>_<secret>`; it is shown once, when it is made. Every check asks the database, so one that was
revoked, or whose user was deleted, is refused from then on. Next: http_access.py.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

import sqlalchemy as sa

from infra.database import reading, transaction
from infra.errors import InvalidInput, NotFound, Unauthenticated
from infra.ids import ID_MAX

SECRET_BYTES = 32  # 43 characters; nobody guesses it, so a fast hash is enough to keep it by
TOKEN = re.compile(r"ff_([1-9][0-9]{0,18})_([A-Za-z0-9_-]{43})", re.ASCII)


class Scope(StrEnum):
    """What a token allows. `admin` includes the others, for every user."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"


DEFAULT_SCOPES = (Scope.READ, Scope.WRITE)


@dataclass(frozen=True, slots=True)
class Access:
    """Who a request acts as, and what it may do."""

    user_id: int
    scopes: frozenset[Scope]

    def may(self, scope: Scope) -> bool:
        """Whether the token has this scope."""
        return scope in self.scopes or Scope.ADMIN in self.scopes


@dataclass(frozen=True, slots=True)
class TokenInfo:
    """What can be shown of a token after it was made."""

    id: int
    user_id: int
    scopes: tuple[Scope, ...]
    created_at: datetime
    revoked_at: datetime | None


# Users that are being deleted still have a row.
_CREATE = sa.text(
    """
    INSERT INTO bearer_tokens (user_id, secret_hash, scopes)
    SELECT id, :secret_hash, :scopes FROM users WHERE id = :user AND deleted_at IS NULL
    RETURNING id
    """
)
_CHECK = sa.text(
    """
    SELECT bearer_tokens.id, user_id, secret_hash, scopes
    FROM bearer_tokens JOIN users ON users.id = user_id AND users.deleted_at IS NULL
    WHERE bearer_tokens.id = ANY (CAST(:ids AS bigint[])) AND revoked_at IS NULL
    """
)
_LIST = sa.text(
    """
    SELECT id, user_id, scopes, created_at, revoked_at FROM bearer_tokens
    WHERE CAST(:user AS bigint) IS NULL OR user_id = :user ORDER BY id
    """
)
_REVOKE = sa.text("UPDATE bearer_tokens SET revoked_at = coalesce(revoked_at, now()) WHERE id = :id")


class Tokens:
    """The tokens of one database. Safe to share between threads. Raises `DatabaseUnavailable`."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine

    def create(self, user_id: int, scopes: Sequence[Scope] = DEFAULT_SCOPES) -> tuple[int, str]:
        """A new token's id and its text, which is nowhere else. Raises `NotFound` for an unknown user."""
        secret = secrets.token_urlsafe(SECRET_BYTES)
        words = " ".join(scope for scope in Scope if scope in scopes)
        with transaction(self._engine) as connection:
            token_id = connection.execute(
                _CREATE, {"user": user_id, "secret_hash": _hash(secret), "scopes": words}
            ).scalar_one_or_none()
        if token_id is None:
            raise NotFound(f"user {user_id} does not exist, so there is nobody to act as; create the user first")
        return token_id, f"ff_{token_id}_{secret}"

    def of(self, user_id: int | None = None) -> list[TokenInfo]:
        """All tokens, or those of one user, revoked ones too, oldest first."""
        with reading(self._engine) as connection:
            rows = connection.execute(_LIST, {"user": user_id})
            return [TokenInfo(row[0], row[1], _scopes(row[2]), row[3], row[4]) for row in rows]

    def revoke(self, token_id: int) -> None:
        """From now on the token is refused. Revoking again is safe. Raises `NotFound`."""
        with transaction(self._engine) as connection:
            if connection.execute(_REVOKE, {"id": token_id}).rowcount == 0:
                raise NotFound(f"token {token_id} does not exist; `fanfold token list` shows those that do")

    def check(self, texts: Sequence[str]) -> list[Access | Exception]:
        """What each of these tokens allows, or `Unauthenticated`; one query for all. `Gathering` makes the batches."""
        matches = [TOKEN.fullmatch(text) for text in texts]
        wanted = {int(match[1]) for match in matches if match and int(match[1]) <= ID_MAX}
        rows = {}
        if wanted:
            with reading(self._engine) as connection:
                rows = {row.id: row for row in connection.execute(_CHECK, {"ids": list(wanted)})}
        return [_outcome(match, rows) for match in matches]


def parse_scopes(text: str) -> list[Scope]:
    """Scopes from a list with commas. Raises `InvalidInput` naming the one that is none."""
    known = [scope.value for scope in Scope]
    words = [word.strip() for word in text.split(",")]
    for word in words:
        if word not in known:
            raise InvalidInput(f"{word!r} is not a scope; the scopes are {', '.join(known)}")
    return [Scope(word) for word in words]


def _outcome(match: re.Match[str] | None, rows: dict[int, "sa.Row[tuple[int, int, bytes, str]]"]) -> Access | Exception:
    if match is None:
        return Unauthenticated("what was given as a token is none: it begins with ff_ and was shown when it was made")
    row = rows.get(int(match[1]))
    if row is None or not hmac.compare_digest(_hash(match[2]), bytes(row.secret_hash)):
        return Unauthenticated("the token is unknown or revoked, or its user was deleted")
    return Access(row.user_id, frozenset(_scopes(row.scopes)))


def _scopes(words: str) -> tuple[Scope, ...]:
    return tuple(Scope(word) for word in words.split())


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()
