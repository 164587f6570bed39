"""Dead letters that are redriven or dropped, on real servers: no ghost comes back, each once, in their order."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from confluent_kafka import Consumer, Message, TopicPartition
from typer.testing import CliRunner

from infra.cli import build_app
from infra.composition import Stores
from infra.dead_letters import DeadLetter, DeadLetters, Headers, Stage
from infra.errors import Conflict, Undecodable
from infra.events import (
    REPLAY_HEADER,
    Activity,
    ActivityType,
    Delivery,
    DeliveryKind,
    decode_activity,
    decode_deliveries,
    encode_activity,
    encode_deliveries,
    is_replayed,
    one_chunk,
)
from infra.kafka import TransactionalProducer
from infra.kafka_logs import PARTITION_END
from infra.reactions import Reaction, ReactionType, encode_reaction, reactions_partition
from infra.rebuild import rebuild
from infra.shard_map import CLUSTERS
from infra.slots import slot_of
from infra.timelines import Kind
from infra.topics import ACTIVITY, DELIVERIES, MESSAGE_BYTES_MAX, REACTIONS, Topic
from producers.publish import NewTweet, Publisher
from streams.clear_letters import TRANSACTIONAL_ID, Clearing, Fate, clear
from streams.dead_letters_done import DoneLetters, Outcome
from streams.deliver import Deliverer, receive
from streams.fan_out import FanOut, pack_messages, read_facts
from streams.letter_filter import Offsets, Wanted
from streams.read_dead_letters import Buried, read_range, reader
from tests.services import Services

MakeUsers = Callable[[int], list[int]]
PUBLISHED_MS = 5


class Yard:
    """One topic of dead letters from the moment this was made, and what comes into its log."""

    def __init__(self, bootstrap: str, topic: Topic) -> None:
        self.topic, self.bootstrap = topic, bootstrap
        with reader(bootstrap) as consumer:
            self._first = read_range(consumer, topic.dead_letters)[1]
            places = [TopicPartition(topic.name, one) for one in range(topic.partitions)]
            self._starts = [consumer.get_watermark_offsets(place, 20)[1] for place in places]

    def bury(
        self,
        value: bytes | None,
        key: bytes | None = None,
        partition: int = 0,
        offset: int = 0,
        headers: Headers = (),  # type: ignore[assignment]
    ) -> int:
        """Returns the letter's offset."""
        reason = Undecodable("no version")
        letter = DeadLetter(
            self.topic.name, partition, offset, 1, key, value, list(headers), "agent", Stage.HANDLE, "X", reason
        )
        DeadLetters(self.bootstrap).send([letter])
        with reader(self.bootstrap) as consumer:
            return read_range(consumer, self.topic.dead_letters)[1] - 1

    def clear(
        self, outcome: Outcome = Outcome.REDRIVEN, wanted: Wanted | None = None, *, execute: bool = True
    ) -> list[Fate]:
        """What became of this test's letters."""
        fates: list[Fate] = []
        wanted = wanted or Wanted(Offsets(self._first))

        def report(letter: Buried, fate: Fate) -> None:
            fates.append(fate)

        clear(Clearing(self.bootstrap, wanted, outcome, execute), [self.topic.dead_letters], report)
        return fates

    def log(self) -> list[Message]:
        """What is in the log since, partition by partition."""
        consumer = Consumer({"bootstrap.servers": self.bootstrap, "group.id": "test", "enable.partition.eof": True})
        consumer.assign([TopicPartition(self.topic.name, one, start) for one, start in enumerate(self._starts)])
        found: list[Message] = []
        open_ = set(range(self.topic.partitions))
        while open_:
            message = consumer.poll(20)
            assert message is not None, f"partitions {open_} of {self.topic.name} do not end"
            if message.error() is None:
                found.append(message)
            else:
                assert message.error().code() == PARTITION_END
                open_.discard(message.partition())
        consumer.close()
        return sorted(found, key=lambda message: (message.partition(), message.offset()))


@pytest.fixture
def activity(services: Services) -> Yard:
    return Yard(services.kafka_bootstrap, ACTIVITY)


@pytest.fixture
def deliveries(services: Services) -> Yard:
    return Yard(services.kafka_bootstrap, DELIVERIES)


@pytest.fixture
def reactions(services: Services) -> Yard:
    return Yard(services.kafka_bootstrap, REACTIONS)


class Pair:
    """An author with tweets and a reader with a home timeline, and both agents' work without a worker around it."""

    def __init__(self, stores: Stores, publisher: Publisher, make_users: MakeUsers) -> None:
        self.stores, self.publisher = stores, publisher
        self.reader, self.author = make_users(2)
        self.tweets = [publisher.post(NewTweet(self.author, text)).id for text in ("one", "two")]
        rebuild(stores.engine, stores.timelines, Kind.HOME, [self.reader])
        self.partition = slot_of(self.reader) % DELIVERIES.partitions
        self._deliverer = Deliverer(stores.engine, stores.timelines, self.partition, generation=1)
        self._offset = 0

    def event(self, kind: ActivityType) -> Activity:
        return Activity(kind, self.author, self.reader, PUBLISHED_MS)

    def merge(self) -> Delivery:
        ids = np.array([0, *self.tweets], dtype=np.uint64)
        return one_chunk(DeliveryKind.MERGE, self.author, PUBLISHED_MS, [self.reader], ids)

    def fan_out(self, *events: Activity) -> None:
        length = self.stores.timelines.live.timeline_entries
        facts = read_facts(self.stores.engine, events, length)
        fan_out = FanOut(self.stores.engine)
        for message in pack_messages(fan_out.plan(events, facts, length)):
            assert message.partition == self.partition
            self.deliver(message.value)
        fan_out.close()

    def deliver(self, value: bytes | None) -> None:
        self._offset += 1
        self._deliverer.apply([receive(self._offset, value)])

    def home(self) -> list[int]:
        timelines = self.stores.timelines
        [found] = {
            tuple(int(one) for one in timelines.dump(cluster, Kind.HOME, [self.reader])[self.reader][1:])
            for cluster in CLUSTERS
        }
        return list(found)


@pytest.fixture
def pair(stores: Stores, publisher: Publisher, make_users: MakeUsers) -> Pair:
    return Pair(stores, publisher, make_users)


def follow_event(author: int, follower: int) -> bytes:
    return encode_activity(Activity(ActivityType.FOLLOWED, author, follower, PUBLISHED_MS)).encode()


def test_a_follow_that_is_redriven_after_its_unfollow_brings_no_ghost(activity: Yard, pair: Pair) -> None:
    pair.publisher.follow(pair.reader, pair.author)
    activity.bury(encode_activity(pair.event(ActivityType.FOLLOWED)).encode(), str(pair.author).encode())
    pair.publisher.unfollow(pair.reader, pair.author)
    pair.fan_out(pair.event(ActivityType.UNFOLLOWED))

    assert [fate.name for fate in activity.clear()] == ["redriven"]

    [sent] = activity.log()
    assert (sent.key(), is_replayed(sent.headers())) == (str(pair.author).encode(), True)
    pair.fan_out(decode_activity(sent.value(), replayed=is_replayed(sent.headers())))
    assert pair.home() == []


def test_a_follow_that_is_redriven_and_still_holds_is_applied(activity: Yard, pair: Pair) -> None:
    pair.publisher.follow(pair.reader, pair.author)
    activity.bury(encode_activity(pair.event(ActivityType.FOLLOWED)).encode(), str(pair.author).encode())

    activity.clear()

    [sent] = activity.log()
    pair.fan_out(decode_activity(sent.value(), replayed=is_replayed(sent.headers())))
    assert pair.home() == pair.tweets


def test_a_merge_that_is_redriven_after_the_unfollow_brings_no_ghost(deliveries: Yard, pair: Pair) -> None:
    pair.publisher.follow(pair.reader, pair.author)
    deliveries.bury(encode_deliveries([pair.merge()]), None, pair.partition)
    pair.publisher.unfollow(pair.reader, pair.author)
    pair.fan_out(pair.event(ActivityType.UNFOLLOWED))

    assert [fate.name for fate in deliveries.clear()] == ["redriven"]

    [sent] = deliveries.log()
    assert sent.partition() == pair.partition
    pair.deliver(sent.value())
    assert pair.home() == []


def test_deliveries_that_still_hold_are_applied_when_they_are_redriven(deliveries: Yard, pair: Pair) -> None:
    pair.publisher.follow(pair.reader, pair.author)
    deleted = pair.publisher.post(NewTweet(pair.author, "deleted since")).id
    records = [one_chunk(DeliveryKind.DELIVER, tweet, PUBLISHED_MS, [pair.reader]) for tweet in (*pair.tweets, deleted)]
    deliveries.bury(encode_deliveries(records), None, 3 - pair.partition)  # where it was does not matter
    pair.publisher.delete(deleted, pair.author)

    deliveries.clear()

    [sent] = deliveries.log()
    assert sent.partition() == pair.partition
    assert all(record.verify for record in decode_deliveries(sent.value()))
    pair.deliver(sent.value())
    assert pair.home() == pair.tweets


def test_letters_of_one_author_keep_their_order_under_his_key_and_their_own_headers(activity: Yard) -> None:
    author = 41
    headers: Headers = [("ce_id", b"7"), ("traceparent", b"t")]
    for follower in range(1, 6):
        activity.bury(follow_event(author, follower), b"another key", headers=headers)

    assert len(activity.clear()) == 5

    sent = activity.log()
    assert [decode_activity(one.value()).other_id for one in sent] == [1, 2, 3, 4, 5]
    assert {one.key() for one in sent} == {b"41"}
    assert sent[0].headers() == [*headers, (REPLAY_HEADER, b"dlq-redrive")]


def test_each_letter_is_redriven_once_and_is_not_listed_again(activity: Yard) -> None:
    first, second = (activity.bury(follow_event(41, follower)) for follower in (1, 2))

    assert [fate.name for fate in activity.clear(execute=False)] == ["redriven", "redriven"]
    assert activity.log() == []
    activity.clear(wanted=Wanted(Offsets(first, first)))
    done = DoneLetters(activity.bootstrap, [ACTIVITY.dead_letters]).of(ACTIVITY.dead_letters)
    assert (done[first].outcome, second in done) == (Outcome.REDRIVEN, False)
    activity.clear()
    assert activity.clear() == []

    assert [decode_activity(one.value()).other_id for one in activity.log()] == [1, 2]


def test_what_is_dropped_is_never_redriven(activity: Yard) -> None:
    activity.bury(follow_event(41, 1))
    assert [fate.name for fate in activity.clear(Outcome.DROPPED)] == ["dropped"]
    assert activity.clear() == []
    assert activity.log() == []


def test_what_cannot_be_redriven_is_refused_and_stays(activity: Yard, deliveries: Yard) -> None:
    too_large = follow_event(41, 1)[:-1] + b',"padding":"%s"}' % (b"x" * MESSAGE_BYTES_MAX)
    for value in (b"\xff no event", None, too_large):
        activity.bury(value)
    two_partitions = [one for one in range(1, 200) if slot_of(one) % DELIVERIES.partitions in (0, 1)][:20]
    deliveries.bury(encode_deliveries([one_chunk(DeliveryKind.DELIVER, 5, 6, two_partitions)]))
    deliveries.bury(encode_deliveries([]))

    refused = activity.clear()
    assert [fate.name for fate in refused] == ["refused"] * 3
    assert [fate.why.split(":")[0] for fate in refused[:2]] == ["it cannot be read"] * 2
    assert refused[2].why.endswith(" bytes, and its log takes 1,048,576")
    assert [fate.why for fate in deliveries.clear()] == [
        "it names timelines of the partitions 0, 1, which no message of ours does: drop it",
        "it names no timeline, so nothing would come of it: drop it",
    ]
    assert activity.log() == deliveries.log() == []
    assert len(activity.clear()) == 3


def test_a_like_that_was_overtaken_is_refused_and_the_last_word_goes(reactions: Yard, services: Services) -> None:
    liked, unliked = ReactionType.LIKED, ReactionType.UNLIKED
    tweet = 77
    partition = reactions_partition(tweet)
    send_reactions(services, Reaction(liked, tweet, 4, PUBLISHED_MS), Reaction(unliked, tweet, 1, PUBLISHED_MS))
    at = [message.offset() for message in reactions.log()]
    for user, kind, offset in (
        (1, liked, at[0]),  # he unliked at at[1]
        (2, liked, at[0]),  # overtaken by the next letter
        (2, unliked, at[1]),
        (3, liked, at[1]),
        (4, unliked, at[1]),  # his word in the log is older
        (5, liked, at[1] + 1_000),  # not in this log
    ):
        reactions.bury(encode_reaction(Reaction(kind, tweet, user, PUBLISHED_MS)), b"77", partition, offset)

    fates = reactions.clear()

    assert [fate.name for fate in fates] == ["refused", "refused", "redriven", "redriven", "redriven", "refused"]
    assert fates[0].why.startswith("user 1 has said something later about tweet 77")
    assert [(one.key(), one.partition()) for one in reactions.log()[2:]] == [(b"77", partition)] * 3


def send_reactions(services: Services, *some: Reaction) -> None:
    from infra.kafka import Message as Sent

    producer = TransactionalProducer(services.kafka_bootstrap, "test-reactions")
    producer.send([Sent(REACTIONS.name, encode_reaction(one), one.key) for one in some])
    producer.close()


def test_a_second_process_takes_over_and_the_first_one_says_so(activity: Yard) -> None:
    activity.bury(follow_event(41, 1))
    activity.bury(follow_event(41, 2))

    def begin_another(letter: Buried) -> bool:
        TransactionalProducer(activity.bootstrap, TRANSACTIONAL_ID).close()
        return True

    class Meddling(Wanted):
        def matches(self, letter: Buried) -> bool:
            return super().matches(letter) and begin_another(letter)

    with pytest.raises(Conflict, match="another process began to redrive or drop dead letters"):
        activity.clear(wanted=Meddling(Offsets(activity._first)))
    assert activity.log() == []
    assert len(activity.clear()) == 2


def fanfold(services: Services, tmp_path: Path, *words: str) -> tuple[int, str, str]:
    environ = {"FANFOLD_KAFKA_BOOTSTRAP": services.kafka_bootstrap}
    done = CliRunner().invoke(build_app("dlq"), ["--data-dir", str(tmp_path), "dlq", *words], env=environ)
    return done.exit_code, done.stdout, f"{done.stderr}{done.exception or ''}"


def listed(services: Services, tmp_path: Path, *words: str) -> Sequence[int]:
    code, shown, _ = fanfold(services, tmp_path, "list", "--topic", "activity", "--limit", "1000", "--json", *words)
    assert code == 0
    [yard] = json.loads(shown)["topics"]
    assert yard["count"] == len(yard["letters"])
    return [letter["offset"] for letter in yard["letters"]]


def test_the_command_says_what_became_of_each_letter(activity: Yard, services: Services, tmp_path: Path) -> None:
    key = str(activity._first + 10**12)
    good, bad = activity.bury(follow_event(41, 1), key.encode(), 3), activity.bury(b"\xff", key.encode(), 4)
    mine = "--key", key

    code, shown, said = fanfold(services, tmp_path, "redrive", *mine)
    assert code == 1
    assert f"activity.dlq {good} (was activity/3/0) would be redriven\n" in shown
    assert "1 redriven, 1 refused (nothing was done: add --execute)" in shown
    assert "1 of 2 dead letters were refused and stay where they are" in said
    code, shown, _ = fanfold(services, tmp_path, "redrive", *mine, "--execute", "--json")
    result = json.loads(shown)
    assert (code, result["executed"], result["redriven"], result["refused"]) == (1, True, 1, 1)
    assert [(one["offset"], one["outcome"]) for one in result["letters"]] == [(good, "redriven"), (bad, "refused")]
    assert (listed(services, tmp_path, *mine), listed(services, tmp_path, *mine, "--all")) == ([bad], [bad, good])
    assert listed(services, tmp_path, *mine, "--partition", "3", "--all", "--reason", "NO VERSION") == [good]
    assert listed(services, tmp_path, *mine, "--older-than", "1h") == []
    assert listed(services, tmp_path, *mine, "--newer-than", "1h", "--offsets", str(bad)) == [bad]
    assert fanfold(services, tmp_path, "drop", *mine, "--execute")[:2] == (
        0,
        f"activity.dlq {bad} (was activity/4/0) dropped\n1 dropped\n",
    )
    assert bad not in listed(services, tmp_path)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--offsets", "9-3"), "the offsets 9-3 end before they begin"),
        (("--offsets", "x"), "'x' is not an offset or a range of them, as in 7 or 7-12"),
        (("--older-than", "soon"), "'soon' is not an age: a number with s, m, h or d"),
        (("--partition", "-1"), "'-1' is not a partition"),
        (("--topic", "tweets"), "'tweets' is not a log with dead letters"),
    ],
)
def test_a_mistake_is_one_sentence_and_nothing_changes(
    services: Services, tmp_path: Path, words: tuple[str, ...], sentence: str
) -> None:
    code, shown, said = fanfold(services, tmp_path, "redrive", *words)
    assert (code, shown) == (2, "")
    assert sentence in " ".join(said.replace("│", " ").split())


def test_done_letters_are_forgotten_once_their_retention_took_them(services: Services) -> None:
    topic, far = ACTIVITY.dead_letters, 10**9
    producer = TransactionalProducer(services.kafka_bootstrap, "test-done")
    producer.send([DoneLetters(services.kafka_bootstrap, [topic]).note(topic, far, Outcome.DROPPED, PUBLISHED_MS)])
    done = DoneLetters(services.kafka_bootstrap, [topic])
    assert far in done.of(topic)
    assert far not in {int(one.key.rpartition(b"/")[2]) for one in done.forget(topic, far) if one.key}

    producer.send([one for one in done.forget(topic, far + 1) if one.key and one.key.endswith(f"/{far}".encode())])

    producer.close()
    assert far not in DoneLetters(services.kafka_bootstrap, [topic]).of(topic)
