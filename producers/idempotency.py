"""Idempotency keys: what a call was answered, kept for a day in the transaction of what it did.

A key belongs to the user who acts. The same key with another body is refused.
"""

import hashlib
import hmac
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from infra.advisory_lock import LockClass
from infra.errors import InvalidInput, KeyReused
from producers.rules import check_type

KEY = re.compile(r"[\x21-\x7e]{1,255}")
KEPT_HOURS = 24
KEYS_PER_SWEEP_MAX = 1_000
NOBODY = 0  # whose key it is when a user is created: there is nobody yet who acts

Name = tuple[int, str]  # user and key

_LOCK_KEY = sa.text("SELECT pg_advisory_xact_lock(:lock_class, hashtext(:key))")
_READ = sa.text(
    """
    SELECT user_id, key, request_hash, answer FROM idempotency_keys
    JOIN unnest(CAST(:users AS bigint[]), CAST(:keys AS text[])) AS wanted (u, k)
      ON user_id = wanted.u AND key = wanted.k
    WHERE created_at > now() - make_interval(hours => :kept_hours)
    """
)
_WRITE = sa.text(
    """
    INSERT INTO idempotency_keys (user_id, key, request_hash, answer)
    SELECT * FROM unnest(CAST(:users AS bigint[]), CAST(:keys AS text[]), CAST(:hashes AS bytea[]),
                         CAST(:answers AS text[]))
    ON CONFLICT (user_id, key)
    DO UPDATE SET request_hash = excluded.request_hash, answer = excluded.answer, created_at = now()
    """
)
_SWEEP = sa.text(
    """
    DELETE FROM idempotency_keys WHERE (user_id, key) IN (
        SELECT user_id, key FROM idempotency_keys WHERE created_at < now() - make_interval(hours => :kept_hours)
        ORDER BY created_at LIMIT :limit FOR UPDATE SKIP LOCKED
    )
    """
)


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept under a key."""

    key: str
    request_hash: bytes
    answer: str

    def answer_to(self, user_id: int, request_hash: bytes) -> str:
        """The answer. Raises `KeyReused` when it was given to another request."""
        if not hmac.compare_digest(self.request_hash, request_hash):
            who = "somebody" if user_id == NOBODY else f"user {user_id}"
            raise KeyReused(
                f"{who} sent the idempotency key {self.key!r} before, with another request; "
                "a new request needs a new key"
            )
        return self.answer


def check_key(key: str) -> str:
    """The key. Raises `InvalidInput` when it is not 1 to 255 visible ASCII characters."""
    check_type(key, str, "the idempotency key")
    if not KEY.fullmatch(key):
        raise InvalidInput(f"the idempotency key {key[:80]!r} is not 1 to 255 visible ASCII characters")
    return key


def hash_of(*parts: Any) -> bytes:
    """The hash of a request, from whatever makes it another one."""
    return hashlib.sha256(json.dumps(parts, separators=(",", ":")).encode()).digest()


def kept_answers(connection: sa.Connection, names: Iterable[Name]) -> dict[Name, Kept]:
    """What is kept under these keys. The caller holds the users' locks; for `NOBODY` those of the keys."""
    wanted = list(names)
    if not wanted:
        return {}
    users, keys = [user for user, _ in wanted], [key for _, key in wanted]
    rows = connection.execute(_READ, {"users": users, "keys": keys, "kept_hours": KEPT_HOURS})
    return {(row.user_id, row.key): Kept(row.key, row.request_hash, row.answer) for row in rows}


def lock_key(connection: sa.Connection, key: str) -> None:
    """Until the commit nobody else works under this key of `NOBODY`, or under one of the same hash."""
    connection.execute(_LOCK_KEY, {"lock_class": LockClass.KEYS.value, "key": key})


def keep_answers(connection: sa.Connection, answers: Mapping[Name, Kept]) -> None:
    """Keeps them. A key that is over a day old is anybody's again, so it is overwritten."""
    if answers:
        parameters = {
            "users": [user for user, _ in answers],
            "keys": [key for _, key in answers],
            "hashes": [kept.request_hash for kept in answers.values()],
            "answers": [kept.answer for kept in answers.values()],
        }
        connection.execute(_WRITE, parameters)


def sweep(connection: sa.Connection) -> int:
    """Removes some keys that are over a day old; how many."""
    return connection.execute(_SWEEP, {"kept_hours": KEPT_HOURS, "limit": KEYS_PER_SWEEP_MAX}).rowcount
