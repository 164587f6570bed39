"""docs/asyncapi.yaml says what the code does."""

import json
from datetime import UTC, datetime

import pytest
import yaml
from jsonschema import Draft202012Validator

from infra import reactions
from infra.asyncapi import PAGE, document, headers_schema, page, reaction_headers_schema
from infra.cloud_events import TYPES
from infra.events import Activity, ActivityType, encode_activity
from infra.reactions import Reaction, ReactionType, encode_reaction, headers_of
from infra.topics import TOPICS
from infra.yaml_text import as_yaml
from producers.relay import Row, as_message

TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def test_the_file_is_what_the_code_makes() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "make it anew: make docs"


def test_the_file_is_yaml_of_the_document() -> None:
    assert yaml.safe_load(page()) == json.loads(json.dumps(document()))


@pytest.mark.parametrize(
    "value",
    [
        {"a": ["yes", "No", "null", "1", "1.0", 1, True, "", " x", "a: b", "- a", "#", "'", '"', "ä\n…"]},
        {"a": [{"b": [], "c": {}}, [1, [2]], "x"], "on": {"1": {"$ref": "#/a"}}},
    ],
)
def test_values_survive_yaml(value: dict[str, object]) -> None:
    assert yaml.safe_load(as_yaml(value)) == value


def test_every_reference_leads_somewhere() -> None:
    made = document()
    references = [word.strip('"') for word in page().split() if word.startswith('"#/')]
    assert references
    for reference in references:
        node = made
        for step in reference.removeprefix("#/").split("/"):
            node = node[step]


def test_the_channels_are_the_topics_with_their_dead_letters() -> None:
    channels = document()["channels"]
    assert set(channels) == {name for topic in TOPICS for name in (topic.name, topic.dead_letters)}
    for topic in TOPICS:
        kafka = channels[topic.name]["bindings"]["kafka"]
        assert (kafka["partitions"], kafka["topicConfiguration"]["retention.ms"]) == (
            topic.partitions,
            topic.retention_ms,
        )


@pytest.mark.parametrize("traceparent", [None, TRACEPARENT])
@pytest.mark.parametrize("kind", ActivityType)
def test_a_message_of_the_relay_is_as_described(kind: ActivityType, traceparent: str | None) -> None:
    described = document()["components"]["messages"][TYPES[kind]]
    payload = encode_activity(Activity(kind, 5, 6, 7))
    message = as_message(Row(17, "activity", "5", TYPES[kind], payload, datetime.now(UTC), traceparent))

    headers = {name: value.decode() for name, value in message.headers}
    Draft202012Validator(headers_schema(TYPES[kind])).validate(headers)
    assert headers.keys() <= described["headers"]["properties"].keys()
    assert message.value is not None
    Draft202012Validator(described["payload"]).validate(json.loads(message.value))


@pytest.mark.parametrize("traceparent", [None, TRACEPARENT])
@pytest.mark.parametrize("kind", ReactionType)
def test_a_reaction_is_as_described(kind: ReactionType, traceparent: str | None) -> None:
    described = document()["components"]["messages"][reactions.TYPES[kind]]
    reaction = Reaction(kind, 5, 6, 7)

    headers = {name: value.decode() for name, value in headers_of(reaction, "an-id", traceparent)}
    Draft202012Validator(reaction_headers_schema(reactions.TYPES[kind])).validate(headers)
    assert headers.keys() <= described["headers"]["properties"].keys()
    Draft202012Validator(described["payload"]).validate(json.loads(encode_reaction(reaction)))
