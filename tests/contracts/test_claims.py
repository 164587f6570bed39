"""Claims of group members in transactions: what the broker commits, refuses, and makes a new owner wait for."""

import secrets
from collections.abc import Iterator

import pytest
from confluent_kafka import Consumer, TopicPartition

from infra.errors import KafkaUnavailable, Superseded
from infra.kafka import GROUP, Claim, Message, TransactionalProducer
from infra.kafka_logs import await_settled, committed_offsets
from infra.log_reader import LogWatch
from infra.topics import ACTIVITY, DELIVERIES
from tests.contracts.members import Member, join
from tests.services import Services
from tests.waiting import wait_until

PARTITION, OFFSET = 1, 7
READ_WITHIN_S = 30.0


@pytest.fixture
def member(services: Services) -> Iterator[Member]:
    made = Member(services.kafka_bootstrap)
    join(made)
    yield made
    made.leave()


def producer(services: Services) -> TransactionalProducer:
    return TransactionalProducer(services.kafka_bootstrap, f"test-claims-{secrets.token_hex(4)}")


def message(value: bytes) -> Message:
    return Message(DELIVERIES.dead_letters, value, partition=0)


def sent(services: Services, value: bytes) -> bool:
    """Whether anybody finds it, as Faust would also before it is committed."""
    end = secrets.token_hex(8).encode()
    producer(services).send([message(end)])
    consumer = Consumer(
        {"bootstrap.servers": services.kafka_bootstrap, "group.id": "test", "isolation.level": "read_uncommitted"}
    )
    try:
        consumer.assign([TopicPartition(DELIVERIES.dead_letters, 0, 0)])
        found = False
        while (one := consumer.poll(READ_WITHIN_S)) is not None:
            found = found or one.value() == value
            if one.value() == end:
                return found
        raise AssertionError("the log does not end: a transaction is open")
    finally:
        consumer.close()


def test_what_a_member_sends_in_its_generation_is_committed(services: Services, member: Member) -> None:
    value = secrets.token_hex(8).encode()

    producer(services).send([message(value)], member.claim({PARTITION: OFFSET}))

    assert sent(services, value)
    await_settled(services.kafka_bootstrap, ACTIVITY, [PARTITION])
    assert committed_offsets(services.kafka_bootstrap, ACTIVITY)[PARTITION] == OFFSET


def test_a_claim_moves_the_group_also_without_messages(services: Services, member: Member) -> None:
    assert producer(services).send([], member.claim({PARTITION: OFFSET + 1})) == {}

    await_settled(services.kafka_bootstrap, ACTIVITY, [PARTITION])
    assert committed_offsets(services.kafka_bootstrap, ACTIVITY)[PARTITION] == OFFSET + 1


def test_what_an_open_transaction_has_written_is_known_and_is_not_the_end_yet(services: Services) -> None:
    sender, watch = producer(services), LogWatch(services.kafka_bootstrap)
    sender.begin()
    sender._produce(Message(DELIVERIES.name, b"x", partition=0))
    assert sender._producer.flush(READ_WITHIN_S) == 0

    wait_until(lambda: watch.written()[DELIVERIES.name, 0] > watch.ends()[DELIVERIES.name, 0], "the message")
    sender.abort()
    watch.close()


def test_nothing_counts_of_what_is_sent_with_the_claim_of_an_older_generation(
    services: Services, member: Member
) -> None:
    value, old, thawed = secrets.token_hex(8).encode(), member.claim({PARTITION: OFFSET}), producer(services)
    newer = Member(services.kafka_bootstrap)
    try:
        join(member, newer)

        with pytest.raises(Superseded, match=f"not in generation {old.generation} of group {GROUP}"):
            thawed.send([message(value)], old)
    finally:
        newer.leave()

    assert not sent(services, value)


def test_nothing_counts_of_what_somebody_sends_who_has_left(services: Services) -> None:
    value, gone = secrets.token_hex(8).encode(), Member(services.kafka_bootstrap)
    join(gone)
    claim = gone.claim({PARTITION: OFFSET})
    gone.leave()

    with pytest.raises(Superseded, match="not in generation"):
        producer(services).send([message(value)], claim)

    assert not sent(services, value)


@pytest.mark.parametrize(("generation", "name"), [(-1, ""), (-1, "somebody"), (1, "")])
def test_nothing_counts_of_what_is_sent_by_nobody(services: Services, generation: int, name: str) -> None:
    """As when a worker was put out of its group just now. The broker takes the first two from everybody."""
    value = secrets.token_hex(8).encode()

    with pytest.raises(Superseded, match=f"no member of group {GROUP}"):
        producer(services).send([message(value)], Claim(ACTIVITY, {PARTITION: OFFSET}, generation, name))

    assert not sent(services, value)


def test_a_new_owner_waits_for_the_transaction_of_the_last_one(services: Services, member: Member) -> None:
    waited = list[str]()
    held = member.claim({PARTITION: OFFSET})

    class Holding(TransactionalProducer):
        def _check(self, claim: Claim) -> None:
            super()._check(claim)
            with pytest.raises(KafkaUnavailable) as refusal:
                await_settled(services.kafka_bootstrap, ACTIVITY, [PARTITION])
            waited.append(str(refusal.value))
            await_settled(services.kafka_bootstrap, ACTIVITY, [PARTITION + 1])
            assert len(committed_offsets(services.kafka_bootstrap, ACTIVITY)) == ACTIVITY.partitions

    Holding(services.kafka_bootstrap, f"test-claims-{secrets.token_hex(4)}").send([message(b"held")], held)

    assert "a transaction of the last owner is still open" in waited[0]
    await_settled(services.kafka_bootstrap, ACTIVITY, [PARTITION])
