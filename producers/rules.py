"""What a user may send: pure checks, each with one sentence."""

import re
import reprlib
import unicodedata
from typing import TypeVar

from infra.errors import InvalidInput
from infra.ids import ID_MAX

TEXT_MAX = 280  # code points after NFC
# A code point decomposes into at most four, and no form of a text has more of them than the decomposed one: a text that
# is longer than this in any form has over 280 after NFC. Normalising takes time by the square of what is longer.
RAW_TEXT_MAX = 4 * TEXT_MAX
INVISIBLE = frozenset({"Zs", "Zl", "Zp", "Cc", "Cf"})  # spaces, controls and formats: nothing to read
HANDLE = re.compile(r"[A-Za-z0-9_]{1,30}")

T = TypeVar("T")


def check_type(value: object, wanted: type[T], what: str) -> T:
    """The value. Raises `InvalidInput` when it is of another type; a bool is no number here."""
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        raise InvalidInput(
            f"{what} is {reprlib.repr(value)} of type {type(value).__name__}, but must be of type {wanted.__name__}"
        )
    return value


def check_text(text: str) -> str:
    """The text in NFC. Raises `InvalidInput` when it is empty, too long or not storable."""
    check_type(text, str, "the text")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidInput(f"the text holds a lone surrogate at position {error.start}; send valid Unicode") from None
    if "\x00" in text:
        raise InvalidInput(f"the text holds a NUL character at position {text.index(chr(0))}; leave it out")
    if len(text) > RAW_TEXT_MAX:
        raise InvalidInput(_too_long(len(text)))
    normal = unicodedata.normalize("NFC", text)
    if all(unicodedata.category(one) in INVISIBLE for one in normal):
        raise InvalidInput("the text is empty; a tweet has 1 to 280 characters")
    if len(normal) > TEXT_MAX:
        raise InvalidInput(_too_long(len(normal)))
    return normal


def check_handle(handle: str) -> str:
    """The handle. Raises `InvalidInput` when it is not 1 to 30 ASCII letters, digits or underscores."""
    check_type(handle, str, "the handle")
    if not HANDLE.fullmatch(handle):
        raise InvalidInput(f"the handle {handle!r} is not 1 to 30 letters, digits or underscores")
    return handle


def check_id(any_id: int, what: str) -> int:
    """The id. Raises `InvalidInput` when it is outside the range of ids."""
    check_type(any_id, int, f"the {what} id")
    if not 1 <= any_id <= ID_MAX:
        raise InvalidInput(f"the {what} id {any_id} is not a whole number from 1 to {ID_MAX}")
    return any_id


def check_not_self(follower_id: int, author_id: int) -> None:
    """Raises `InvalidInput` when a user would follow himself."""
    if follower_id == author_id:
        raise InvalidInput(f"user {follower_id} cannot follow himself")


def _too_long(characters: int) -> str:
    return f"the text has {characters} characters; a tweet has 1 to {TEXT_MAX}"
