"""Counters on real PostgreSQL, Kafka and Redis: exact in the end, whatever dies, comes twice or is lost on the way."""

import json
import random
import threading
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from confluent_kafka import Consumer, Producer, TopicPartition

import streams.counters
from consumers.applied import is_folding
from infra.advisory_lock import AdvisoryLock
from infra.composition import Stores
from infra.counts import TweetCounts
from infra.errors import NotFound, Superseded
from infra.health import State
from infra.kafka import producer_config
from infra.reactions import Reaction, ReactionType, encode_reaction, reactions_partition
from infra.settings import Settings
from infra.topics import REACTIONS
from producers.publish import NewTweet, Publisher, need_all
from streams import fold as folding
from streams.counters import Counters
from streams.fold import Batch, Folded, FoldState, fold, read_state, read_touched
from streams.fold_start import begin, read_logs
from streams.folded_nodes import FoldedNodes
from tests.counting import (
    check_counts,
    counting,
    make_counters,
    process_of_counters,
    relaying,
    wait_until_counted,
)
from tests.waiting import wait_until

MakeUsers = Callable[[int], list[int]]
Pairs = AbstractSet[tuple[int, int]]  # tweet and user
LIKERS_AT_ONCE, TWEETS, KILLS = 8, 6, 4


@pytest.fixture
def counters(stores: Stores, settings: Settings) -> Counters:
    return make_counters(stores, settings)


def row(engine: sa.Engine, tweet_id: int) -> TweetCounts:
    """The row of a tweet; zeros without one."""
    with engine.connect() as connection:
        found = connection.execute(
            sa.text("SELECT likes, retweets, replies FROM tweet_counts WHERE tweet_id = :id"), {"id": tweet_id}
        ).one_or_none()
        return TweetCounts(*found) if found else TweetCounts()


def likes(engine: sa.Engine) -> set[tuple[int, int]]:
    """The rows of likes: tweet and user."""
    with engine.connect() as connection:
        return {(one.tweet_id, one.user_id) for one in connection.execute(sa.text("SELECT * FROM likes"))}


# Liking.


def test_a_like_is_in_the_log_and_shown_when_the_call_returns_and_in_the_database_soon_after(
    counters: Counters, publisher: Publisher, stores: Stores, settings: Settings, make_users: MakeUsers
) -> None:
    author, fan = make_users(2)
    tweet = publisher.post(NewTweet(author, "hello")).id
    with counting(counters):
        publisher.like(fan, tweet)
        assert stores.counts.read([tweet]) == {tweet: TweetCounts(1)}
        publisher.like(fan, tweet)
        assert stores.counts.read([tweet]) == {tweet: TweetCounts(1)}
        wait_until(lambda: row(stores.engine, tweet) == TweetCounts(1))
        publisher.unlike(fan, tweet)
        assert stores.counts.read([tweet]) == {tweet: TweetCounts(0)}
        publisher.unlike(fan, tweet)
        wait_until_counted_reactions(stores, settings)
    check_counts(stores, {tweet: TweetCounts()})
    assert likes(stores.engine) == set()


@pytest.mark.parametrize("second", [ReactionType.LIKED, ReactionType.UNLIKED])
def test_a_word_that_a_fold_overtakes_between_look_and_call_is_shown_as_what_it_changes(
    publisher: Publisher, stores: Stores, state: FoldState, make_users: MakeUsers, second: ReactionType
) -> None:
    """A user's second word sees that he has no like, and his first one is folded before the second is shown."""
    author, fan = make_users(2)
    tweet = publisher.post(NewTweet(author, "hello")).id
    partition, nodes = reactions_partition(tweet), FoldedNodes(stores.brief)
    nodes.tell(state.fold, state.fold, {})
    stores.counts.read([tweet])
    publisher.like(fan, tweet)
    said = publisher.liking.begin(second, fan, tweet)
    placed = said.placed.result(20)

    batch = Batch({(tweet, fan): True}, next_offsets={(REACTIONS.name, partition): placed.offset})
    folded = fold_words(stores, state, batch)
    nodes.tell(state.fold, folded.state.fold, folded.counts)
    publisher.liking.show(said, placed)

    assert row(stores.engine, tweet) == TweetCounts(1)
    assert stores.counts.read([tweet]) == {tweet: TweetCounts(int(second is ReactionType.LIKED))}


def wait_until_counted_reactions(stores: Stores, settings: Settings) -> None:
    with relaying(stores, settings):
        wait_until_counted(stores, settings)


@pytest.mark.parametrize("what", ["user", "tweet"])
def test_only_a_live_user_likes_a_live_tweet(publisher: Publisher, make_users: MakeUsers, what: str) -> None:
    author, fan = make_users(2)
    tweet = publisher.post(NewTweet(author, "hello")).id
    if what == "user":
        publisher.delete_user(fan)
        missing = f"user {fan} does not exist"
    else:
        publisher.delete(tweet)
        missing = f"tweet {tweet} does not exist"
    for call in (publisher.like, publisher.unlike):
        with pytest.raises(NotFound, match=missing):
            call(fan, tweet)


def test_a_reaction_is_a_cloud_event_in_its_tweets_partition(
    publisher: Publisher, settings: Settings, make_users: MakeUsers
) -> None:
    author, fan = make_users(2)
    tweet = publisher.post(NewTweet(author, "hello")).id
    with new_reactions(settings) as read:
        publisher.like(fan, tweet)
        [message] = read()
    headers = dict(message.headers())
    assert message.key() == str(tweet).encode() == headers["ce_subject"]
    assert headers["ce_type"] == b"fanfold.reaction.liked.v1"
    value = json.loads(message.value())
    assert (value["type"], value["tweet_id"], value["user_id"]) == ("liked", str(tweet), str(fan))


@contextmanager
def new_reactions(settings: Settings) -> Iterator[Callable[[], list[Any]]]:
    """A function that returns the next reaction that was sent since."""
    consumer = Consumer({"bootstrap.servers": settings.kafka_bootstrap, "group.id": "test-reactions"})
    places = [TopicPartition(REACTIONS.name, one) for one in range(REACTIONS.partitions)]
    for place in places:
        place.offset = consumer.get_watermark_offsets(place, 20)[1]
    consumer.assign(places)
    try:
        yield lambda: list(consumer.consume(1, 20))
    finally:
        consumer.close()


# Exact in the end.


GoesOn = Callable[[int], bool]  # given how often a caller has said something


def like_at_random(
    publisher: Publisher, users: list[int], tweets: list[int], goes_on: GoesOn, rng: random.Random, before: Pairs
) -> Pairs:
    """One caller's words, for users of his own; what holds of them at the end."""
    holds, said = {(tweet, user) for tweet, user in before if user in users}, 0
    while goes_on(said):
        said += 1
        user, tweet = rng.choice(users), rng.choice(tweets)
        if rng.random() < 0.6:
            publisher.like(user, tweet)
            holds.add((tweet, user))
        else:
            publisher.unlike(user, tweet)
            holds.discard((tweet, user))
    return holds


def all_like(
    publisher: Publisher, users: list[int], tweets: list[int], goes_on: GoesOn, before: Pairs = frozenset()
) -> Pairs:
    """Many callers at the same time; what holds at the end, if `before` held."""
    with ThreadPoolExecutor(LIKERS_AT_ONCE) as threads:
        calls = [
            threads.submit(
                like_at_random, publisher, users[at::LIKERS_AT_ONCE], tweets, goes_on, random.Random(at), before
            )
            for at in range(LIKERS_AT_ONCE)
        ]
        return frozenset().union(*(call.result() for call in calls))


def times(count: int) -> GoesOn:
    return lambda said: said < count


def truth_of(holds: Pairs, tweets: list[int]) -> dict[int, TweetCounts]:
    return {tweet: TweetCounts(sum(one == tweet for one, _ in holds)) for tweet in tweets}


def like_and_check(
    publisher: Publisher, stores: Stores, settings: Settings, users: list[int], tweets: list[int]
) -> None:
    """Many like and unlike at the same time; once all is counted, rows and counts are what they said last."""
    holds = all_like(publisher, users, tweets, times(60))
    wait_until_counted(stores, settings)
    assert likes(stores.engine) == holds
    check_counts(stores, truth_of(holds, tweets))


@pytest.fixture
def users(make_users: MakeUsers) -> list[int]:
    return make_users(3 * LIKERS_AT_ONCE)


@pytest.fixture
def tweets(publisher: Publisher, users: list[int]) -> list[int]:
    return [one.id for one in need_all(publisher.post_many([NewTweet(users[0], f"{n}") for n in range(TWEETS)]))]


def test_many_who_like_and_unlike_at_the_same_time_are_counted_exactly(
    counters: Counters,
    publisher: Publisher,
    stores: Stores,
    settings: Settings,
    users: list[int],
    tweets: list[int],
) -> None:
    with relaying(stores, settings), counting(counters):
        like_and_check(publisher, stores, settings, users, tweets)


def test_killed_counters_lose_and_double_nothing(
    publisher: Publisher,
    stores: Stores,
    settings: Settings,
    users: list[int],
    tweets: list[int],
    tmp_path: Path,
) -> None:
    """Killed several times while likes come in; the last one folds what is left."""
    enough = threading.Event()
    with relaying(stores, settings), ThreadPoolExecutor(1) as threads:
        liking = threads.submit(all_like, publisher, users, tweets, lambda _: not enough.is_set())
        for number in range(KILLS):
            with process_of_counters(settings, tmp_path):
                before = read_state(stores.engine).fold
                wait_until(lambda before=before: read_state(stores.engine).fold > before + 1, "a fold", 30)  # type: ignore[misc]
                threading.Event().wait(random.Random(number).random() * 0.3)  # anywhere in a round
        enough.set()
        holds = liking.result()
        with process_of_counters(settings, tmp_path):
            wait_until_counted(stores, settings)
            assert likes(stores.engine) == holds
            wait_until(lambda: stores.counts.read(tweets) == truth_of(holds, tweets), "the nodes to hear of it", 5)
            check_counts(stores, truth_of(holds, tweets))


def test_of_two_counters_one_stands_by_and_goes_on_when_the_other_is_killed(
    publisher: Publisher, stores: Stores, settings: Settings, users: list[int], tweets: list[int], tmp_path: Path
) -> None:
    with (
        relaying(stores, settings),
        process_of_counters(settings, tmp_path) as first,
        process_of_counters(settings, tmp_path, "second") as second,
    ):
        holds = all_like(publisher, users, tweets, times(20))
        first.kill()
        more = all_like(publisher, users, tweets, times(20), holds)
        wait_until_counted(stores, settings)
        assert likes(stores.engine) == more
        second.terminate()
        assert second.wait(10) == 0


class NoLock(AdvisoryLock):
    """Everybody's."""

    def try_take(self) -> bool:
        return True

    def show_alive(self) -> None:
        pass


def test_whether_anybody_folds_is_known_to_who_waits_for_it(counters: Counters, stores: Stores) -> None:
    assert not is_folding(stores.engine)
    with counting(counters):
        assert is_folding(stores.engine)
    wait_until(lambda: not is_folding(stores.engine), "PostgreSQL to end the session that folded")


def test_two_that_both_think_they_are_the_only_one_fold_every_word_once(
    publisher: Publisher,
    stores: Stores,
    settings: Settings,
    users: list[int],
    tweets: list[int],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without the lock, as a frozen process that thaws: only compare and set is left."""
    monkeypatch.setattr(streams.counters, "AdvisoryLock", NoLock)
    first, second = make_counters(stores, settings), make_counters(stores, settings)
    with relaying(stores, settings), counting(first), counting(second):
        like_and_check(publisher, stores, settings, users, tweets)


def test_all_of_redis_may_be_lost(
    counters: Counters,
    publisher: Publisher,
    stores: Stores,
    settings: Settings,
    users: list[int],
    tweets: list[int],
) -> None:
    with relaying(stores, settings), counting(counters):
        holds = all_like(publisher, users, tweets, times(20))
        for name in stores.clusters.shard_map.nodes:
            stores.clusters.node(name).command("FLUSHALL", "SYNC")
        more = all_like(publisher, users, tweets, times(20), holds)
        wait_until_counted(stores, settings)
        assert likes(stores.engine) == more
        check_counts(stores, truth_of(more, tweets))
        for name in stores.clusters.shard_map.nodes:
            assert stores.clusters.node(name).command("EXISTS", "k"), "counters made every node known again"


def test_counters_that_begin_where_the_last_ones_ended_change_nothing(
    counters: Counters, publisher: Publisher, stores: Stores, settings: Settings, make_users: MakeUsers
) -> None:
    """Also where a transaction's marker is the last thing in the log."""
    author, fan = make_users(2)
    tweet = publisher.post(NewTweet(author, "hello")).id
    with relaying(stores, settings), counting(counters):
        publisher.like(fan, tweet)
        wait_until_counted(stores, settings)
        logs = read_logs(settings.kafka_bootstrap)
        ends = {(topic, one): end for topic, log in logs.items() for one, (_, end) in enumerate(log.ranges)}
        wait_until(lambda: dict(read_state(stores.engine).next_offsets) == ends, "every offset to be stored")
    state = read_state(stores.engine)
    assert begin(stores.engine, state, read_logs(settings.kafka_bootstrap), lambda: None) == state
    assert read_state(stores.engine) == state


# Single folds.


@pytest.fixture
def state(stores: Stores, settings: Settings) -> FoldState:
    return begin(stores.engine, read_state(stores.engine), read_logs(settings.kafka_bootstrap), lambda: None)


def words(*said: tuple[int, int, bool]) -> Batch:
    return Batch({(tweet, user): likes for tweet, user, likes in said})


def fold_words(stores: Stores, state: FoldState, batch: Batch) -> Folded:
    return fold(stores.engine, state, batch, read_touched(stores.engine, batch.named))


def test_a_fold_changes_counts_by_the_rows_that_really_came_and_went(
    stores: Stores, state: FoldState, publisher: Publisher, make_users: MakeUsers
) -> None:
    author, fan, other = make_users(3)
    one, two = (publisher.post(NewTweet(author, "hello")).id for _ in range(2))
    first = fold_words(stores, state, words((one, fan, True), (one, other, True), (two, fan, False)))
    assert {tweet: folded.counts for tweet, folded in first.counts.items()} == {
        one: TweetCounts(2),
        two: TweetCounts(0),
    }
    again = fold_words(stores, first.state, words((one, fan, True), (one, other, False), (two, other, True)))
    assert {tweet: folded.counts for tweet, folded in again.counts.items()} == {
        one: TweetCounts(1),
        two: TweetCounts(1),
    }
    assert likes(stores.engine) == {(one, fan), (two, other)}


def test_an_overtaken_fold_writes_nothing(
    stores: Stores, state: FoldState, publisher: Publisher, make_users: MakeUsers
) -> None:
    author, fan = make_users(2)
    tweet = publisher.post(NewTweet(author, "hello")).id
    fold_words(stores, state, words((tweet, fan, True)))
    with pytest.raises(Superseded):
        fold_words(stores, state, words((tweet, fan, False)))
    assert likes(stores.engine) == {(tweet, fan)}
    assert read_state(stores.engine).fold == state.fold + 1


def test_who_or_what_is_deleted_gets_no_likes_any_more(
    stores: Stores, state: FoldState, publisher: Publisher, make_users: MakeUsers
) -> None:
    author, fan, other = make_users(3)
    gone, stays = (publisher.post(NewTweet(author, "hello")).id for _ in range(2))
    publisher.delete(gone)
    publisher.hide_user(fan)
    fold_words(stores, state, words((gone, other, True), (stays, fan, True)))
    assert likes(stores.engine) == set()


def test_likes_and_counts_of_a_deleted_tweet_go_however_many_there_are(
    stores: Stores, state: FoldState, publisher: Publisher, make_users: MakeUsers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folding, "DEAD_LIKES_MAX", 2)
    author, *fans = make_users(8)
    tweet = publisher.post(NewTweet(author, "hello")).id
    state = fold_words(stores, state, words(*((tweet, fan, True) for fan in fans))).state
    publisher.delete(tweet)
    folded = fold_words(stores, state, Batch(named=frozenset({tweet})))
    assert likes(stores.engine) == set()
    assert folded.counts[tweet].counts == TweetCounts()
    with stores.engine.connect() as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM tweet_counts")).scalar_one() == 0


def test_a_crash_after_the_commit_and_before_the_nodes_hear_of_it_is_exact(
    counters: Counters,
    publisher: Publisher,
    stores: Stores,
    settings: Settings,
    make_users: MakeUsers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    author, *fans = make_users(4)
    tweet = publisher.post(NewTweet(author, "hello")).id
    with relaying(stores, settings):
        with counting(counters):
            publisher.like(fans[0], tweet)
            wait_until_counted(stores, settings)
            assert stores.counts.read([tweet]) == {tweet: TweetCounts(1)}
            monkeypatch.setattr(counters._nodes, "tell", lambda *_: None)  # as if it died here
            publisher.unlike(fans[0], tweet)
            wait_until(lambda: row(stores.engine, tweet) == TweetCounts(0))
        with counting(make_counters(stores, settings)):
            wait_until_counted(stores, settings)
            check_counts(stores, {tweet: TweetCounts(0)})


# Retweets and replies.


def test_retweets_and_replies_are_counted_as_they_come_and_go(
    counters: Counters, publisher: Publisher, stores: Stores, settings: Settings, make_users: MakeUsers
) -> None:
    author, fan, other = make_users(3)
    tweet = publisher.post(NewTweet(author, "hello")).id
    with relaying(stores, settings), counting(counters):
        retweets = [publisher.retweet(one, tweet).id for one in (fan, other)]
        reply = publisher.reply(fan, tweet, "hello yourself").id
        publisher.like(fan, tweet)
        publisher.like(other, reply)
        wait_until_counted(stores, settings)
        check_counts(stores, {tweet: TweetCounts(1, 2, 1), reply: TweetCounts(1)})
        publisher.delete(retweets[0])
        publisher.delete(reply)
        wait_until_counted(stores, settings)
        check_counts(stores, {tweet: TweetCounts(1, 1, 0), reply: TweetCounts()})
    assert likes(stores.engine) == {(tweet, fan)}


def test_the_likes_of_a_deleted_user_go_with_him(
    counters: Counters, publisher: Publisher, stores: Stores, settings: Settings, make_users: MakeUsers
) -> None:
    author, fan, other = make_users(3)
    tweets = [publisher.post(NewTweet(author, f"{n}")).id for n in range(3)]
    with relaying(stores, settings), counting(counters):
        for tweet in tweets:
            publisher.like(fan, tweet)
        publisher.like(other, tweets[0])
        wait_until_counted(stores, settings)
        publisher.retweet(fan, tweets[1])
        publisher.like(fan, tweets[2])
        assert publisher.delete_user(fan).complete
        wait_until_counted(stores, settings)
        check_counts(stores, {tweets[0]: TweetCounts(1), tweets[1]: TweetCounts(), tweets[2]: TweetCounts()})
    assert likes(stores.engine) == {(tweets[0], other)}


def test_an_erasing_waits_for_the_fold_under_way(
    stores: Stores, state: FoldState, publisher: Publisher, settings: Settings, make_users: MakeUsers
) -> None:
    """Whose statement saw the user before he was hidden, and whose commit comes after the likes were looked for."""
    author, fan = make_users(2)
    tweet = publisher.post(NewTweet(author, "hello")).id
    with new_reactions(settings) as read, ThreadPoolExecutor(1) as threads:
        with stores.engine.begin() as connection:
            folding.raise_fold(connection, state.fold, state.fold + 1)
            folding._fold_words(connection, {(tweet, fan): True})
            publisher.hide_user(fan)
            erasing = threads.submit(publisher.delete_user, fan)
            threading.Event().wait(0.3)
            assert not erasing.done()
        assert erasing.result().complete
        [taken_back] = read()
    assert json.loads(taken_back.value())["type"] == "unliked"


# What stands against it.


def test_a_reaction_that_cannot_be_read_is_buried_and_those_around_it_count(
    counters: Counters, publisher: Publisher, stores: Stores, settings: Settings, make_users: MakeUsers
) -> None:
    author, fan, other = make_users(3)
    tweet = publisher.post(NewTweet(author, "hello")).id
    producer = Producer(producer_config(settings.kafka_bootstrap))
    later = json.loads(encode_reaction(Reaction(ReactionType.LIKED, tweet, other, 0))) | {"version": 2}
    with relaying(stores, settings), counting(counters):
        letters = end_of(settings, REACTIONS.dead_letters)
        publisher.like(fan, tweet)
        for value in (b"\xff", None, json.dumps(later).encode()):
            producer.produce(REACTIONS.name, value, str(tweet).encode())
        assert producer.flush(20) == 0
        publisher.like(author, tweet)
        wait_until_counted(stores, settings)
        check_counts(stores, {tweet: TweetCounts(2)})
    assert end_of(settings, REACTIONS.dead_letters) == letters + 3


def end_of(settings: Settings, topic: str) -> int:
    consumer = Consumer({"bootstrap.servers": settings.kafka_bootstrap, "group.id": "test-letters"})
    try:
        return int(consumer.get_watermark_offsets(TopicPartition(topic, 0), 20)[1])
    finally:
        consumer.close()


GAPS = {
    "past the retention": "UPDATE folded SET next_offset = -5 WHERE topic = 'activity'",
    "made anew": "UPDATE folded SET log_id = 'another'",
    "a log that is too short": "UPDATE folded SET next_offset = next_offset + 1000000",
    "never folded": "DELETE FROM folded",
}


@pytest.mark.parametrize("damage", GAPS.values(), ids=GAPS.keys())
def test_counts_are_made_anew_when_the_logs_do_not_go_on_where_folding_ended(
    counters: Counters,
    publisher: Publisher,
    stores: Stores,
    settings: Settings,
    make_users: MakeUsers,
    damage: str,
) -> None:
    author, fan = make_users(2)
    tweet = publisher.post(NewTweet(author, "hello")).id
    reply = publisher.reply(fan, tweet, "hello yourself").id
    with relaying(stores, settings):
        with counting(counters):
            publisher.like(fan, tweet)
            wait_until_counted(stores, settings)
            stores.counts.read([tweet, reply])
        with stores.engine.begin() as connection:
            connection.execute(sa.text(damage))
            connection.execute(sa.text("UPDATE tweet_counts SET likes = 7, retweets = 8, replies = 9"))
            connection.execute(sa.text("INSERT INTO tweet_counts VALUES (5, 1, 1, 1)"))
            connection.execute(sa.text("INSERT INTO likes VALUES (5, 1)"))
        begin(stores.engine, read_state(stores.engine), read_logs(settings.kafka_bootstrap), lambda: None)
        assert [row(stores.engine, one) for one in (tweet, reply, 5)] == [
            TweetCounts(1, 0, 1),
            TweetCounts(),
            TweetCounts(),
        ]
        with counting(make_counters(stores, settings)):
            wait_until_counted(stores, settings)
            check_counts(stores, {tweet: TweetCounts(1, 0, 1), reply: TweetCounts()})


def test_counters_go_on_after_the_database_was_restarted(
    counters: Counters, publisher: Publisher, stores: Stores, settings: Settings, make_users: MakeUsers
) -> None:
    author, fan = make_users(2)
    tweet = publisher.post(NewTweet(author, "hello")).id
    end_sessions = sa.text(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    with relaying(stores, settings), counting(counters) as health:
        with stores.engine.connect() as connection:
            connection.execute(end_sessions)
        wait_until(lambda: health.state is State.WAITING, "counters to notice")
        wait_until(lambda: health.state is State.SERVING, "counters to fold again")
        publisher.like(fan, tweet)
        wait_until_counted(stores, settings)
        check_counts(stores, {tweet: TweetCounts(1)})
