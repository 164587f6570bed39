"""The trace that a call belongs to: W3C Trace Context's `traceparent`, from the HTTP request to the outbox row.

No spans are made here: the caller's is passed on unchanged. Next: outbox.py, which reads it.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

HEADER = "traceparent"
VERSION_00_CHARACTERS = 55  # a later version may be longer, and its first 55 characters mean the same

_GRAMMAR = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_SAMPLED = 1  # the one flag that every version has

_current: ContextVar[str | None] = ContextVar(HEADER, default=None)


def current() -> str | None:
    """The `traceparent` of the call under way, or None."""
    return _current.get()


@contextmanager
def within(traceparent: str | None) -> Iterator[None]:
    """The calls inside belong to this trace; to none when it is None."""
    token = _current.set(traceparent)
    try:
        yield
    finally:
        _current.reset(token)


def parse(value: str) -> str | None:
    """A `traceparent` of version 00, or None when the value is malformed, which is to be ignored.

    Of a later version the parts that version 00 knows are taken (https://www.w3.org/TR/trace-context/, section 4.3).
    """
    head, rest = value[:VERSION_00_CHARACTERS], value[VERSION_00_CHARACTERS:]
    if _GRAMMAR.fullmatch(head) is None:
        return None
    if head.startswith("00-"):
        return None if rest else head
    if rest and not rest.startswith("-"):
        return None
    return f"00{head[2:-2]}{int(head[-2:], 16) & _SAMPLED:02x}"
