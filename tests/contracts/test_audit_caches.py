"""The audit of what is held beside home timelines, on real servers: clean when all is right, and red for each fault."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import sqlalchemy as sa

from consumers import audit_caches as audited
from consumers.audit_caches import CacheResult, audit_caches, held_ids
from consumers.audit_pauses import LOOK_AGAIN_AFTER_S, LOOKS_MAX_S, Pauses
from consumers.read_timeline import TimelineReader
from infra import redis_keys
from infra.composition import Stores
from infra.errors import RedisUnavailable
from infra.paging import Cursor
from infra.redis_node import Argument
from infra.tweet_bodies import TOMBSTONE, encode_body
from producers.publish import NewTweet, Publisher, Tweet, need_all
from streams import fan_out

MakeUsers = Callable[[int], list[int]]


@dataclass(frozen=True)
class Held:
    """What a reader left in all clusters: his own tweets, those of a celebrity, and one that was deleted."""

    stores: Stores
    reader: int
    star: int
    plain: int
    tweet: Tweet
    deleted: Tweet

    def damage(self, owner: int, *command: Argument) -> None:
        """One command on the node that holds the owner's slot in cluster b."""
        self.stores.clusters.node_for("b", owner).command(*command)

    def audit(self, sample: int | None = None) -> CacheResult:
        return audit_caches(self.stores.engine, self.stores.timelines, sample=sample, pause=lambda _: None)


@pytest.fixture
def held(stores: Stores, publisher: Publisher, engine: sa.Engine, make_users: MakeUsers) -> Held:
    reader, star, plain = make_users(3)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE users SET status = 'pull' WHERE id = :id"), {"id": star})
    publisher.follow_many([(reader, star), (reader, plain)])
    tweet, deleted = (publisher.post(NewTweet(star, text)) for text in ("stays", "goes"))
    publisher.post(NewTweet(reader, "my own"))
    publisher.retweet(reader, deleted.id)
    publisher.delete(deleted.id)
    TimelineReader(stores).home(reader, Cursor())
    return Held(stores, reader, star, plain, tweet, deleted)


def test_what_readers_and_publishers_leave_is_right(held: Held) -> None:
    result = held.audit()

    assert result.differences == ()
    assert result.wrong == 0
    assert result.parts["user_timelines"] == {"held": 6, "wrong": 0, "entries": 6}
    assert result.parts["celebrity_sets"] == {"held": 3, "wrong": 0}
    assert result.parts["bodies"]["tombstones"] == 3
    assert result.parts["bodies"]["held"] >= 6
    assert result.as_json().keys() == {"user_timelines", "celebrity_sets", "bodies", "differences"}


def test_the_body_of_a_retweet_whose_own_delete_has_come_too_is_no_difference(held: Held) -> None:
    fan_out._delete_retweets(held.stores.engine, [held.deleted.id])

    assert held.audit().differences == ()


def test_each_fault_is_found_and_said(held: Held) -> None:
    own, followed = redis_keys.user_timeline(held.star), redis_keys.celebrities(held.reader)
    tweet, gone = held.tweet.id, held.deleted.id
    body, buried = redis_keys.body(tweet), redis_keys.body(gone)
    as_it_was = encode_body(held.stores.bodies.read([held.tweet.id])[held.tweet.id])
    other = as_it_was.replace(b"stays", b"other")
    faults: list[tuple[int, tuple[Argument, ...], tuple[Argument, ...], str]] = [
        (
            held.star,
            ("LREM", own, 1, tweet),
            ("RPUSH", own, tweet),
            f"tweet {tweet} is missing",
        ),
        (held.star, ("RPUSH", own, tweet), ("LREM", own, 1, tweet), "is duplicate"),
        (held.star, ("RPUSH", own, gone), ("LREM", own, 1, gone), "is unexpected"),
        (
            held.reader,
            ("SREM", followed, held.star),
            ("SADD", followed, held.star),
            f"celebrity {held.star} is missing",
        ),
        (held.reader, ("SADD", followed, held.plain), ("SREM", followed, held.plain), f"{held.plain} is no celebrity"),
        (tweet, ("SET", body, other), ("SET", body, as_it_was), "another one than the database has"),
        (tweet, ("SET", body, TOMBSTONE), ("SET", body, as_it_was), "there is a tombstone, but it is live"),
        (
            gone,
            ("SET", buried, as_it_was),
            ("SET", buried, TOMBSTONE),
            "there is a body, but it was deleted",
        ),
    ]
    for owner, damage, mend, words in faults:
        held.damage(owner, *damage)
        result = held.audit()
        assert result.wrong == 1, words
        assert result.differences[0].startswith("cluster b, ")
        assert words in result.differences[0]
        held.damage(owner, *mend)
        assert held.audit().wrong == 0


def test_what_is_under_a_token_or_left_of_an_earlier_placement_does_not_count(held: Held) -> None:
    own, followed = redis_keys.user_timeline(held.star), redis_keys.celebrities(held.reader)
    held.damage(held.star, "LSET", own, 0, "-5")
    held.damage(held.reader, "SREM", followed, "0")
    clusters = held.stores.clusters
    here = clusters.node_for("a", held.star).name
    [elsewhere] = [name for name in clusters.shard_map.nodes_of("a") if name != here]
    clusters.node(elsewhere).command("RPUSH", own, "0", "123")

    result = held.audit()

    assert result.wrong == 0
    assert result.parts["user_timelines"]["held"] == 5
    assert result.parts["celebrity_sets"]["held"] == 2
    assert held_ids(clusters, "a", redis_keys.USER, Pauses(time.sleep)) == sorted([held.reader, held.star])


def test_a_sample_looks_at_some_of_each_kind(held: Held) -> None:
    assert {part: counts["held"] for part, counts in held.audit(sample=1).parts.items() if part != "bodies"} == {
        "user_timelines": 3,
        "celebrity_sets": 3,
    }


def test_very_many_differences_are_waited_for_in_bounded_time(
    held: Held, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audited, "BATCH_KEYS", 1)
    tweets = need_all(publisher.post_many([NewTweet(held.star, f"{number}") for number in range(20)]))
    for tweet in tweets:
        held.damage(tweet.id, "SET", redis_keys.body(tweet.id), TOMBSTONE)
    pauses: list[float] = []

    result = audit_caches(held.stores.engine, held.stores.timelines, pause=pauses.append)

    assert result.parts["bodies"]["wrong"] == len(tweets)
    assert LOOKS_MAX_S <= sum(pauses) < LOOKS_MAX_S + max(LOOK_AGAIN_AFTER_S)


@pytest.mark.parametrize("asked", ["look", "command", "commands"])  # a dump, a scan, and what else is read
def test_a_node_that_does_not_answer_at_once_ends_no_audit(
    held: Held, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    node, pauses = held.stores.clusters.node_for("b", held.reader), list[float]()  # it has a list of his, and a set
    answer = getattr(node, asked)

    def once_silent(*arguments: Any) -> object:
        if not pauses:
            raise RedisUnavailable("no answer")
        return answer(*arguments)

    monkeypatch.setattr(node, asked, once_silent)
    result = audit_caches(held.stores.engine, held.stores.timelines, pause=pauses.append)
    assert len(pauses) == 1
    assert result.differences == ()
    assert result.parts == held.audit().parts


def test_what_comes_right_while_it_is_looked_at_again_is_no_difference(held: Held) -> None:
    own = redis_keys.user_timeline(held.star)
    held.damage(held.star, "LREM", own, 1, held.tweet.id)

    def pause(_: float) -> None:
        held.damage(held.star, "LREM", own, 1, held.tweet.id)
        held.damage(held.star, "RPUSH", own, held.tweet.id)

    assert audit_caches(held.stores.engine, held.stores.timelines, pause=pause).wrong == 0
