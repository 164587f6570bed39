"""The simulator's database in memory answers each statement of the product as PostgreSQL does."""

from collections.abc import Callable, Mapping
from random import Random
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa

from consumers import page_queries
from infra import celebrities, outbox, rebuild, tweet_bodies
from infra.events import Activity, ActivityType
from infra.status import Standing, Status
from infra.timelines import Kind
from producers import relay, status_keeper
from streams import deliver, fan_out, verify
from streams.follower_index import read_followers
from tests.simulator.database import Database, Tweet, User
from tests.simulator.statements import MEANINGS, Connection, Engine

SEEDS = range(3)
USERS, TWEETS = 8, 40
BASE = 10**18

STANDINGS = [Standing(), *(Standing(status, before) for status in Status for before in Status)]

Parameters = Mapping[str, Any]


class World:
    """The same rows in both databases."""

    def __init__(self, seed: int, engine: sa.Engine) -> None:
        self.rng = Random(seed)
        self.engine = engine
        self.memory = Database()
        rng = self.rng
        for number in range(USERS):
            self.memory.users[number + 1] = User(rng.choice(STANDINGS))
        ids = list(self.memory.users)
        self.memory.follows = {(one, other) for one in ids for other in ids if one != other and rng.random() < 0.5}
        for number in range(TWEETS):
            originals = [one.id for one in self.memory.tweets.values() if one.retweet_of is None]
            retweet_of = rng.choice(originals) if originals and rng.random() < 0.3 else None
            self.memory.add(Tweet(BASE + number, rng.choice(ids), retweet_of, deleted=rng.random() < 0.2))
        self._write()

    def _write(self) -> None:
        with self.engine.begin() as connection:
            for user, row in self.memory.users.items():
                connection.execute(
                    sa.text(
                        "INSERT INTO users (id, handle, status, status_before) VALUES (:id, :handle, :status, :before)"
                    ),
                    {
                        "id": user,
                        "handle": f"u{user}",
                        "status": row.standing.status,
                        "before": row.standing.before,
                    },
                )
                followers = len(self.memory.followers_of(user))
                connection.execute(
                    sa.text("INSERT INTO follower_counts (author_id, followers) VALUES (:id, :followers)"),
                    {"id": user, "followers": followers},
                )
            for follower, author in self.memory.follows:
                connection.execute(
                    sa.text("INSERT INTO follows (follower_id, author_id) VALUES (:f, :a)"),
                    {"f": follower, "a": author},
                )
            for tweet in self.memory.tweets.values():
                connection.execute(
                    sa.text(
                        "INSERT INTO tweets (id, author_id, text, created_at, retweet_of, deleted_at) VALUES "
                        "(:id, :author, 'text', now(), :of, CASE WHEN :deleted THEN now() END)"
                    ),
                    {"id": tweet.id, "author": tweet.author, "of": tweet.retweet_of, "deleted": tweet.deleted},
                )

    def both(self, statement: sa.TextClause, given: Parameters) -> tuple[list[Any], list[Any]]:
        """The answers of PostgreSQL and of the memory."""
        with self.engine.begin() as connection:
            result = connection.execute(statement, dict(given))
            real = [tuple(row) for row in result] if result.returns_rows else []
        return real, [tuple(row) for row in Connection(self.memory).execute(statement, given)]

    def some_users(self) -> list[int]:
        """Users, and one who does not exist."""
        return [*self.rng.sample(list(self.memory.users), 4), USERS + 1]

    def some_tweets(self) -> list[int]:
        """Tweets, and one that does not exist."""
        return [*self.rng.sample(list(self.memory.tweets), 20), BASE + TWEETS]

    def some_length(self) -> int:
        """From none to more than there are."""
        return self.rng.choice([1, 3, 8, 80])


@pytest.fixture(params=SEEDS)
def world(request: pytest.FixtureRequest, engine: sa.Engine) -> World:
    return World(request.param, engine)


def page(world: World) -> Parameters:
    return {
        "user": world.rng.choice(world.some_users()),
        "cursor": BASE + world.rng.randrange(TWEETS),
        "count": world.rng.choice([1, 5, 80]),
    }


def pairs(world: World) -> Parameters:
    users = [world.rng.choice(world.some_users()) for _ in range(20)]
    authors = [world.rng.choice(world.some_users()) for _ in range(20)]
    distinct = dict.fromkeys(zip(authors, users, strict=True))
    return {"authors": [author for author, _ in distinct], "followers": [follower for _, follower in distinct]}


def users_and_length(world: World) -> Parameters:
    existing = [user for user in world.some_users() if user <= USERS]
    return {"users": existing, "length": world.some_length()}


READS: dict[str, tuple[sa.TextClause, Callable[[World], Parameters]]] = {
    "standings and live": (
        fan_out._STANDINGS_AND_LIVE,
        lambda world: {"authors": world.some_users(), "tweets": world.some_tweets()},
    ),
    "pairs": (fan_out._PAIRS, pairs),
    "newest": (fan_out._NEWEST, lambda world: {"ids": world.some_users(), "limit": world.some_length()}),
    "retweets": (fan_out._RETWEETS, lambda world: {"ids": world.some_tweets(), "limit": world.some_length()}),
    "of authors": (
        deliver._OF_AUTHORS,
        lambda world: {"authors": world.some_users(), "ids": world.some_tweets()},
    ),
    "live": (verify._LIVE, lambda world: {"tweets": world.some_tweets()}),
    "standings": (verify._STANDINGS, lambda world: {"authors": world.some_users()}),
    "not following": (
        verify._NOT_FOLLOWING,
        lambda world: {name: verify._as_array(np.array(ids)) for name, ids in pairs(world).items()},
    ),
    "home snapshot": (rebuild._HOME_SNAPSHOT, users_and_length),
    "user snapshot": (rebuild._USER_SNAPSHOT, users_and_length),
    "celebrities": (celebrities._CELEBRITIES, lambda world: {"ids": world.some_users()}),
    "candidates": (status_keeper._CANDIDATES, lambda world: {"threshold": world.rng.randint(1, USERS)}),
    "left": (status_keeper._LEFT, lambda world: {"last": world.rng.randint(0, 3)}),
    "user": (page_queries._USER, lambda world: {"id": world.rng.choice(world.some_users())}),
    **{f"below {kind}": (page_queries._BELOW[kind], page) for kind in Kind},
    **{f"from {kind}": (page_queries._FROM[kind], page) for kind in Kind},
}
ORDERED = ("below", "from", "retweets")


@pytest.mark.parametrize("name", READS)
def test_a_question_gets_the_same_answer(world: World, name: str) -> None:
    statement, parameters = READS[name]
    for _ in range(5):
        real, memory = world.both(statement, parameters(world))
        ordered = name.startswith(ORDERED)
        assert (real if ordered else sorted(real)) == (memory if ordered else sorted(memory))


def test_bodies_of_live_tweets_are_the_same(world: World) -> None:
    real, memory = world.both(tweet_bodies._READ, {"ids": world.some_tweets()})

    assert sorted(row[:2] + row[4:] for row in real) == sorted(row[:2] + row[4:] for row in memory)


def test_followers_are_the_same(world: World) -> None:
    users = world.some_users()

    real = {
        author: sorted(ids[at : at + 8] for at in range(0, len(ids), 8))
        for author, ids in read_followers(world.engine, users)
    }
    memory = {
        author: sorted(ids[at : at + 8] for at in range(0, len(ids), 8))
        for author, ids in Engine(world.memory).followers(users)
    }

    assert real == memory


def test_deleting_retweets_is_the_same(world: World) -> None:
    real, memory = world.both(fan_out._DELETE, {"ids": [one for one in world.some_tweets() if one < BASE + TWEETS]})

    assert sorted(row[:2] for row in real) == sorted(row[:2] for row in memory)
    with world.engine.connect() as connection:
        deleted = set(connection.execute(sa.text("SELECT id FROM tweets WHERE deleted_at IS NOT NULL")).scalars())
    assert deleted == {one.id for one in world.memory.tweets.values() if one.deleted}


def test_the_outbox_is_the_same(world: World) -> None:
    events = [Activity(ActivityType.POSTED, author, BASE + author, 5) for author in (3, 1, 2)]
    with world.engine.begin() as connection:
        outbox.append(connection, events)
    outbox.append(Connection(world.memory), events)  # type: ignore[arg-type]

    assert rows_of(world.engine) == [(row.key, row.type, row.payload) for row in world.memory.outbox]

    with world.engine.connect() as connection:
        first = connection.execute(sa.text("SELECT min(id) FROM outbox")).scalar_one()
    with world.engine.begin() as connection:
        connection.execute(relay._REMOVE, {"ids": [first]})
    Connection(world.memory).execute(relay._REMOVE, {"ids": [world.memory.outbox[0].id]})

    assert rows_of(world.engine) == [(row.key, row.type, row.payload) for row in world.memory.outbox]


def rows_of(engine: sa.Engine) -> list[tuple[str, str, str]]:
    with engine.connect() as connection:
        rows = connection.execute(sa.text("SELECT aggregateid, type, payload FROM outbox ORDER BY id"))
        return [tuple(row) for row in rows]


def test_a_step_of_a_status_is_the_same(world: World) -> None:
    for user, row in list(world.memory.users.items()):
        given = {"id": user, "old": world.rng.choice(list(Status)), "event": None, "new": "both", "before": "push"}
        with world.engine.begin() as connection:
            real = connection.execute(status_keeper._CHANGE, given).rowcount
        assert real == Connection(world.memory).execute(status_keeper._CHANGE, given).rowcount
        events = [Activity(ActivityType.STATUS_CHANGED, user, user, 5)]
        with world.engine.begin() as connection:
            outbox.append(connection, events)
            connection.execute(status_keeper._NOTE_EVENT, {"id": user})
            last = connection.execute(sa.text("SELECT max(id) FROM outbox")).scalar_one()
        memory = Connection(world.memory)
        outbox.append(memory, events)  # type: ignore[arg-type]
        memory.execute(status_keeper._NOTE_EVENT, {"id": user})
        assert row.status_event == world.memory.outbox[-1].id
        with world.engine.connect() as connection:
            found = connection.execute(
                sa.text("SELECT status, status_before, status_event FROM users WHERE id = :id"), {"id": user}
            ).one()
        assert (found.status, found.status_before, found.status_event) == (
            row.standing.status,
            row.standing.before,
            last,
        )


def test_every_statement_with_a_meaning_is_compared() -> None:
    """Locks, and the note that a user is active, change no answer."""
    compared = {statement.text for statement, _ in READS.values()}
    compared |= {tweet_bodies._READ.text, fan_out._DELETE.text, outbox._APPEND.text, relay._REMOVE.text}
    compared |= {status_keeper._CHANGE.text, status_keeper._NOTE_EVENT.text}
    silent = {text for text, meaning in MEANINGS.items() if meaning.__name__ == "_nothing"}

    assert set(MEANINGS) == compared | silent
