import sys
import unicodedata
from typing import Any

import pytest

from infra.errors import InvalidInput
from producers.idempotency import check_key
from producers.rules import RAW_TEXT_MAX, TEXT_MAX, check_handle, check_id, check_not_self, check_text


def test_a_text_is_counted_in_code_points_after_nfc() -> None:
    decomposed = "e\u0301" * TEXT_MAX

    assert check_text(decomposed) == "\u00e9" * TEXT_MAX


def test_no_text_of_280_characters_is_longer_in_another_form_than_the_bound() -> None:
    longest = max(map(chr, range(sys.maxunicode + 1)), key=lambda one: len(unicodedata.normalize("NFD", one)))
    decomposed = unicodedata.normalize("NFD", longest) * TEXT_MAX

    assert len(decomposed) == RAW_TEXT_MAX
    assert len(check_text(decomposed)) <= TEXT_MAX


def test_a_text_that_is_too_long_in_any_form_is_refused_before_it_is_normalised(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Sorting these marks takes seconds, in which the event loop does nothing else."""
    text = "a" + "\u0300" * 16_000 + "\u0316" * 16_000
    monkeypatch.setattr("producers.rules.unicodedata", None)

    with pytest.raises(InvalidInput, match="the text has 32001 characters; a tweet has 1 to 280"):
        check_text(text)


@pytest.mark.parametrize("text", ["a", "a" * TEXT_MAX, "😡" * TEXT_MAX])
def test_a_text_of_1_to_280_characters_is_taken_as_it_is(text: str) -> None:
    assert check_text(text) == text


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "the text is empty"),
        (" \n\t", "the text is empty"),
        ("\u200b\u202e", "the text is empty"),
        ("a" * (TEXT_MAX + 1), "the text has 281 characters"),
        ("a\x00b", "NUL character at position 1"),
        ("ab\ud800", "lone surrogate at position 2"),
    ],
)
def test_another_text_is_refused_with_one_sentence(text: str, sentence: str) -> None:
    with pytest.raises(InvalidInput, match=sentence):
        check_text(text)


@pytest.mark.parametrize("value", [None, 5, b"text", True, ["a"]])
def test_what_is_no_text_is_refused_with_its_type(value: Any) -> None:
    for check in (check_text, check_handle, check_key):
        with pytest.raises(InvalidInput, match=f"of type {type(value).__name__}, but must be of type str"):
            check(value)


@pytest.mark.parametrize("value", [None, "1", 1.0, True, b"1"])
def test_what_is_no_whole_number_is_refused_with_its_type(value: Any) -> None:
    with pytest.raises(
        InvalidInput, match=f"the tweet id is .* of type {type(value).__name__}, but must be of type int"
    ):
        check_id(value, "tweet")


@pytest.mark.parametrize("handle", ["", "a b", "ä", "a" * 31, "a\n"])
def test_a_bad_handle_is_refused_with_its_value(handle: str) -> None:
    with pytest.raises(InvalidInput, match="the handle"):
        check_handle(handle)


@pytest.mark.parametrize("any_id", [0, -1, 1 << 63])
def test_an_id_outside_64_bits_is_refused_with_its_value(any_id: int) -> None:
    with pytest.raises(InvalidInput, match=f"the tweet id {any_id} "):
        check_id(any_id, "tweet")


def test_nobody_follows_himself() -> None:
    with pytest.raises(InvalidInput, match="user 5 cannot follow himself"):
        check_not_self(5, 5)
