"""Idempotency keys of batches. A batch is many transactions, so its key is claimed before them and answered after them.

A repeat is answered what was kept and does nothing. One that comes before that, since the first was cut off or is still
under way, acts too: each item of a batch is safe to repeat by itself.
"""

import hashlib

import sqlalchemy as sa

from infra.database import lock_authors, transaction
from producers.idempotency import Kept, Name, keep_answers, kept_answers

_UNANSWERED = ""


def claim(engine: sa.Engine, name: Name, body: bytes) -> str | None:
    """Notes that a key belongs to this body; what that was answered, None when it was not yet. Raises `KeyReused` when
    the key belongs to another body."""
    user_id, _ = name
    with transaction(engine) as connection:
        lock_authors(connection, [user_id])
        kept = kept_answers(connection, [name]).get(name)
        if kept is not None:
            return kept.answer_to(user_id, _hash(body)) or None
        keep_answers(connection, {name: _kept(name, body, _UNANSWERED)})
    return None


def keep(engine: sa.Engine, name: Name, body: bytes, answer: str) -> None:
    """Keeps the answer to a key that was claimed. Never called, for a crash just before it: the repeat acts again."""
    with transaction(engine) as connection:
        lock_authors(connection, [name[0]])
        keep_answers(connection, {name: _kept(name, body, answer)})


def _kept(name: Name, body: bytes, answer: str) -> Kept:
    return Kept(name[1], _hash(body), answer)


def _hash(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()
