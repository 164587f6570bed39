"""What other readers of the activity log rely on: its schemas."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from jsonschema import Draft202012Validator

from infra.asyncapi import SCHEMAS, schema
from infra.events import VERSION, Activity, ActivityType, encode_activity
from tests.infra.test_events import ACTIVITIES
from tests.infra.test_golden import GOLDEN

GOOD = {"version": 1, "type": "posted", "author_id": "1", "tweet_id": "2", "published_ms": 3}


def validator(name: str) -> Draft202012Validator:
    return Draft202012Validator(schema(name))


CURRENT = validator(f"activity.v{VERSION}")


@pytest.mark.parametrize("path", sorted(SCHEMAS.iterdir()), ids=lambda path: path.name)
def test_a_schema_is_one_of_draft_2020_12_and_names_itself(path: Path) -> None:
    name = path.name.removesuffix(".schema.json")
    value = schema(name)
    Draft202012Validator.check_schema(value)
    assert value["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert value["$id"] == f"urn:fanfold:schema:{name}"


@given(ACTIVITIES)
def test_every_activity_that_is_written_fits_the_schema_of_its_version(activity: Activity) -> None:
    CURRENT.validate(json.loads(encode_activity(activity)))


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.json")), ids=lambda path: path.name)
def test_what_was_once_written_fits_the_schema_of_its_version_for_ever(path: Path) -> None:
    name = ".".join(path.name.split(".")[:2])
    validator(name).validate(json.loads(path.read_text()))


def test_a_later_field_fits() -> None:
    CURRENT.validate({**GOOD, "mood": "good"})


@pytest.mark.parametrize(
    "changed",
    [
        {"version": 2},
        {"type": "liked"},
        {"type": "followed"},
        {"author_id": 1},
        {"author_id": "0"},
        {"author_id": "one"},
        {"author_id": None},
        {"tweet_id": "12345678901234567890"},
        {"published_ms": -1},
        {"published_ms": "3"},
        {"published_ms": 1 << 63},
    ],
    ids=repr,
)
def test_what_no_version_of_ours_writes_does_not_fit(changed: dict[str, Any]) -> None:
    assert CURRENT.is_valid(GOOD)
    assert not CURRENT.is_valid({**GOOD, **changed})


@pytest.mark.parametrize("left_out", GOOD)
def test_no_field_may_be_left_out(left_out: str) -> None:
    assert not CURRENT.is_valid({key: value for key, value in GOOD.items() if key != left_out})


def test_the_schema_names_every_type() -> None:
    assert schema(f"activity.v{VERSION}")["properties"]["type"]["enum"] == [kind.value for kind in ActivityType]
