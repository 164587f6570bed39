"""What deliver takes from its log: records for timelines of the partition that they came in."""

from dataclasses import dataclass
from typing import cast

import pytest

from infra.errors import Undecodable
from infra.events import Delivery, DeliveryKind, encode_deliveries, one_chunk
from infra.slots import slot_of
from infra.topics import DELIVERIES
from streams.app import DeliverWork, Parts

OWNERS = {slot_of(one) % DELIVERIES.partitions: one for one in range(1, 500)}


@dataclass(frozen=True)
class Message:
    """As much of a message as is read here."""

    value: bytes
    partition: int
    offset: int = 7


def read(partition: int, *records: Delivery) -> int:
    """How many records were taken."""
    work = DeliverWork(cast(Parts, None), lambda: "member")
    return len(work.read(Message(encode_deliveries(records), partition)).records)


def record(*partitions: int) -> Delivery:
    return one_chunk(DeliveryKind.DELIVER, 41, 5, sorted(OWNERS[one] for one in partitions))


@pytest.mark.parametrize("partition", range(DELIVERIES.partitions))
def test_records_for_timelines_of_their_partition_are_taken(partition: int) -> None:
    assert read(partition, record(partition), record(partition)) == 2
    assert read(partition) == 0


def test_a_message_in_a_partition_that_is_not_its_timelines_is_undecodable() -> None:
    with pytest.raises(Undecodable, match=r"names timelines of partition 3 and came in 2: .*`fanfold dlq redrive`"):
        read(2, record(3))


def test_one_timeline_of_another_partition_among_many_records_is_enough() -> None:
    with pytest.raises(Undecodable, match="names timelines of partition 0, 3 and came in 2:"):
        read(2, record(2), record(2, 3), record(0))
