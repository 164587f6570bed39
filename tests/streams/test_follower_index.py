"""The index on a real database: it holds what the database says, and follows change it."""

import numpy as np
import pytest
import sqlalchemy as sa

from streams.follower_index import FollowerIndex, pack, partitions_of


def followers(index: FollowerIndex, author: int) -> list[int]:
    return sorted(index.get_all([author])[author].ids.tolist())


@pytest.fixture
def index(engine: sa.Engine) -> FollowerIndex:
    with engine.begin() as connection:
        connection.execute(sa.text("INSERT INTO follows SELECT f, 1 FROM generate_series(10, 59) AS f"))
        connection.execute(sa.text("INSERT INTO follows SELECT f, 2 FROM generate_series(20, 22) AS f"))
    return FollowerIndex(engine)


def test_packed_followers_lie_in_their_partitions() -> None:
    packed = pack(np.arange(1000, dtype=np.uint64))

    for partition, ids in packed.by_partition():
        assert set(partitions_of(ids).tolist()) == {partition}
    assert sorted(packed.ids.tolist()) == list(range(1000))


def test_an_author_without_followers_is_held_too(index: FollowerIndex) -> None:
    assert list(index.get_all([3])[3].by_partition()) == []


def test_followers_come_from_the_database_once(index: FollowerIndex, engine: sa.Engine) -> None:
    assert followers(index, 1) == list(range(10, 60))
    with engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM follows"))

    assert followers(index, 1) == list(range(10, 60))
    assert followers(index, 2) == []


def test_a_follow_event_changes_a_held_author(index: FollowerIndex) -> None:
    followers(index, 2)

    index.set_following(2, {30: True, 20: False, 21: True, 99: False})

    assert followers(index, 2) == [21, 22, 30]


def test_a_follow_event_of_an_author_that_is_not_held_changes_nothing(index: FollowerIndex) -> None:
    index.set_following(2, {30: True})

    assert followers(index, 2) == [20, 21, 22]


def test_the_least_recently_used_author_goes_when_the_bytes_are_used_up(
    engine: sa.Engine, index: FollowerIndex
) -> None:
    small = FollowerIndex(engine, bytes_max=pack(np.arange(50, dtype=np.uint64)).size_bytes + 10)
    followers(small, 1)
    followers(small, 2)
    with engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM follows"))

    assert followers(small, 1) == []
