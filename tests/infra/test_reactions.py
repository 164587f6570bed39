"""Reactions: what is written is read, and what no version of the code can read is said to be so."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from infra.asyncapi import schema
from infra.errors import Undecodable
from infra.events import PUBLISHED_MS_MAX
from infra.ids import ID_MAX
from infra.reactions import VERSION, Reaction, ReactionType, decode_reaction, encode_reaction

IDS = st.integers(1, ID_MAX)
REACTIONS = st.builds(Reaction, st.sampled_from(ReactionType), IDS, IDS, st.integers(0, PUBLISHED_MS_MAX))
GOOD = json.loads(encode_reaction(Reaction(ReactionType.LIKED, 1, 2, 3)))
CURRENT = Draft202012Validator(schema(f"reaction.v{VERSION}"))


@given(REACTIONS)
def test_what_is_written_fits_its_schema_and_is_read(reaction: Reaction) -> None:
    data = encode_reaction(reaction)
    CURRENT.validate(json.loads(data))
    assert decode_reaction(data) == reaction


def test_a_later_field_is_no_hindrance() -> None:
    assert decode_reaction(json.dumps({**GOOD, "mood": "good"}).encode()).tweet_id == 1


@pytest.mark.parametrize(
    "changed",
    [
        {"version": 2},
        {"type": "loved"},
        {"tweet_id": "0"},
        {"tweet_id": "one"},
        {"tweet_id": None},
        {"user_id": "12345678901234567890"},
        {"published_ms": -1},
        {"published_ms": None},
    ],
    ids=repr,
)
def test_what_nobody_of_ours_writes_is_undecodable(changed: dict[str, object]) -> None:
    with pytest.raises(Undecodable, match="reaction"):
        decode_reaction(json.dumps({**GOOD, **changed}).encode())
    assert not CURRENT.is_valid({**GOOD, **changed})


@pytest.mark.parametrize("data", [None, b"", b"\xff", b"[]", b"7", b"{}", b"[" * 100_000])
def test_what_is_no_object_is_undecodable(data: bytes | None) -> None:
    with pytest.raises(Undecodable):
        decode_reaction(data)


@pytest.mark.parametrize("left_out", GOOD)
def test_no_field_may_be_left_out(left_out: str) -> None:
    with pytest.raises(Undecodable):
        decode_reaction(json.dumps({key: value for key, value in GOOD.items() if key != left_out}).encode())
