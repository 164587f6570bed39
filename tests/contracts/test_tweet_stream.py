"""`TweetStream` on a real broker: starts, places of groups, filters, failures, rebalances and ends."""

import asyncio
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

import pytest
from confluent_kafka import Consumer, ConsumerGroupState, TopicPartition
from confluent_kafka.admin import AdminClient

from consumers.tweet_stream import TweetStream
from consumers.tweet_stream_events import Deleted, Event, Followed, Posted, StatusChanged, Unfollowed
from consumers.tweet_stream_filter import Filter
from consumers.tweet_stream_handling import Retries
from consumers.tweet_stream_options import Commit, StreamOptions
from consumers.tweet_stream_reset import reset_group
from infra.composition import Stores
from infra.errors import Conflict, DatabaseUnavailable, InvalidInput, NotFound, PositionLost
from infra.events import REPLAY_HEADER, Activity, ActivityType, encode_activity
from infra.kafka import Message, TransactionalProducer
from infra.log_start import Start
from infra.retry import Backoff
from producers.publish import NewTweet, Publisher
from tests.own_log import OwnLog, own_log, posts
from tests.services import Services
from tests.waiting import wait_until

SOON = Backoff(first_s=0.01, max_s=0.02)
ALL = StreamOptions(start=Start.beginning(), follow=False)
STOPS_WITHIN_S = 5.0


@pytest.fixture
def log(services: Services) -> OwnLog:
    return own_log(services.kafka_bootstrap)


@pytest.fixture
def group() -> str:
    return f"g-{secrets.token_hex(6)}"


@pytest.fixture
def open_stream(log: OwnLog) -> Iterator[Callable[..., TweetStream]]:
    opened: list[TweetStream] = []

    def open_(**options: object) -> TweetStream:
        made = StreamOptions(**({"topic": log.topic, "start": Start.beginning(), "follow": False} | options))  # type: ignore[arg-type]
        opened.append(TweetStream(log.bootstrap, made))
        return opened[-1]

    yield open_
    for one in opened:
        one.close()


def ids(events: list[Event]) -> list[int]:
    return [event.tweet_id for event in events if isinstance(event, Posted)]


def test_every_type_comes_typed_and_an_author_in_order(log: OwnLog, open_stream: Callable[..., TweetStream]) -> None:
    log.write([Activity(kind, 7, 70 + place, 1_500) for place, kind in enumerate(ActivityType)])

    events = list(open_stream())

    assert [type(event) for event in events] == [Posted, Deleted, Followed, Unfollowed, StatusChanged]
    first = events[0]
    assert isinstance(first, Posted)
    assert (first.author_id, first.tweet_id, first.tweet, first.offset) == (7, 70, None, 0)
    assert first.published_at == datetime(1970, 1, 1, 0, 0, 1, 500_000, tzinfo=UTC)
    assert isinstance(events[2], Followed)
    assert events[2].follower_id == 72


def test_what_was_aborted_is_not_told(log: OwnLog, open_stream: Callable[..., TweetStream]) -> None:
    producer = TransactionalProducer(log.bootstrap, "test-aborting")
    producer.begin()
    producer._produce(Message(log.topic, b"{}", b"7"))
    producer._producer.flush(10)
    producer.abort()
    producer.close()
    log.write(posts(7, [1]))

    assert ids(list(open_stream())) == [1]


def test_what_a_replay_sent_again_is_not_told(log: OwnLog, open_stream: Callable[..., TweetStream]) -> None:
    [posted] = posts(7, [1])
    log.send([Message(log.topic, encode_activity(posted).encode(), b"7", headers=[(REPLAY_HEADER, b"4")])])
    log.write(posts(7, [2]))

    assert ids(list(open_stream())) == [2]


def test_a_group_goes_on_where_it_was_and_a_new_one_at_its_start(
    log: OwnLog, open_stream: Callable[..., TweetStream], group: str
) -> None:
    log.write(posts(7, [1, 2, 3]))
    with open_stream(group=group) as stream:
        assert ids(list(stream)) == [1, 2, 3]
    log.write(posts(7, [4]))

    assert ids(list(open_stream(group=group))) == [4]
    assert ids(list(open_stream(group=f"{group}-other", start=Start.now()))) == []


def test_now_is_a_place_that_the_group_keeps_before_anything_is_processed(
    log: OwnLog, open_stream: Callable[..., TweetStream], group: str
) -> None:
    """Else what came between the death of the first member and the next one would be skipped."""
    log.write(posts(7, [1]))
    first = open_stream(group=group, start=Start.now(), follow=True)
    reading = threading.Thread(target=lambda: list(first), daemon=True)
    reading.start()
    wait_until(lambda: len(first.health().partitions) == 4, "all partitions")
    first.stop()
    reading.join(10)
    first._member.marks.revoke(range(4))  # nothing is committed at the end, as after a kill
    first.close()
    log.write(posts(7, [2]))

    assert ids(list(open_stream(group=group, start=Start.now()))) == [2]


def test_starts_at_a_time_and_at_offsets(log: OwnLog, open_stream: Callable[..., TweetStream]) -> None:
    log.write(posts(7, [1, 2]))
    wait_until(lambda: time.time_ns() // 1_000_000 > _newest_ms(log), "the clock")
    now_ms = time.time_ns() // 1_000_000
    log.write(posts(7, [3]))
    [last] = list(open_stream(start=Start.at(datetime.fromtimestamp(now_ms / 1000, UTC), now_ms)))

    assert ids([last]) == [3]
    assert ids(list(open_stream(start=Start.offsets({last.partition: 1})))) == [2, 3]


def _newest_ms(log: OwnLog) -> int:
    consumer = Consumer({"bootstrap.servers": log.bootstrap, "group.id": "test-times"})
    consumer.assign([TopicPartition(log.topic, one, 0) for one in range(4)])
    found = [consumer.poll(20), consumer.poll(20)]
    consumer.close()
    return max(int(message.timestamp()[1]) for message in found)


@pytest.mark.parametrize("commit", [Commit.ON_ITS_OWN, Commit.AFTER_EACH])
def test_an_event_is_processed_once_the_next_one_is_asked_for(
    log: OwnLog, open_stream: Callable[..., TweetStream], group: str, commit: Commit
) -> None:
    log.write(posts(7, [1, 2, 3]))

    def read(stream: TweetStream) -> None:
        for event in stream:
            if ids([event]) == [2]:
                raise ZeroDivisionError

    with open_stream(group=group, commit=commit) as stream, pytest.raises(ZeroDivisionError):
        read(stream)

    assert ids(list(open_stream(group=group))) == [2, 3]


def test_by_hand_only_what_is_committed_counts(
    log: OwnLog, open_stream: Callable[..., TweetStream], group: str
) -> None:
    log.write(posts(7, [1, 2, 3, 4]))
    with open_stream(group=group, commit=Commit.BY_HAND) as stream:
        events = list(stream)
        stream.commit(events[1])
    with open_stream(group=group, commit=Commit.BY_HAND) as stream:
        assert ids(next(stream.batches(1))) == [3]
        stream.commit()  # not 4, which is read ahead

    assert ids(list(open_stream(group=group))) == [4]


def test_batches_are_bounded_and_processed_when_the_next_one_is_asked_for(
    log: OwnLog, open_stream: Callable[..., TweetStream], group: str
) -> None:
    log.write(posts(7, range(1, 8)))
    with open_stream(group=group) as stream:
        batches = stream.batches(3)
        assert [ids(next(batches)), ids(next(batches))] == [[1, 2, 3], [4, 5, 6]]

    assert ids(list(open_stream(group=group))) == [4, 5, 6, 7]


def test_coroutines_read_the_same_and_a_cancelled_wait_loses_nothing(
    log: OwnLog, open_stream: Callable[..., TweetStream]
) -> None:
    async def read() -> list[Event]:
        found = []
        async with open_stream(follow=True) as stream:
            waiting = asyncio.ensure_future(anext(aiter(stream)))
            await asyncio.sleep(0.01)
            waiting.cancel()
            await asyncio.to_thread(log.write, posts(7, [1, 2, 3]))
            async with aclosing(stream.batches_async(2)) as batches:  # type: ignore[type-var]
                async for batch in batches:
                    found += batch
                    if len(found) == 3:
                        break
        return found

    assert ids(asyncio.run(read())) == [1, 2, 3]


def test_filters_by_type_and_author(log: OwnLog, open_stream: Callable[..., TweetStream]) -> None:
    log.write([*posts(7, [1]), *posts(8, [2]), Activity(ActivityType.DELETED, 7, 1, 1), *posts(77, [3])])

    assert ids(list(open_stream(only=Filter(authors=frozenset({7, 77}))))) in ([1, 3], [3, 1])
    [deleted] = list(open_stream(only=Filter(types=frozenset({ActivityType.DELETED}), authors=frozenset({7}))))
    assert isinstance(deleted, Deleted)


def test_a_group_that_wants_little_still_moves_its_place_to_the_end(
    log: OwnLog, open_stream: Callable[..., TweetStream], group: str
) -> None:
    log.write(posts(7, range(1, 50)))
    with open_stream(group=group, only=Filter(authors=frozenset({8}))) as stream:
        assert list(stream) == []
        assert set(stream.lag().values()) == {0}  # behind the transaction's marker

    assert list(open_stream(group=group)) == []


def test_tweets_come_with_posted_events_and_texts_can_be_asked_for(
    publisher: Publisher, stores: Stores, services: Services, log: OwnLog
) -> None:

    ann = publisher.create_user(f"ann{secrets.token_hex(4)}")
    kept, other, gone = (publisher.post(NewTweet(ann.id, text)) for text in ("Hello BOB", "else", "hello bob, gone"))
    publisher.delete(gone.id)
    log.write(posts(ann.id, [kept.id, other.id, gone.id]))
    options = StreamOptions(topic=log.topic, start=Start.beginning(), follow=False)

    with TweetStream(services.kafka_bootstrap, options, stores.bodies) as stream:
        texts = [event.tweet and event.tweet.text for event in stream if isinstance(event, Posted)]
    only = StreamOptions(topic=log.topic, start=Start.beginning(), follow=False, only=Filter(text="hello bob"))
    with TweetStream(services.kafka_bootstrap, only, stores.bodies) as stream:
        found = ids(list(stream))

    assert texts == ["Hello BOB", "else", None]
    assert found == [kept.id]


def test_a_handler_that_fails_is_called_again_then_buried_and_the_next_event_follows(
    log: OwnLog, open_stream: Callable[..., TweetStream], group: str
) -> None:
    log.write(posts(7, [1, 2, 3]))
    called: list[int] = []

    def handle(event: Event) -> None:
        assert isinstance(event, Posted)
        called.append(event.tweet_id)
        if event.tweet_id == 2 or called.count(event.tweet_id) < event.tweet_id:
            raise ValueError(f"cannot take {event.tweet_id}")

    with open_stream(group=group) as stream:
        stream.run(handle, Retries(3, SOON))
        health = stream.health()

    assert called == [1, 2, 2, 2, 3, 3, 3]
    assert (health.events, health.buried, health.lag, health.waiting_for) == (3, 1, 0, None)
    [letter] = letters(log, group, 1)
    headers = dict(letter.headers())
    assert headers["own"] == b"1"
    assert headers["__connect.errors.topic"] == log.topic.encode()
    assert headers["__connect.errors.offset"] == b"1"
    assert headers["__connect.errors.connector.name"] == group.encode()
    assert headers["__connect.errors.stage"] == b"TASK_PUT"
    assert headers["__connect.errors.exception.message"] == b"cannot take 2"
    assert headers["__connect.errors.class.name"].endswith(b".handle")
    assert list(open_stream(group=group)) == []


def letters(log: OwnLog, group: str, count: int) -> list[Any]:
    consumer = Consumer({"bootstrap.servers": log.bootstrap, "group.id": "test-letters"})
    consumer.assign([TopicPartition(f"{log.topic}.{group}.dlq", 0, 0)])
    found = [consumer.poll(20) for _ in range(count)]
    end = consumer.get_watermark_offsets(TopicPartition(f"{log.topic}.{group}.dlq", 0))[1]
    consumer.close()
    assert end == count
    return found


def test_what_is_no_event_is_buried_and_the_next_one_follows(
    log: OwnLog, open_stream: Callable[..., TweetStream], group: str
) -> None:
    log.write(posts(7, [1]))
    log.send([Message(log.topic, b"what is this", b"7"), Message(log.topic, None, b"7")])
    log.write(posts(7, [2]))

    with open_stream(group=group) as stream:
        assert ids(list(stream)) == [1, 2]
        assert stream.health().unreadable == 2
    assert [letter.value() for letter in letters(log, group, 2)] == [b"what is this", None]
    with open_stream() as stream:  # in no group there is nobody to bury it for
        assert (ids(list(stream)), stream.health().unreadable) == ([1, 2], 2)


def test_a_server_that_is_away_buries_nothing_and_a_stop_breaks_the_wait_off(
    log: OwnLog, open_stream: Callable[..., TweetStream], group: str
) -> None:
    log.write(posts(7, [1]))
    tried: list[int] = []

    def handle(_: Event) -> None:
        tried.append(1)
        raise DatabaseUnavailable("away")

    stream = open_stream(group=group)
    running = threading.Thread(target=stream.run, args=(handle, Retries(2, SOON)))
    running.start()
    wait_until(lambda: len(tried) > 3, "more tries than others get", 30)
    waits_for = stream.health().waiting_for
    stopped_s = time.monotonic()
    stream.close()
    running.join(10)

    assert time.monotonic() - stopped_s < 5
    assert waits_for == "infra.errors.DatabaseUnavailable: away"
    assert ids(list(open_stream(group=group))) == [1]


def test_a_member_that_joins_or_leaves_makes_nobody_repeat_what_was_processed(
    log: OwnLog, open_stream: Callable[..., TweetStream], group: str
) -> None:
    seen: list[tuple[int, int]] = []
    streams = [open_stream(group=group, follow=True) for _ in range(2)]

    def read(stream: TweetStream) -> None:
        stream.run(lambda event: seen.append((event.author_id, ids([event])[0])))

    threads = [threading.Thread(target=read, args=(stream,)) for stream in streams]
    threads[0].start()
    wait_until(lambda: len(streams[0].health().partitions) == 4, "all partitions")
    log.write([one for author in range(1, 21) for one in posts(author, range(1, 6))])
    threads[1].start()
    wait_until(lambda: [len(one.health().partitions) for one in streams] == [2, 2], "a partition each", 30)
    log.write([one for author in range(1, 21) for one in posts(author, range(6, 11))])
    wait_until(lambda: len(seen) >= 200, "all events")
    streams[0].close()
    wait_until(lambda: len(streams[1].health().partitions) == 4, "all partitions", 30)
    log.write([one for author in range(1, 21) for one in posts(author, [11])])
    wait_until(lambda: len(seen) >= 220, "all events")
    streams[1].close()
    for thread in threads:
        thread.join(10)

    for author in range(1, 21):
        assert [tweet for one, tweet in seen if one == author] == list(range(1, 12))


def test_a_stop_does_not_wait_for_others_in_the_middle_of_a_rebalance(
    log: OwnLog, open_stream: Callable[..., TweetStream], group: str
) -> None:
    kill_a_member(log, group)
    stream = open_stream(group=group, follow=True)
    reading = threading.Thread(target=list, args=(stream,))
    reading.start()
    wait_until(lambda: group_state(log, group) is ConsumerGroupState.PREPARING_REBALANCING, "a rebalance", 30)
    stopped_s = time.monotonic()
    stream.close()
    assert time.monotonic() - stopped_s < STOPS_WITHIN_S
    reading.join(10)


def kill_a_member(log: OwnLog, group: str) -> None:
    """One that the others wait for during half a minute."""
    options = {
        "bootstrap.servers": log.bootstrap,
        "group.id": group,
        "partition.assignment.strategy": "cooperative-sticky",
        "session.timeout.ms": 30_000,
    }
    program = f"""
from confluent_kafka import Consumer
member = Consumer({options!r})
member.subscribe([{log.topic!r}], on_assign=lambda *_: print("joined", flush=True))
while True:
    member.poll(1)
"""
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"joined\n"
        process.kill()


def group_state(log: OwnLog, group: str) -> ConsumerGroupState:
    client = AdminClient({"bootstrap.servers": log.bootstrap})
    return client.describe_consumer_groups([group])[group].result(20).state


def test_what_the_log_no_longer_has_is_an_error_until_the_group_is_reset(
    log: OwnLog, open_stream: Callable[..., TweetStream], group: str
) -> None:
    log.write(posts(7, [1, 2]))
    with open_stream(group=group) as stream:
        partition = next(iter(stream)).partition
        with pytest.raises(Conflict, match="has members: stop them"):
            reset_group(log.bootstrap, group, Start.beginning(), log.topic)
    places = [TopicPartition(log.topic, partition, 2)]
    admin = AdminClient({"bootstrap.servers": log.bootstrap})
    admin.delete_records(places)[places[0]].result()
    log.write(posts(7, [3]))

    with open_stream(group=group) as stream, pytest.raises(PositionLost, match=r"Nothing was skipped.*reset_group"):
        list(stream)

    assert reset_group(log.bootstrap, group, Start.beginning(), log.topic)[partition] == 2
    assert ids(list(open_stream(group=group))) == [3]


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"start": Start.offsets({0: 99})}, InvalidInput, "0 does not have offset 99; it has 0 to 0"),
        ({"start": Start.offsets({9: 0})}, InvalidInput, "has no partition 9; it has 0 to 3"),
        ({"topic": "no-such-topic"}, NotFound, "there is no topic no-such-topic"),
    ],
)
def test_where_it_cannot_begin_is_said_when_it_is_opened(
    open_stream: Callable[..., TweetStream], options: dict[str, object], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        open_stream(**options)
