from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import Undecodable
from infra.events import (
    NO_IDS,
    ONE_CHUNK,
    REPLAY_HEADER,
    Activity,
    ActivityType,
    Delivery,
    DeliveryKind,
    decode_activity,
    decode_deliveries,
    encode_activity,
    encode_deliveries,
    is_replayed,
    one_chunk,
)

IDS = st.integers(min_value=1, max_value=(1 << 63) - 1)
ACTIVITIES = st.builds(Activity, st.sampled_from(ActivityType), IDS, IDS, IDS).map(
    lambda one: replace(one, other_id=one.author_id) if one.type is ActivityType.STATUS_CHANGED else one
)
CHUNKS = st.lists(st.tuples(IDS, IDS, st.lists(IDS, max_size=20)), min_size=1, max_size=5)
KINDS_OF_MANY = st.sampled_from(sorted(set(DeliveryKind) - ONE_CHUNK))
BOUND_AND_IDS = st.lists(IDS, min_size=1, max_size=20).map(lambda ids: np.array(ids, dtype=">u8"))


def of_chunks(kind: DeliveryKind, chunks: list[tuple[int, int, list[int]]]) -> Delivery:
    subjects, published_ms, targets = zip(*chunks, strict=True)
    return Delivery(
        kind,
        np.array(subjects, dtype=">u8"),
        np.array(published_ms, dtype=">i8"),
        np.array([len(part) for part in targets], dtype=">u4"),
        np.array([target for part in targets for target in part], dtype=">u8"),
    )


IN_LIVE_ORDER = st.one_of(
    st.builds(of_chunks, KINDS_OF_MANY, CHUNKS),
    st.builds(
        one_chunk, st.sampled_from(sorted(ONE_CHUNK)), IDS, IDS, st.lists(IDS, min_size=1, max_size=20), BOUND_AND_IDS
    ),
)
DELIVERIES = st.builds(lambda record, verify: replace(record, verify=verify), IN_LIVE_ORDER, st.booleans())


@given(ACTIVITIES)
def test_an_activity_survives_its_encoding(activity: Activity) -> None:
    assert decode_activity(encode_activity(activity).encode()) == activity


@given(st.lists(DELIVERIES, max_size=5))
def test_delivery_records_survive_their_encoding(records: list[Delivery]) -> None:
    decoded = decode_deliveries(encode_deliveries(records))

    assert len(decoded) == len(records)
    for record, again in zip(records, decoded, strict=True):
        assert (again.kind, again.verify) == (record.kind, record.verify)
        for column in ("subjects", "published_ms", "counts", "targets", "ids"):
            assert getattr(again, column).tolist() == getattr(record, column).tolist()


def test_an_activity_with_a_later_field_is_read() -> None:
    later = b'{"version":1,"type":"posted","author_id":"1","tweet_id":"2","published_ms":3,"mood":"good"}'

    assert decode_activity(later) == Activity(ActivityType.POSTED, 1, 2, 3)


@pytest.mark.parametrize(
    "data",
    [
        None,
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b'{"version":2,"type":"posted","author_id":"1","tweet_id":"2","published_ms":3}',
        b'{"version":1,"type":"liked","author_id":"1","tweet_id":"2","published_ms":3}',
        b'{"version":1,"type":"posted","author_id":"one","tweet_id":"2","published_ms":3}',
        b'{"version":1,"type":"posted","author_id":"1","published_ms":3}',
        b'{"version":1,"type":"posted","author_id":"99999999999999999999","tweet_id":"2","published_ms":3}',
        b'{"version":1,"type":"posted","author_id":"0","tweet_id":"2","published_ms":3}',
        b'{"version":1,"type":"posted","author_id":"1","tweet_id":"2","published_ms":Infinity}',
        b'{"version":1,"type":"posted","author_id":"1","tweet_id":"2","published_ms":9223372036854775808}',
        b'{"version":1,"type":"posted","author_id":"1","tweet_id":"2","published_ms":-1}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_activity_is_undecodable(data: bytes | None) -> None:
    with pytest.raises(Undecodable):
        decode_activity(data)


TWO = np.array([1, 2], dtype=">u8")


@pytest.mark.parametrize(
    "record",
    [
        one_chunk(DeliveryKind.UNMERGE, 5, 6, []),
        of_chunks(DeliveryKind.UNMERGE, [(5, 6, [1]), (7, 6, [2])]),
        of_chunks(DeliveryKind.ADD_CELEBRITY, [(5, 6, [1]), (7, 6, [2])]),
        one_chunk(DeliveryKind.MERGE, 5, 6, [1]),
        one_chunk(DeliveryKind.ADD_CELEBRITY, 5, 6, []),
        one_chunk(DeliveryKind.DELIVER, 0, 6, [1, 2]),
        one_chunk(DeliveryKind.DELIVER, 1 << 63, 6, [1, 2]),
        replace(one_chunk(DeliveryKind.DELIVER, 5, 6, [1, 2]), counts=np.array([3], dtype=">u4")),
        replace(one_chunk(DeliveryKind.DELIVER, 5, 6, []), subjects=NO_IDS),
    ],
    ids=lambda record: f"{record.kind.name}-{len(record.subjects)}-{len(record.targets)}",
)
def test_a_record_that_no_agent_could_apply_is_undecodable(record: Delivery) -> None:
    with pytest.raises(Undecodable):
        decode_deliveries(encode_deliveries([record]))


GOOD = encode_deliveries([one_chunk(DeliveryKind.DELIVER, 5, 6, [1, 2])])


@pytest.mark.parametrize(
    "data",
    [
        None,
        b"",
        b"\x01" + GOOD[1:],
        GOOD[:-1],
        GOOD[:10],
        GOOD + b"\x01",
        GOOD[:1] + b"\x63" + GOOD[2:],
        GOOD[:2] + b"\x02" + GOOD[3:],
    ],
)
def test_what_is_no_delivery_message_is_undecodable(data: bytes | None) -> None:
    with pytest.raises(Undecodable):
        decode_deliveries(data)


@pytest.mark.parametrize(
    ("headers", "replayed"),
    [
        (None, False),
        ([], False),
        ([("ce_id", b"1")], False),
        ([("ce_id", b"1"), (REPLAY_HEADER, b"7")], True),
        ({REPLAY_HEADER: b"7"}, True),
    ],
)
def test_a_header_tells_what_was_sent_again(headers: Any, replayed: bool) -> None:
    assert is_replayed(headers) is replayed
