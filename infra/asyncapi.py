"""docs/asyncapi.yaml: what travels in Kafka, as AsyncAPI 3.0, made from the topics table, the schemas and the headers.
`make docs` writes it, and a test compares."""

import json
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from infra import events, reactions
from infra.cloud_events import CONTENT_TYPE, SOURCE_ROOT, SPEC_VERSION, TRACE_HEADERS, TYPES
from infra.topics import (
    ACTIVITY,
    DEAD_LETTER_BYTES_MAX,
    DEAD_LETTER_RETENTION_MS,
    MESSAGE_BYTES_MAX,
    REACTIONS,
    TOPICS,
    Topic,
)
from infra.yaml_text import as_yaml

PAGE = Path(__file__).parent.parent / "docs" / "asyncapi.yaml"
SCHEMAS = Path(__file__).parent / "schemas"
BINDING = "0.5.0"
HEAD = (
    "# Made by `make docs` from infra/topics.py, infra/cloud_events.py, infra/events.py, infra/reactions.py and "
    "infra/schemas/.\n"
)
DELIVERY = f"delivery.v{events.DELIVERY_VERSION}"
LETTER = "deadLetter"

Node = dict[str, Any]


def document() -> Node:
    """The whole document."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Fanfold's logs",
            "version": version("fanfold"),
            "description": (
                "`activity` and `reactions` are for everybody; `deliveries` is read by Fanfold only and may change."
            ),
        },
        "channels": {name: node for topic in TOPICS for name, node in _channels(topic).items()},
        "operations": {name: node for topic in TOPICS for name, node in _operations(topic).items()},
        "components": {"messages": {**_activities(), **_reactions(), DELIVERY: _delivery(), LETTER: _letter()}},
    }


def schema(name: str) -> Node:
    """A JSON Schema of this repository, such as `activity.v1`."""
    value: Node = json.loads((SCHEMAS / f"{name}.schema.json").read_text(encoding="utf-8"))
    return value


def _channels(topic: Topic) -> Node:
    messages = {ACTIVITY.name: list(_activities()), REACTIONS.name: list(_reactions())}.get(topic.name, [DELIVERY])
    return {
        topic.name: _channel(topic.name, topic.partitions, topic.retention_ms, MESSAGE_BYTES_MAX, messages),
        topic.dead_letters: _channel(topic.dead_letters, 1, DEAD_LETTER_RETENTION_MS, DEAD_LETTER_BYTES_MAX, [LETTER]),
    }


def _channel(name: str, partitions: int, retention_ms: int, bytes_max: int, messages: list[str]) -> Node:
    settings = {"retention.ms": retention_ms, "max.message.bytes": bytes_max}
    return {
        "address": name,
        "messages": {one: {"$ref": f"#/components/messages/{one}"} for one in messages},
        "bindings": {
            "kafka": {
                "topic": name,
                "partitions": partitions,
                "topicConfiguration": settings,
                "bindingVersion": BINDING,
            }
        },
    }


def _operations(topic: Topic) -> Node:
    """A dead letter is sent by the agent that reads the topic."""
    also = {f"{reader}.receive.{topic.name}": _operation("receive", topic.name) for reader in topic.also_read_by}
    return {
        f"{topic.written_by}.send": _operation("send", topic.name),
        f"{topic.read_by}.receive": _operation("receive", topic.name),
        **also,
        f"{topic.read_by}.bury": _operation("send", topic.dead_letters),
    }


def _operation(action: str, channel: str) -> Node:
    return {"action": action, "channel": {"$ref": f"#/channels/{channel}"}}


def _activities() -> Node:
    """A message for each type, all with the schema of their version."""
    name = f"activity.v{events.VERSION}"
    body = {key: value for key, value in schema(name).items() if not key.startswith("$")}
    return {
        type_: {
            "name": type_,
            "title": f"An author's event: {kind.value}",
            "contentType": CONTENT_TYPE,
            "headers": headers_schema(type_),
            "payload": {**body, "properties": {**body["properties"], "type": {"const": kind.value}}},
            "bindings": {"kafka": {"key": {"type": "string", "description": "The author's id."}}},
            "x-json-schema": f"infra/schemas/{name}.schema.json",
        }
        for kind, type_ in TYPES.items()
    }


def _reactions() -> Node:
    """The same for what users say about tweets."""
    name = f"reaction.v{reactions.VERSION}"
    body = {key: value for key, value in schema(name).items() if not key.startswith("$")}
    return {
        type_: {
            "name": type_,
            "title": f"A user's word about a tweet: {kind.value}",
            "contentType": CONTENT_TYPE,
            "headers": reaction_headers_schema(type_),
            "payload": {**body, "properties": {**body["properties"], "type": {"const": kind.value}}},
            "bindings": {"kafka": {"key": {"type": "string", "description": "The tweet's id."}}},
            "x-json-schema": f"infra/schemas/{name}.schema.json",
        }
        for kind, type_ in reactions.TYPES.items()
    }


def headers_schema(type_: str) -> Node:
    """The headers of an activity message of this CloudEvents type."""
    return _headers(
        type_,
        {"pattern": f"^{SOURCE_ROOT}[0-9]+$", "description": "The outbox and its shard."},
        "Unique for the source. A message that is sent twice has the same one.",
        "The author's id.",
    )


def reaction_headers_schema(type_: str) -> Node:
    """The headers of a reaction of this CloudEvents type."""
    return _headers(
        type_,
        {"const": reactions.SOURCE},
        "Unique for the source. A call that is repeated has another one.",
        "The tweet's id.",
    )


def _headers(type_: str, source: Node, id_is: str, subject_is: str) -> Node:
    trace = {"description": "W3C Trace Context, if the call that published had one."}
    fields: Mapping[str, Node] = {
        "ce_specversion": {"const": SPEC_VERSION},
        "ce_source": source,
        "content-type": {"const": CONTENT_TYPE},
        "ce_id": {"description": id_is},
        "ce_type": {"const": type_},
        "ce_time": {"format": "date-time", "description": "When the event was written."},
        "ce_subject": {"description": subject_is},
        **dict.fromkeys(TRACE_HEADERS, trace),
    }
    return {
        "type": "object",
        "required": [name for name in fields if name not in TRACE_HEADERS],
        "properties": {name: {"type": "string", **node} for name, node in fields.items()},
    }


def _delivery() -> Node:
    return {
        "name": DELIVERY,
        "title": f"What changes in timelines of one partition, version {events.DELIVERY_VERSION}",
        "contentType": "application/octet-stream",
        "payload": {"type": "string", "format": "binary", "description": (events.__doc__ or "").strip()},
    }


def _letter() -> Node:
    return {
        "name": LETTER,
        "title": "A message that cannot be processed",
        "description": (
            "Key, value and headers as they were read, and Kafka Connect's headers that say where it was and why it is "
            "here (__connect.errors.topic, …); the README names them."
        ),
        "payload": {"type": "string", "format": "binary"},
    }


def page() -> str:
    """The file."""
    return HEAD + as_yaml(document())


def main() -> int:
    """Writes the file."""
    PAGE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
