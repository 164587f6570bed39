"""bench publish at a low rate: from the call until a reader of committed events has it from Kafka, and what the relay
takes of a processor while nobody posts.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from confluent_kafka import Consumer, TopicPartition

from benchmarks.scrape import read_totals
from infra.errors import KafkaUnavailable
from infra.events import decode_activity
from infra.topics import ACTIVITY
from producers.publish import NewTweet, Publisher

TWEETS = 200
PAUSE_S = 0.1  # between two of them
POLL_S = 0.2
ARRIVES_WITHIN_S = 30.0
CPU = "process_cpu_seconds_total"


class Arrivals:
    """When each tweet's event came out of Kafka, by `time.monotonic`; for several threads."""

    def __init__(self) -> None:
        self._at_s: dict[int, float] = {}
        self._changed = threading.Condition()

    def note(self, tweet_id: int) -> None:
        """It is here; the first time counts, since events come at least once."""
        with self._changed:
            self._at_s.setdefault(tweet_id, time.monotonic())
            self._changed.notify_all()

    def wait(self, tweet_id: int) -> float:
        """When it came. Raises `KafkaUnavailable` when it does not within 30 s."""
        with self._changed:
            if not self._changed.wait_for(lambda: tweet_id in self._at_s, ARRIVES_WITHIN_S):
                raise KafkaUnavailable(f"the event of tweet {tweet_id} is not in Kafka after {ARRIVES_WITHIN_S:g} s")
            return self._at_s[tweet_id]


def to_kafka_ms(publisher: Publisher, bootstrap: str, authors: Sequence[int], text: str) -> list[float]:
    """Milliseconds from the call to a reader of committed events, tweet by tweet."""
    found = []
    with _reading(bootstrap) as arrivals:
        for at in range(TWEETS):
            began_s = time.monotonic()
            tweet = publisher.post(NewTweet(authors[at % len(authors)], text))
            found.append((arrivals.wait(tweet.id) - began_s) * 1000)
            time.sleep(PAUSE_S)
    return found


def idle_cpu_share(address: str, seconds: float) -> float:
    """What a role with this metrics address takes of one processor while nothing is asked of it."""
    before, began_s = read_totals([address])[CPU], time.monotonic()
    time.sleep(seconds)
    return (read_totals([address])[CPU] - before) / (time.monotonic() - began_s)


@contextmanager
def _reading(bootstrap: str) -> Iterator[Arrivals]:
    """Reads the activity log from its end."""
    arrivals, stop = Arrivals(), threading.Event()
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": "fanfold-bench", "enable.auto.commit": False})
    places = [TopicPartition(ACTIVITY.name, partition) for partition in range(ACTIVITY.partitions)]
    for place in places:
        place.offset = consumer.get_watermark_offsets(place)[1]
    consumer.assign(places)

    def read() -> None:
        while not stop.is_set():
            message = consumer.poll(POLL_S)
            if message is not None and message.error() is None:
                arrivals.note(decode_activity(message.value()).other_id)

    reader = threading.Thread(target=read, name="arrivals", daemon=True)
    reader.start()
    try:
        yield arrivals
    finally:
        stop.set()
        reader.join()
        consumer.close()
