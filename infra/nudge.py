"""A nudge: an empty message for each partition of deliveries of which a node that is filled has applied nothing yet.

Deliver calls every node for every message, so each of them says afterwards how far it is, and what was on its way to
other nodes before is there. Copying needs that as a proof; without traffic it would never come. Next: repair_warmer.py.
"""

import time
from collections.abc import Collection

import structlog
from confluent_kafka import KafkaException, Producer

from infra import redis_keys
from infra.events import encode_deliveries
from infra.kafka import producer_config
from infra.redis_clusters import RedisClusters
from infra.topics import DELIVERIES

SENT_WITHIN_S = 5.0
APPLIED_WITHIN_S = 3.0  # usually some 50 ms; while deliveries wait, the database is the way
LOOK_AGAIN_S = 0.02

log = structlog.get_logger()


def nudge(clusters: RedisClusters, bootstrap: str, nodes: Collection[str]) -> bool:
    """Returns when all of these nodes have applied something of each partition; false when that does not come in time:
    Kafka is away, or no worker delivers."""
    untold = partitions_untold(clusters, nodes)
    if not untold:
        return True
    if not _send(bootstrap, untold):
        return False
    give_up_s = time.monotonic() + APPLIED_WITHIN_S
    while partitions_untold(clusters, nodes):
        if time.monotonic() > give_up_s:
            log.warning("copying has no proof: nothing is delivered", partitions=sorted(untold))
            return False
        time.sleep(LOOK_AGAIN_S)
    return True


def partitions_untold(clusters: RedisClusters, nodes: Collection[str]) -> set[int]:
    """The partitions of which one of these nodes has taken no call. One that does not answer is left out."""
    questions = [("HEXISTS", redis_keys.control(partition), "call") for partition in range(DELIVERIES.partitions)]
    answers = clusters.commands_at_once(dict.fromkeys(nodes, questions))
    return {partition for of_node in answers.values() for partition, has in enumerate(of_node) if has == 0}


def _send(bootstrap: str, partitions: Collection[int]) -> bool:
    """Outside of fan_out's transactions: there is nothing in it that could come too late. Sent twice, it does no
    harm."""
    producer = Producer(producer_config(bootstrap) | {"message.timeout.ms": int(SENT_WITHIN_S * 1000)})
    try:
        for partition in partitions:
            producer.produce(DELIVERIES.name, encode_deliveries([]), partition=partition)
        left: int = producer.flush(SENT_WITHIN_S)
    except (KafkaException, BufferError) as error:
        log.warning("copying has no proof: Kafka takes nothing", error=str(error))
        return False
    return left == 0
