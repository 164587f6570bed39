"""What is sent for a dead letter, or why it is not: the policy without servers."""

import pytest

from infra.events import (
    REPLAY_HEADER,
    Activity,
    ActivityType,
    DeliveryKind,
    decode_deliveries,
    encode_activity,
    encode_deliveries,
    one_chunk,
)
from infra.kafka import Message
from infra.reactions import Reaction, ReactionType, encode_reaction
from infra.slots import slot_of
from infra.topics import ACTIVITY, DELIVERIES, MESSAGE_BYTES_MAX, REACTIONS
from streams.read_dead_letters import Buried
from streams.redrive import REDRIVEN_BY, Refused, plan_redrive

FOLLOWED = encode_activity(Activity(ActivityType.FOLLOWED, 41, 7, 5)).encode()
LIKED = encode_reaction(Reaction(ReactionType.LIKED, 77, 3, 5))
OWNER = next(one for one in range(1, 100) if slot_of(one) % DELIVERIES.partitions == 2)
UNMERGE = one_chunk(DeliveryKind.UNMERGE, 41, 5, [OWNER])
DELIVER = one_chunk(DeliveryKind.DELIVER, 41, 5, [OWNER])
BURIAL = [("__connect.errors.partition", b"0"), ("__fanfold.errors.timestamp_ms", b"5")]


def letter(topic: str, value: bytes | None, *headers: tuple[str, bytes | None]) -> Buried:
    return Buried(topic, 9, 5, b"key", value, [("own", b"1"), ("none", None), *BURIAL, *headers])


def test_an_event_goes_under_its_authors_key_as_a_replay_and_without_the_burials_headers() -> None:
    headers = [("own", b"1"), ("none", b""), (REPLAY_HEADER, REDRIVEN_BY)]
    assert plan_redrive(letter("activity.dlq", FOLLOWED)) == Message(ACTIVITY.name, FOLLOWED, b"41", headers=headers)


def test_deliveries_go_to_the_partition_of_their_timelines_and_all_are_verified() -> None:
    sent = plan_redrive(letter("deliveries.dlq", encode_deliveries([DELIVER, DELIVER])))
    assert isinstance(sent, Message)
    assert (sent.topic, sent.partition) == (DELIVERIES.name, 2)
    records = decode_deliveries(sent.value)
    assert [(one.verify, one.kind, one.targets.tolist()) for one in records] == [(True, DELIVER.kind, [OWNER])] * 2


def test_a_reaction_goes_unless_it_was_overtaken() -> None:
    like = letter("reactions.dlq", LIKED)
    sent = plan_redrive(like, [8, 10])
    assert isinstance(sent, Message)
    assert (sent.topic, sent.key) == (REACTIONS.name, b"77")
    assert isinstance(plan_redrive(like, [9]), Refused)


@pytest.mark.parametrize(
    ("one", "why"),
    [
        (letter("activity.dlq", b"{"), "it cannot be read: activity cannot be read"),
        (letter("activity.dlq", None), "it cannot be read: activity cannot be read"),
        (letter("reactions.dlq", b"{}"), "it cannot be read: reaction cannot be read"),
        (letter("deliveries.dlq", b"\x09"), "it cannot be read: delivery message has version 9"),
        (letter("deliveries.dlq", encode_deliveries([UNMERGE, DELIVER])), "it cannot be read: an unmerge shares"),
        (letter("deliveries.dlq", encode_deliveries([])), "it names no timeline"),
        (
            letter("deliveries.dlq", encode_deliveries([one_chunk(DeliveryKind.DELIVER, 5, 6, range(1, 60))])),
            "it names timelines of the partitions 0, 1, 2, 3",
        ),
        (
            letter("activity.dlq", FOLLOWED, ("__fanfold.errors.truncated", b"was larger")),
            "only its beginning was buried (was larger)",
        ),
        (
            letter("activity.dlq", FOLLOWED[:-1] + b',"p":"%s"}' % (b"x" * (MESSAGE_BYTES_MAX - 200))),
            "bytes, and its log takes 1,048,576",
        ),
        (letter("activity.mentions.dlq", FOLLOWED), "only the group that activity.mentions.dlq is of reads it"),
    ],
)
def test_what_nothing_right_would_come_of_is_refused(one: Buried, why: str) -> None:
    planned = plan_redrive(one)
    assert isinstance(planned, Refused)
    assert why in planned.why
