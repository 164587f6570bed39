"""The queries of rebuilds and pages on a real database against a plain oracle, over authors who post very unevenly."""

from random import Random

import pytest
import sqlalchemy as sa

from consumers.page_queries import ids_of
from infra.rebuild import read_snapshots
from infra.timeline_windows import Span
from infra.timelines import Kind

READERS = range(1, 4)
AUTHORS = range(10, 60)
BASE = 10**18


class World:
    """Who follows whom, and who posted what; written into the tables."""

    def __init__(self, engine: sa.Engine, random: Random) -> None:
        self.follows = {reader: set(random.sample(AUTHORS, random.choice([0, 1, 5, 50]))) for reader in READERS}
        self.celebrities = set(random.sample(AUTHORS, 3))
        self.author_of: dict[int, int] = {}
        self.dead: set[int] = set()
        self.retweets: dict[int, int] = {}
        weights = [random.choice([0, 0, 1, 1, 5, 100]) for _ in AUTHORS]
        for number in range(random.choice([0, 30, 400])):
            tweet = BASE + number * 7
            if random.random() < 0.1 and self.author_of:
                self.retweets[tweet] = random.choice([one for one in self.author_of if one not in self.retweets])
            self.author_of[tweet] = random.choices(AUTHORS, [*weights[:-1], 1])[0]
        self.dead = {one for one in self.author_of if random.random() < 0.1}
        self._write(engine)

    def live(self, authors: set[int]) -> list[int]:
        """Ascending."""
        alive = {one for one in self.author_of if one not in self.dead and self.retweets.get(one) not in self.dead}
        return sorted(one for one in alive if self.author_of[one] in authors)

    def _write(self, engine: sa.Engine) -> None:
        users = [
            {"id": user, "handle": f"u{user}", "status": "pull" if user in self.celebrities else "push"}
            for user in (*READERS, *AUTHORS)
        ]
        tweets = [
            {"id": one, "author": author, "original": self.retweets.get(one), "dead": one in self.dead}
            for one, author in self.author_of.items()
        ]
        follows = [{"f": reader, "a": author} for reader, authors in self.follows.items() for author in authors]
        with engine.begin() as connection:
            connection.execute(sa.text("INSERT INTO users (id, handle, status) VALUES (:id, :handle, :status)"), users)
            if follows:
                connection.execute(sa.text("INSERT INTO follows (follower_id, author_id) VALUES (:f, :a)"), follows)
            if tweets:
                connection.execute(_TWEET, tweets)


_TWEET = sa.text(
    "INSERT INTO tweets (id, author_id, text, created_at, retweet_of, deleted_at) "
    "VALUES (:id, :author, 'hi', now(), CAST(:original AS bigint), CASE WHEN :dead THEN now() END)"
)


@pytest.mark.parametrize("seed", range(15))
def test_queries_find_what_the_oracle_does(engine: sa.Engine, seed: int) -> None:
    random = Random(seed)
    world = World(engine, random)

    for length in (1, 2, 10, 80, 800):
        snapshots = {one.user_id: one for one in read_snapshots(engine, Kind.HOME, list(READERS), length)}
        for reader in READERS:
            expected = world.live(world.follows[reader] - world.celebrities)
            floor = expected[-length - 1] if len(expected) > length else 0
            assert (snapshots[reader].floor, snapshots[reader].ids) == (floor, " ".join(map(str, expected[-length:])))

    for count in (1, 7, 50, 1_000):
        cursor = random.choice([None, BASE, BASE + 700, BASE + 701, BASE + 10_000])
        for reader in READERS:
            expected = world.live(world.follows[reader] | {reader})
            below = [one for one in reversed(expected) if cursor is None or one < cursor]
            above = [one for one in expected if one >= (cursor or 0)]
            assert ids_of(engine, Kind.HOME, reader, Span(cursor, count)) == below[:count]
            assert ids_of(engine, Kind.HOME, reader, Span(cursor or 0, count, upwards=True)) == above[:count]
