"""What travels in the topic reactions: a user likes a tweet, or no longer does. JSON, with CloudEvents headers.

The key is the tweet, so the words of one user about one tweet have one order; the last one holds. Next:
reaction_log.py, which writes it, and streams/counters.py, which reads it.
"""

import json
import reprlib
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from infra.cloud_events import CONTENT_TYPE, SPEC_VERSION, TRACE_HEADERS, Header
from infra.errors import Undecodable
from infra.events import PUBLISHED_MS_MAX
from infra.ids import ID_MAX
from infra.key_partition import partition_of
from infra.topics import REACTIONS

VERSION = 1
SOURCE = "/fanfold/reactions"


class ReactionType(StrEnum):
    """What a user said about a tweet."""

    LIKED = "liked"
    UNLIKED = "unliked"


TYPES = {kind: f"fanfold.reaction.{kind.value}.v{VERSION}" for kind in ReactionType}


@dataclass(frozen=True, slots=True)
class Reaction:
    """One word of a user about a tweet."""

    type: ReactionType
    tweet_id: int
    user_id: int
    published_ms: int

    @property
    def key(self) -> bytes:
        """The key of the message."""
        return key_of(self.tweet_id)


def key_of(tweet_id: int) -> bytes:
    """The key under which everything about a tweet travels: its id as text."""
    return str(tweet_id).encode()


def reactions_partition(tweet_id: int) -> int:
    """The partition that has what is said about a tweet."""
    return partition_of(key_of(tweet_id), REACTIONS.partitions)


def encode_reaction(reaction: Reaction) -> bytes:
    """The value. Ids are strings, as everywhere in JSON."""
    value = {
        "version": VERSION,
        "type": reaction.type,
        "tweet_id": str(reaction.tweet_id),
        "user_id": str(reaction.user_id),
        "published_ms": reaction.published_ms,
    }
    return json.dumps(value, separators=(",", ":")).encode()


def decode_reaction(data: bytes | None) -> Reaction:
    """The inverse; fields that this version does not know are ignored. Raises `Undecodable`."""
    try:
        value: Any = json.loads(data or b"")
        if value["version"] != VERSION:
            raise Undecodable(f"reaction has version {reprlib.repr(value['version'])}, and this code reads {VERSION}")
        kind = ReactionType(value["type"])
        tweet_id, user_id = int(value["tweet_id"]), int(value["user_id"])
        if not (1 <= tweet_id <= ID_MAX and 1 <= user_id <= ID_MAX):
            ids = f"{reprlib.repr(tweet_id)} and {reprlib.repr(user_id)}"
            raise Undecodable(f"reaction names the ids {ids}, which must be from 1 to {ID_MAX}")
        published_ms = int(value["published_ms"])
        if not 0 <= published_ms <= PUBLISHED_MS_MAX:
            raise Undecodable(f"reaction was published at {reprlib.repr(published_ms)} ms, which is no time")
        return Reaction(kind, tweet_id, user_id, published_ms)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise Undecodable(f"reaction cannot be read: {type(error).__name__}: {error}") from error


def headers_of(reaction: Reaction, event_id: str, traceparent: str | None) -> list[Header]:
    """The CloudEvents headers of a reaction with this id."""
    time = datetime.fromtimestamp(reaction.published_ms / 1000, UTC)
    headers = [
        ("ce_specversion", SPEC_VERSION.encode()),
        ("ce_source", SOURCE.encode()),
        ("content-type", CONTENT_TYPE.encode()),
        ("ce_id", event_id.encode()),
        ("ce_type", TYPES[reaction.type].encode()),
        ("ce_time", time.isoformat().encode()),
        ("ce_subject", reaction.key),
    ]
    if traceparent is not None:
        headers += [(name, traceparent.encode()) for name in TRACE_HEADERS]
    return headers
