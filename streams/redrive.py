"""Redrive: dead letters go to their log again, in their order, so order per key is kept.

Input: letters that are not done with. Output: messages that are right outside the live order. An event of an author is
looked at by what the database says then, and its chunks carry `verify`, as do all records of a redriven message of the
deliveries log; a reaction goes only while it is still its user's last word. Pure but for that look (later_words.py).
Next: clear_letters.py, which sends them.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace

from infra import dead_letters
from infra.errors import Undecodable
from infra.events import REPLAY_HEADER, Delivery, decode_activity, decode_deliveries, encode_deliveries
from infra.kafka import Message
from infra.reactions import decode_reaction
from infra.topics import ACTIVITY, DELIVERIES, MESSAGE_BYTES_MAX, REACTIONS
from streams.deliver import receive
from streams.node_calls import partitions_of
from streams.read_dead_letters import Buried

# Kafka's own fields of a message and of a batch with it alone, and of each header; generously.
MESSAGE_OVERHEAD_BYTES = 128
HEADER_BYTES = 10
REDRIVEN_BY = b"dlq-redrive"  # what the replay's header says


@dataclass(frozen=True, slots=True)
class Refused:
    """Why a letter stays where it is."""

    why: str


def plan_redrive(letter: Buried, overtaken: Collection[int] = ()) -> Message | Refused:
    """What is sent for a letter. `overtaken`: the offsets of letters whose user has said something later."""
    if truncated := letter.header(dead_letters.TRUNCATED):
        return Refused(f"only its beginning was buried ({truncated}); the whole message is not here to be sent")
    try:
        planned = _plan(letter, overtaken)
    except Undecodable as error:
        return Refused(f"it cannot be read: {error}")
    if isinstance(planned, Message) and (size := _bytes_of(planned)) > MESSAGE_BYTES_MAX:
        return Refused(f"it has {size:,} bytes, and its log takes {MESSAGE_BYTES_MAX:,}")
    return planned


def _plan(letter: Buried, overtaken: Collection[int]) -> Message | Refused:
    match letter.topic:
        case ACTIVITY.dead_letters:
            return _activity(letter)
        case DELIVERIES.dead_letters:
            return _deliveries(letter)
        case REACTIONS.dead_letters:
            return _reaction(letter, overtaken)
    return Refused(f"only the group that {letter.topic} is of reads it, and no log goes to one group alone")


def _bytes_of(message: Message) -> int:
    """At least what the broker counts."""
    headers = sum(len(name) + len(value) + HEADER_BYTES for name, value in message.headers)
    return len(message.value or b"") + len(message.key or b"") + headers + MESSAGE_OVERHEAD_BYTES


def _activity(letter: Buried) -> Message:
    """Under its author's key, whatever key it had: that is the log which his other events are in."""
    author = str(decode_activity(letter.value).author_id).encode()
    headers = [*_own_headers(letter), (REPLAY_HEADER, REDRIVEN_BY)]
    return Message(ACTIVITY.name, letter.value, author, headers=headers)


def _deliveries(letter: Buried) -> Message | Refused:
    """To the partition of the timelines that it names."""
    records = decode_deliveries(letter.value)
    receive(letter.offset, letter.value)  # raises for what the agent would bury again
    partitions = partitions_of(records)
    if not partitions:
        return Refused("it names no timeline, so nothing would come of it: drop it")
    if len(partitions) > 1:
        named = ", ".join(map(str, partitions))
        return Refused(f"it names timelines of the partitions {named}, which no message of ours does: drop it")
    return Message(DELIVERIES.name, encode_deliveries(map(_verified, records)), letter.key, partition=partitions[0])


def _verified(record: Delivery) -> Delivery:
    return replace(record, verify=True)


def _reaction(letter: Buried, overtaken: Collection[int]) -> Message | Refused:
    reaction = decode_reaction(letter.value)
    if letter.offset in overtaken:
        return Refused(
            f"user {reaction.user_id} has said something later about tweet {reaction.tweet_id}, or its log no longer "
            "tells: drop it"
        )
    return Message(REACTIONS.name, letter.value, reaction.key, headers=_own_headers(letter))


def _own_headers(letter: Buried) -> list[tuple[str, bytes]]:
    """The message's own headers, without what its burial added."""
    burial = dead_letters.CONNECT, dead_letters.FANFOLD
    return [(name, value or b"") for name, value in letter.headers if not name.startswith(burial)]
