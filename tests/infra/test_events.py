import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import Undecodable
from infra.events import (
    ONE_TARGET,
    Activity,
    ActivityType,
    Delivery,
    DeliveryKind,
    decode_activity,
    decode_deliveries,
    encode_activity,
    encode_deliveries,
)

IDS = st.integers(min_value=1, max_value=(1 << 63) - 1)
ACTIVITIES = st.builds(Activity, st.sampled_from(ActivityType), IDS, IDS, IDS)
ARRAYS = st.lists(IDS, max_size=20).map(lambda ids: np.array(ids, dtype=">u8"))
ONE = IDS.map(lambda one: np.array([one], dtype=">u8"))
BOUND_AND_IDS = st.lists(IDS, min_size=1, max_size=20).map(lambda ids: np.array(ids, dtype=">u8"))
DELIVERIES = st.one_of(
    st.builds(Delivery, st.sampled_from(sorted(set(DeliveryKind) - ONE_TARGET)), IDS, IDS, ARRAYS, ARRAYS),
    st.builds(Delivery, st.sampled_from(sorted(ONE_TARGET)), IDS, IDS, ONE, BOUND_AND_IDS),
)


@given(ACTIVITIES)
def test_an_activity_survives_its_encoding(activity: Activity) -> None:
    assert decode_activity(encode_activity(activity).encode()) == activity


@given(st.lists(DELIVERIES, max_size=5))
def test_delivery_records_survive_their_encoding(records: list[Delivery]) -> None:
    decoded = decode_deliveries(encode_deliveries(records))

    assert len(decoded) == len(records)
    for record, again in zip(records, decoded, strict=True):
        assert (again.kind, again.subject, again.published_ms) == (record.kind, record.subject, record.published_ms)
        assert again.targets.tolist() == record.targets.tolist()
        assert again.ids.tolist() == record.ids.tolist()


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


NOBODY = np.empty(0, dtype=">u8")
TWO = np.array([1, 2], dtype=">u8")


@pytest.mark.parametrize(
    "record",
    [
        Delivery(DeliveryKind.UNMERGE, 5, 6, NOBODY),
        Delivery(DeliveryKind.UNMERGE, 5, 6, TWO),
        Delivery(DeliveryKind.MERGE, 5, 6, TWO, TWO),
        Delivery(DeliveryKind.MERGE, 5, 6, TWO[:1]),
        Delivery(DeliveryKind.ADD_CELEBRITY, 5, 6, NOBODY),
        Delivery(DeliveryKind.DELIVER, -5, 6, TWO),
    ],
    ids=lambda record: record.kind.name,
)
def test_a_record_that_no_agent_could_apply_is_undecodable(record: Delivery) -> None:
    with pytest.raises(Undecodable):
        decode_deliveries(encode_deliveries([record]))


GOOD = encode_deliveries([Delivery(DeliveryKind.DELIVER, 5, 6, np.array([1, 2], dtype=">u8"))])


@pytest.mark.parametrize(
    "data", [None, b"", b"\x02" + GOOD[1:], GOOD[:-1], GOOD[:10], GOOD + b"\x01", b"\x01\x63" + GOOD[2:]]
)
def test_what_is_no_delivery_message_is_undecodable(data: bytes | None) -> None:
    with pytest.raises(Undecodable):
        decode_deliveries(data)
