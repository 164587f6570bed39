"""Copying on real servers: what a copy lacks comes from another cluster's, exactly, or not at all."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import sqlalchemy as sa

from infra import copying, redis_keys
from infra import nudge as nudging
from infra.composition import Stores
from infra.copying import copy_timelines, parcels_of
from infra.nudge import nudge, partitions_untold
from infra.rebuild import rebuild
from infra.redis_clusters import RedisClusters
from infra.settings import Settings
from infra.timelines import Kind, Timelines
from infra.topics import DELIVERIES
from producers.publish import NewTweet, Publisher, need_all
from tests.applying import ONE_FOR_ONE_LIST, Applying
from tests.filling import change_copies, empty_node

READERS = 12
SHORT_S = 5_000


@pytest.fixture
def applying(stores: Stores) -> Applying:
    return Applying(stores)


@pytest.fixture
def readers(stores: Stores, publisher: Publisher, make_users: Callable[[int], list[int]]) -> list[int]:
    """Active users with two tweets at home, two of their own, and a celebrity; cluster b has none of it."""
    author, celebrity, *readers = make_users(READERS + 2)
    publisher.follow_many([(reader, one) for reader in readers for one in (author, celebrity)])
    need_all(publisher.post_many([NewTweet(one, text) for text in "ab" for one in (author, *readers)]))
    with stores.engine.begin() as connection:
        connection.execute(sa.text("UPDATE users SET status = 'pull' WHERE id = :id"), {"id": celebrity})
    stores.timelines.fill_celebrities(readers, lambda users: {one: [celebrity] for one in users})
    for kind in Kind:
        rebuild(stores.engine, stores.timelines, kind, readers)
    for name in ("b1", "b2"):
        empty_node(stores, name)
    return readers


def copy(stores: Stores, users: Sequence[int], kind: Kind = Kind.HOME) -> int:
    return len(copy_timelines(stores.timelines, "b", kind, users))


def listed(stores: Stores, cluster: str, user_id: int, kind: Kind = Kind.HOME) -> list[bytes]:
    return stores.timelines.dump(cluster, kind, [user_id])[user_id]


def celebrities(stores: Stores, cluster: str, user_id: int) -> set[bytes]:
    return set(stores.clusters.node_for(cluster, user_id).command("SMEMBERS", redis_keys.celebrities(user_id)))


def is_free(stores: Stores, user_id: int) -> bool:
    """Whether the next who rebuilds it may do so at once."""
    return stores.timelines.put_tokens("b", Kind.HOME, [user_id], 77, "claim") == {user_id: "T"}


def meanwhile(monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    """Acts once, between the reading of the source and the filling."""
    read, acted = copying._read, list[bool]()

    def read_then_act(*given: Any) -> Any:
        found = read(*given)
        if not acted:
            acted.append(True)
            act()
        return found

    monkeypatch.setattr(copying, "_read", read_then_act)


def test_a_copy_is_like_its_source_and_lives_as_long(stores: Stores, readers: list[int], applying: Applying) -> None:
    applying.nothing()
    for cluster in "ac":
        for reader in readers:
            stores.clusters.node_for(cluster, reader).command("EXPIRE", redis_keys.home_timeline(reader), SHORT_S)

    assert copy(stores, readers) == READERS

    for reader in readers:
        for kind in Kind:
            assert listed(stores, "b", reader, kind) == listed(stores, "a", reader, kind)
            assert len(listed(stores, "b", reader, kind)) == 3
        assert celebrities(stores, "b", reader) == celebrities(stores, "a", reader)
        assert len(celebrities(stores, "b", reader)) == 2
        node = stores.clusters.node_for("b", reader)
        assert SHORT_S - 60 < node.command("TTL", redis_keys.home_timeline(reader)) <= SHORT_S
        assert node.command("TTL", redis_keys.user_timeline(reader)) > SHORT_S
    assert copy(stores, readers) == READERS  # there already


def test_both_other_clusters_give(stores: Stores, readers: list[int]) -> None:
    sources = {parcel.source[0] for parcel in parcels_of(stores.clusters.shard_map, "b", range(1, 1_000), 0)}
    assert sources == {"a", "c"}


def test_what_only_the_second_source_has_comes_from_there(
    stores: Stores, readers: list[int], applying: Applying
) -> None:
    applying.nothing()
    for at, reader in enumerate(readers):
        stores.clusters.node_for("ac"[at % 2], reader).command("DEL", redis_keys.home_timeline(reader))

    assert copy(stores, readers) == READERS


def test_what_is_delivered_under_the_token_is_there(
    stores: Stores, readers: list[int], applying: Applying, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, author = readers[0], 7
    applying.nothing()
    newest = int(listed(stores, "a", reader)[-1])
    between = newest - 1

    def deliver() -> None:
        key = redis_keys.home_timeline(reader)
        for one in (newest + 5, between):
            applying.record(reader, "D", one, key, ONE_FOR_ONE_LIST)
        applying.record(reader, "A", author, redis_keys.celebrities(reader), "")

    meanwhile(monkeypatch, deliver)

    assert copy(stores, [reader]) == 1
    assert listed(stores, "b", reader) == listed(stores, "a", reader)
    assert {b"%d" % between, b"%d" % (newest + 5)} < set(listed(stores, "b", reader))
    assert b"%d" % author in celebrities(stores, "b", reader)


def test_a_removal_meanwhile_is_not_undone(
    stores: Stores, readers: list[int], applying: Applying, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = readers[0]
    applying.nothing()
    gone = int(listed(stores, "a", reader)[1])
    key = redis_keys.home_timeline(reader)
    meanwhile(monkeypatch, lambda: applying.record(reader, "R", gone, key, ONE_FOR_ONE_LIST))

    assert copy(stores, [reader]) == 1  # the second source is read after it
    assert listed(stores, "b", reader) == listed(stores, "a", reader)
    assert b"%d" % gone not in listed(stores, "b", reader)


def test_a_celebrity_who_is_left_meanwhile_is_not_brought_back(
    stores: Stores, readers: list[int], applying: Applying, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = readers[0]
    applying.nothing()
    [celebrity] = celebrities(stores, "a", reader) - {b"0"}
    key = redis_keys.celebrities(reader)
    meanwhile(monkeypatch, lambda: applying.record(reader, "B", int(celebrity), key, ""))

    assert copy(stores, [reader]) == 1
    assert celebrities(stores, "b", reader) == {b"0"}


@pytest.mark.parametrize("behind", ["a call", "a generation"])
def test_a_source_that_is_behind_its_target_is_not_taken(
    stores: Stores, readers: list[int], behind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "READ_AGAIN_S", 0.0)
    reader, applying = readers[0], Applying(stores)
    applying.nothing()
    if behind == "a generation":
        applying = Applying(stores, generation=2)
    new, key = int(listed(stores, "a", reader)[-1]) + 1, redis_keys.home_timeline(reader)
    applying.record(reader, "D", new, key, ONE_FOR_ONE_LIST, clusters="b")

    assert copy(stores, [reader]) == 0
    assert is_free(stores, reader)


def test_a_target_that_was_called_by_nobody_yet_proves_nothing(stores: Stores, readers: list[int]) -> None:
    for name in ("a1", "a2", "c1", "c2"):
        for partition in range(DELIVERIES.partitions):
            fence = stores.clusters.shard_map.fence(name)
            stores.clusters.node(name).call("apply", partition, fence, 1, 1, 1, 0, 800)

    assert copy(stores, readers[:1]) == 0
    assert is_free(stores, readers[0])


def test_whoever_is_cut_off_copies_nothing(
    stores: Stores, readers: list[int], applying: Applying, cut_off: RedisClusters
) -> None:
    applying.nothing()
    timelines = Timelines(cut_off, stores.timelines._live)
    assert copy_timelines(timelines, "b", Kind.HOME, readers) == set()
    assert is_free(stores, readers[0])


def test_a_source_that_is_marked_down_while_it_is_read_is_not_taken(
    stores: Stores, readers: list[int], applying: Applying, monkeypatch: pytest.MonkeyPatch
) -> None:
    applying.nothing()
    still_so = copying._is_still_so

    def mark(clusters: RedisClusters, parcel: copying.Parcel, shard_map: Any) -> bool:
        slots = stores.clusters.shard_map.slots_on(parcel.source)
        change_copies(stores, lambda copies: copies.without_node(parcel.source, slots))
        return still_so(clusters, parcel, shard_map)

    monkeypatch.setattr(copying, "_is_still_so", mark)
    assert copy(stores, readers[:1]) == 0


def test_what_is_under_anothers_token_stays_his_and_is_no_source(
    stores: Stores, readers: list[int], applying: Applying
) -> None:
    busy, unsourced, _ = readers[:3]
    applying.nothing()
    stores.timelines.put_tokens("b", Kind.HOME, [busy], 5, "claim")
    for cluster in "ac":
        stores.timelines.put_tokens(cluster, Kind.HOME, [unsourced], 6, "renew")

    assert copy(stores, readers) == READERS - 2
    assert listed(stores, "b", busy) == [b"-5"]
    assert is_free(stores, unsourced)


def test_what_the_target_cannot_restore_is_left_to_the_database(
    stores: Stores, readers: list[int], applying: Applying, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the target is an older server than the source."""
    applying.nothing()
    read = copying._read

    def of_another_version(*given: Any) -> Any:
        return [b"\x7f" + one[1:] if isinstance(one, bytes) else one for one in read(*given)]

    monkeypatch.setattr(copying, "_read", of_another_version)
    assert copy(stores, readers[:1]) == 0
    assert celebrities(stores, "b", readers[0]) == set()
    assert is_free(stores, readers[0])


def test_who_lacks_own_tweets_at_the_source_gets_the_home_timeline(
    stores: Stores, readers: list[int], applying: Applying
) -> None:
    """And is not counted as somebody who has all."""
    applying.nothing()
    for cluster in "ac":
        stores.clusters.node_for(cluster, readers[0]).command("DEL", redis_keys.user_timeline(readers[0]))

    assert copy(stores, readers) == READERS - 1
    assert listed(stores, "b", readers[0]) == listed(stores, "a", readers[0])


def test_user_timelines_are_copied_alone(stores: Stores, readers: list[int], applying: Applying) -> None:
    applying.nothing()
    assert copy(stores, readers, Kind.USER) == READERS
    assert listed(stores, "b", readers[0], Kind.USER) == listed(stores, "a", readers[0], Kind.USER)
    assert listed(stores, "b", readers[0]) == []


def test_a_nudge_is_sent_for_partitions_that_a_node_has_not_heard_of_and_not_waited_for_long(
    stores: Stores, settings: Settings, readers: list[int], applying: Applying, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nudging, "APPLIED_WITHIN_S", 0.1)
    sent, send = list[set[int]](), nudging._send

    def noted(bootstrap: str, partitions: set[int]) -> bool:
        sent.append(set(partitions))
        return send(bootstrap, partitions)

    monkeypatch.setattr(nudging, "_send", noted)
    applying.nothing([1, 2])

    assert partitions_untold(stores.clusters, ["b1", "b2"]) == {0, 3}
    assert not nudge(stores.clusters, settings.kafka_bootstrap, ["b1", "b2"])
    applying.nothing()
    assert nudge(stores.clusters, settings.kafka_bootstrap, ["b1", "b2"])
    assert sent == [{0, 3}]
