from confluent_kafka import Consumer, TopicPartition

from infra.errors import Undecodable
from infra.topics import ACTIVITY, MESSAGE_BYTES_MAX
from streams.dead_letters import DeadLetter, DeadLetters
from tests.services import Services


def test_the_largest_message_that_a_topic_takes_fits_its_dead_letters(services: Services) -> None:
    """With the headers that say why, it is larger than the topic itself would take."""
    value = b"\xff" * (MESSAGE_BYTES_MAX - 100)
    reason = Undecodable("this is no event")

    DeadLetters(services.kafka_bootstrap).send([DeadLetter(ACTIVITY.name, 0, 7, b"key", value, [], reason)])

    consumer = Consumer({"bootstrap.servers": services.kafka_bootstrap, "group.id": "test-large-letters"})
    end = consumer.get_watermark_offsets(TopicPartition(ACTIVITY.dead_letters, 0))[1]
    consumer.assign([TopicPartition(ACTIVITY.dead_letters, 0, end - 1)])
    letter = consumer.poll(20)
    consumer.close()
    assert letter is not None
    assert letter.value() == value
    assert dict(letter.headers())["__connect.errors.exception.message"] == b"this is no event"
