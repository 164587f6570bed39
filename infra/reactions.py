"""What travels in the topic reactions: a user likes a tweet, or no longer does. JSON, with CloudEvents headers.

The key is the tweet, so the words of one user about one tweet have one order; the last one holds. Next:
reaction_log.py, which writes it, and streams/counters.py, which reads it.
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from infra import cloud_events
from infra.cloud_events import Header
from infra.errors import Undecodable
from infra.events import read_ids, read_time_ms, read_version
from infra.key_partition import partition_of
from infra.topics import REACTIONS

VERSION = 1
SOURCE = "/fanfold/reactions"
_CONSTANT = cloud_events.constant_headers(SOURCE)


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
        read_version("reaction", value, VERSION)
        kind = ReactionType(value["type"])
        tweet_id, user_id = read_ids("reaction", value, "tweet_id", "user_id")
        return Reaction(kind, tweet_id, user_id, read_time_ms("reaction", value))
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise Undecodable(f"reaction cannot be read: {type(error).__name__}: {error}") from error


def headers_of(reaction: Reaction, event_id: str, traceparent: str | None) -> list[Header]:
    """The CloudEvents headers of a reaction with this id."""
    at = datetime.fromtimestamp(reaction.published_ms / 1000, UTC)
    return [*_CONSTANT, *cloud_events.headers_of(event_id, TYPES[reaction.type], reaction.key, at, traceparent)]
