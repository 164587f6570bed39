"""Moving a group's place by hand, when the log no longer has where it was, or to read something again."""

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from consumers.tweet_stream_options import check_group
from infra.errors import Conflict, KafkaUnavailable
from infra.kafka import LEFT_CODES
from infra.log_start import Start, start_offsets
from infra.topics import ACTIVITY

HAS_MEMBERS_CODES = (*LEFT_CODES, KafkaError.REBALANCE_IN_PROGRESS)


def reset_group(bootstrap: str, group: str, start: Start, topic: str = ACTIVITY.name) -> dict[int, int]:
    """Lets a group without members go on from `start`; returns the offset of each partition.

    Raises `Conflict` while it has members, `InvalidInput` for an offset that the log does not have, `KafkaUnavailable`.
    """
    check_group(group)
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": group, "enable.auto.commit": False, "log_level": 3}
    )
    try:
        offsets = start_offsets(consumer, topic, start)
        places = [TopicPartition(topic, partition, offset) for partition, offset in offsets.items()]
        consumer.commit(offsets=places, asynchronous=False)
    except KafkaException as error:
        if error.args[0].code() in HAS_MEMBERS_CODES:
            raise Conflict(f"group {group} has members: stop them, and reset it then") from error
        raise KafkaUnavailable(f"the place of group {group} is not moved: {error.args[0].str()}") from error
    finally:
        consumer.close()
    return offsets
