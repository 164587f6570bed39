"""What publishing is compared with, in the same run: bare inserts into the same tables, and a bare producer on the same
topic. Neither locks, checks, orders or relays anything.
"""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import sqlalchemy as sa
from confluent_kafka import Producer

from infra.cloud_events import TYPES
from infra.database import transaction
from infra.events import Activity, ActivityType, encode_activity
from infra.kafka import Message, producer_config
from infra.topics import ACTIVITY
from producers.snowflake import Snowflakes

ROWS_AT_ONCE = 500  # of one statement, as post_many has them

_TWEETS = sa.text(
    "INSERT INTO tweets (id, author_id, text, created_at) "
    "SELECT id, author, :text, now() FROM unnest(CAST(:ids AS bigint[]), CAST(:authors AS bigint[])) AS t (id, author)"
)
_OUTBOX = sa.text(
    "INSERT INTO outbox (aggregatetype, aggregateid, type, payload) "
    "SELECT :topic, author, :type, payload "
    "FROM unnest(CAST(:authors AS text[]), CAST(:payloads AS text[])) AS e (author, payload)"
)
_UNDO = sa.text("DELETE FROM tweets WHERE id = ANY (CAST(:ids AS bigint[]))")
_UNDO_OUTBOX = sa.text("DELETE FROM outbox")


def insert_limit(engine: sa.Engine, authors: Sequence[int], text: str, callers: int) -> float:
    """Tweets a second. The relay must be stopped: what is inserted is taken out again, events first."""
    snowflakes = Snowflakes(0, lambda: time.time_ns() // 1_000_000)
    batches = []
    for at in range(0, len(authors), ROWS_AT_ONCE):
        part = authors[at : at + ROWS_AT_ONCE]
        ids = [snowflakes.next() for _ in part]
        batches.append((ids, part, [_payload(author, tweet) for author, tweet in zip(part, ids, strict=True)]))

    def insert(batch: tuple[list[int], Sequence[int], list[str]]) -> None:
        ids, part, payloads = batch
        with transaction(engine) as connection:
            connection.execute(_TWEETS, {"ids": ids, "authors": list(part), "text": text})
            events = {"authors": [str(author) for author in part], "payloads": payloads}
            connection.execute(_OUTBOX, {"topic": ACTIVITY.name, "type": TYPES[ActivityType.POSTED], **events})

    began_s = time.monotonic()
    with ThreadPoolExecutor(callers) as threads:
        list(threads.map(insert, batches))
    seconds = time.monotonic() - began_s
    with transaction(engine) as connection:
        connection.execute(_UNDO_OUTBOX)
        connection.execute(_UNDO, {"ids": [tweet for ids, _, _ in batches for tweet in ids]})
    return len(authors) / seconds


def produce_limit(bootstrap: str, messages: Sequence[Message]) -> float:
    """Messages a second that the broker acknowledged. They are events that it had before, so they do no harm."""
    failed: list[object] = []
    producer = Producer(producer_config(bootstrap))
    began_s = time.monotonic()
    for message in messages:
        while True:
            try:
                producer.produce(
                    message.topic,
                    message.value,
                    message.key,
                    headers=list(message.headers),
                    on_delivery=lambda error, _: failed.append(error) if error else None,
                )
                break
            except BufferError:
                producer.poll(0.05)
        producer.poll(0)
    producer.flush()
    assert not failed, f"{len(failed)} messages were not acknowledged: {failed[0]}"
    return len(messages) / (time.monotonic() - began_s)


def _payload(author: int, tweet: int) -> str:
    return encode_activity(Activity(ActivityType.POSTED, author, tweet, time.time_ns() // 1_000_000))
