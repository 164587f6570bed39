"""Counts on real nodes: what is folded, what waits for its fold, what comes late, and what is forgotten."""

import random
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from importlib.resources import files

import pytest
import sqlalchemy as sa

from infra import redis_keys
from infra.composition import Stores
from infra.counts import Counts, FoldedCounts, FoldedLike, TweetCounts, decode_counts
from infra.errors import FanfoldError
from infra.reaction_log import Placed
from infra.reactions import Reaction, ReactionType, reactions_partition
from infra.redis_clusters import RedisClusters
from infra.redis_node import RedisNode
from infra.shard_map import CLUSTERS
from infra.slots import slot_of
from streams.folded_nodes import FoldedNodes
from tests.fixed_maps import fixed_maps

TWEET = 9_100_000_000_000_000_007
LIKED = ReactionType.LIKED
NO_LIKE = FoldedLike(False, 0)


class Node:
    """The Functions of one node, as the calls of different processes reach it, in whatever order."""

    def __init__(self, node: RedisNode) -> None:
        self.node = node

    def fold(self, before: int, fold: int, counts: TweetCounts | None = None, offset: int = 0, epoch: int = 1) -> int:
        told = FoldedCounts(counts, offset).arguments(TWEET) if counts else []
        return int(self.node.call("counts_fold", epoch, before, fold, *told))

    def fill(self, fold: int, counts: TweetCounts, offset: int = 0) -> TweetCounts | None:
        answer = self.node.call("counts_fill", fold, *FoldedCounts(counts, offset).arguments(TWEET))
        return decode_counts([TWEET], answer)[TWEET]

    def bump(self, user: int, offset: int, likes: bool, folded: FoldedLike) -> int:
        words = offset, int(likes), int(folded.likes), folded.next_offset
        return int(self.node.call("counts_bump", redis_keys.counts(TWEET), user, *words))

    @property
    def shown(self) -> TweetCounts | None:
        return decode_counts([TWEET], self.node.look("counts_read", redis_keys.counts(TWEET)))[TWEET]


@pytest.fixture
def node(stores: Stores) -> Node:
    made = Node(stores.clusters.node_for("a", TWEET))
    assert made.fold(7, 7) == 1
    return made


def test_a_node_that_no_fold_has_reached_keeps_nothing_and_shows_the_database(stores: Stores) -> None:
    fresh = Node(stores.clusters.node_for("a", TWEET))
    assert fresh.shown is None
    assert fresh.fill(3, TweetCounts(5, 1, 2)) == TweetCounts(5, 1, 2)
    assert fresh.bump(1, 9, True, NO_LIKE) == 0
    assert fresh.shown is None


def test_a_like_is_shown_at_once_and_once_more_after_its_fold(node: Node) -> None:
    node.fill(7, TweetCounts(5, 1, 2), offset=10)
    assert node.bump(1, 10, True, FoldedLike(False, 10)) == 1
    assert node.shown == TweetCounts(6, 1, 2)
    node.fold(7, 8, TweetCounts(6, 1, 2), offset=11)
    assert node.shown == TweetCounts(6, 1, 2)


def test_a_like_waits_for_the_first_reader_and_shows_in_his_answer(node: Node) -> None:
    assert node.bump(1, 10, True, FoldedLike(False, 10)) == 1
    assert node.shown is None
    assert node.fill(7, TweetCounts(5, 0, 0), offset=10) == TweetCounts(6, 0, 0)


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)])
def test_of_one_users_words_the_one_with_the_highest_offset_holds_in_whatever_order_they_come(
    node: Node, order: tuple[int, ...]
) -> None:
    words = [(10, True), (11, False), (12, True)]  # none is folded
    node.fill(7, TweetCounts(5, 0, 0), offset=10)
    for at in order:
        node.bump(1, *words[at], FoldedLike(False, 10))
    assert node.shown == TweetCounts(6, 0, 0)


def test_two_likes_of_one_user_count_once(node: Node) -> None:
    node.fill(7, TweetCounts(5, 0, 0), offset=10)
    node.bump(1, 10, True, FoldedLike(False, 10))
    node.bump(1, 11, True, FoldedLike(False, 10))
    assert node.shown == TweetCounts(6, 0, 0)


def test_a_like_that_comes_after_its_fold_changes_nothing(node: Node) -> None:
    node.fill(7, TweetCounts(5, 0, 0), offset=10)
    node.fold(7, 8, TweetCounts(6, 0, 0), offset=11)
    assert node.bump(1, 10, True, FoldedLike(False, 10)) == 0
    assert node.shown == TweetCounts(6, 0, 0)


def test_a_like_that_comes_after_its_fold_to_an_absent_key_is_dropped_by_the_next_reader(node: Node) -> None:
    assert node.bump(1, 10, True, FoldedLike(False, 10)) == 1
    assert node.fill(7, TweetCounts(6, 0, 0), offset=11) == TweetCounts(6, 0, 0)


def test_a_fold_passes_only_the_likes_below_its_offset(node: Node) -> None:
    node.fill(7, TweetCounts(0, 0, 0), offset=10)
    for offset in range(10, 20):
        node.bump(offset, offset, True, FoldedLike(False, 10))
    node.fold(7, 8, TweetCounts(4, 0, 0), offset=14)
    assert node.shown == TweetCounts(10, 0, 0)


def test_a_look_that_is_older_than_the_last_fold_is_shown_and_not_kept(node: Node) -> None:
    node.fold(7, 8)
    assert node.fill(7, TweetCounts(5, 0, 0)) == TweetCounts(5, 0, 0)
    assert node.shown is None


def test_a_look_that_is_newer_than_what_the_node_heard_is_kept_and_not_lowered(node: Node) -> None:
    node.fill(9, TweetCounts(9, 0, 0), offset=30)
    node.fold(7, 8, TweetCounts(8, 0, 0), offset=20)
    assert node.shown == TweetCounts(9, 0, 0)
    assert node.fill(8, TweetCounts(8, 0, 0), offset=20) == TweetCounts(9, 0, 0)
    node.fold(8, 9, TweetCounts(9, 0, 0), offset=30)
    assert node.shown == TweetCounts(9, 0, 0)


def test_a_node_that_missed_a_fold_forgets_all_counts_when_it_hears_of_the_next(node: Node) -> None:
    node.fill(7, TweetCounts(5, 0, 0))
    node.bump(1, 10, True, NO_LIKE)
    assert node.fold(8, 9) == 1
    assert node.shown is None
    assert node.fill(9, TweetCounts(5, 0, 0), offset=11) == TweetCounts(5, 0, 0)


def test_a_late_fold_does_nothing(node: Node) -> None:
    node.fold(8, 9)
    node.bump(1, 10, True, NO_LIKE)  # makes the key, so that a fold finds it
    assert node.fold(7, 8, TweetCounts(3, 0, 0), offset=20) == -1
    assert node.shown is None


def test_the_same_fold_twice_is_no_gap(node: Node) -> None:
    node.fill(7, TweetCounts(5, 0, 0))
    assert [node.fold(7, 8, TweetCounts(6, 0, 0), offset=1) for _ in range(2)] == [0, 0]
    assert node.fold(8, 8) == 0
    assert node.shown == TweetCounts(6, 0, 0)


def test_another_placement_forgets_all_counts_and_an_older_one_is_late(node: Node) -> None:
    node.fill(7, TweetCounts(5, 0, 0))
    assert node.fold(7, 8, epoch=2) == 1
    assert node.shown is None
    assert node.fold(8, 9, epoch=1) == -1


def test_the_likes_that_wait_are_bounded_and_their_fold_counts_them_all(node: Node) -> None:
    node.fill(7, TweetCounts(0, 0, 0))
    kept = [node.bump(user, user, True, NO_LIKE) for user in range(1, 1_101)]
    assert kept == [1] * 1_000 + [0] * 100
    assert node.shown == TweetCounts(1_000, 0, 0)
    node.fold(7, 8, TweetCounts(1_100, 0, 0), offset=1_101)
    assert node.shown == TweetCounts(1_100, 0, 0)
    assert node.node.command("HLEN", redis_keys.counts(TWEET)) == 7


def test_nobody_renews_the_time_that_counts_live(node: Node) -> None:
    key = redis_keys.counts(TWEET)
    node.bump(1, 10, True, NO_LIKE)
    node.node.command("EXPIRE", key, 100)
    node.fill(7, TweetCounts(5, 0, 0))
    node.fold(7, 8, TweetCounts(6, 0, 0), offset=11)
    node.bump(2, 12, True, FoldedLike(False, 11))
    assert 0 < node.node.command("TTL", key) <= 100
    node.fold(9, 10)
    node.fill(10, TweetCounts(7, 0, 0))
    assert 3_500 < node.node.command("TTL", key) <= 3_600


def test_what_is_no_hash_is_replaced(node: Node) -> None:
    node.node.command("SET", redis_keys.counts(TWEET), "x")
    assert node.shown is None
    assert node.fold(7, 8, TweetCounts(6, 0, 0)) == 0
    assert node.fill(8, TweetCounts(6, 0, 0)) == TweetCounts(6, 0, 0)
    assert node.shown == TweetCounts(6, 0, 0)


def test_a_word_counts_from_what_the_fold_made_of_the_ones_before(node: Node) -> None:
    node.fill(7, TweetCounts(5, 0, 0), offset=10)
    node.bump(1, 10, True, FoldedLike(False, 10))
    node.bump(1, 11, False, FoldedLike(False, 10))
    assert node.shown == TweetCounts(5, 0, 0)
    node.fold(7, 8, TweetCounts(6, 0, 0), offset=11)
    assert node.shown == TweetCounts(5, 0, 0)


def test_a_look_that_the_nodes_fold_has_overtaken_is_refused_and_the_next_one_kept(node: Node) -> None:
    """Two likes of one user: the first was folded between the look and the call of the second."""
    node.fill(7, TweetCounts(6, 0, 0), offset=11)
    assert node.bump(1, 11, True, FoldedLike(False, 10)) == -1
    assert node.shown == TweetCounts(6, 0, 0)
    assert node.bump(1, 11, True, FoldedLike(True, 11)) == 1
    assert node.shown == TweetCounts(6, 0, 0)


def test_a_word_that_comes_after_its_fold_mends_what_the_next_one_counts_from(node: Node) -> None:
    node.fill(7, TweetCounts(5, 0, 0), offset=10)
    node.bump(1, 11, True, FoldedLike(False, 10))
    node.fold(7, 8, TweetCounts(6, 0, 0), offset=11)
    assert node.bump(1, 10, True, FoldedLike(False, 10)) == 1
    assert node.shown == TweetCounts(6, 0, 0)


def test_counts_that_another_version_of_the_library_has_kept_are_forgotten_with_the_next_fold(node: Node) -> None:
    """The version before kept "<offset> <change>", and its callers give four arguments."""
    node.fill(7, TweetCounts(6, 0, 0), offset=10)
    key = redis_keys.counts(TWEET)
    node.node.command("HSET", key, "u1", "10 -1", "pending", -1)
    assert node.node.call("counts_bump", key, 2, 11, 1) == 0
    assert node.shown == TweetCounts(5, 0, 0)

    code = files("infra.lua").joinpath("counts.lua").read_text(encoding="utf-8")
    node.node.command("FUNCTION", "LOAD", "REPLACE", code + "-- of another version")
    node.node.load_functions()
    assert node.fold(7, 7) == 1
    assert node.shown is None


def test_a_fold_of_which_something_failed_counts_as_missed(node: Node) -> None:
    node.fill(7, TweetCounts(6, 0, 0), offset=10)
    node.node.command("HSET", redis_keys.counts(TWEET), "u1", "damaged", "pending", 1)
    with pytest.raises(FanfoldError):
        node.fold(7, 8, TweetCounts(7, 0, 0), offset=11)
    assert node.fold(8, 8) == 1
    assert node.shown is None


def test_who_changes_his_mind_again_and_again_is_bounded_and_shown_by_his_last_words(node: Node) -> None:
    node.fill(7, TweetCounts(5, 0, 0), offset=10)
    for offset in range(10, 1_011):
        node.bump(1, offset, offset % 2 == 0, FoldedLike(False, 10))
    assert node.shown == TweetCounts(6, 0, 0)
    assert len(node.node.command("HGET", redis_keys.counts(TWEET), "u1").split()) == 2 * 9
    node.fold(7, 8, TweetCounts(5, 0, 0), offset=1_010)
    assert node.shown == TweetCounts(6, 0, 0)
    node.fold(8, 9, TweetCounts(6, 0, 0), offset=1_011)
    assert node.shown == TweetCounts(6, 0, 0)


class Likers:
    """What a log of one tweet's reactions and a database that folds it would hold, beside a node."""

    def __init__(self, node: Node, rng: random.Random) -> None:
        self.node = node
        self._rng = rng
        self._log: list[tuple[int, bool]] = []
        self._likers: set[int] = set()
        self._fold, self._offset = 7, 0

    def look(self, user: int) -> FoldedLike:
        return FoldedLike(user in self._likers, self._offset)

    def say(self, folded: FoldedLike, user: int, likes: bool) -> Callable[[], bool]:
        """A word after a look; what is still to be told to the node, which is False while it has to be told again."""
        self._log.append((user, likes))
        looks, offset = [folded], len(self._log) - 1

        def tell() -> bool:
            if self.node.bump(user, offset, likes, looks[-1]) >= 0:
                return True
            looks.append(self.look(user))
            return False

        return tell

    def fill(self) -> Callable[[], object]:
        return partial(self.node.fill, self._fold, TweetCounts(len(self._likers)), self._offset)

    def folds(self, upto: int | None = None) -> Callable[[], object]:
        upto = self._rng.randint(self._offset, len(self._log)) if upto is None else upto
        self._likers = self._after(upto)
        self._offset, self._fold = upto, self._fold + 1
        return partial(self.node.fold, self._fold - 1, self._fold, TweetCounts(len(self._likers)), upto)

    def fold_all(self) -> Callable[[], object]:
        return self.folds(len(self._log))

    @property
    def truth(self) -> TweetCounts:
        return TweetCounts(len(self._after(len(self._log))))

    def _after(self, upto: int) -> set[int]:
        likers = set(self._likers)
        for user, likes in self._log[self._offset : upto]:
            (likers.add if likes else likers.discard)(user)
        return likers


@pytest.mark.parametrize("seed", range(30))
def test_however_words_and_folds_race_a_node_shows_what_was_said_once_it_was_told_of_it(node: Node, seed: int) -> None:
    """Every word is told at some time, in whatever order, with a look that may be old; folds are told at once."""
    rng = random.Random(seed)
    likers = Likers(node, rng)
    looks: list[tuple[int, FoldedLike]] = []
    untold: list[Callable[[], bool]] = []
    shown = 0
    for _ in range(400):
        step = rng.random()
        if step < 0.25:
            user = rng.randrange(4)
            looks.append((user, likers.look(user)))
        elif step < 0.45 and looks:
            user, folded = looks.pop(rng.randrange(len(looks)))
            untold.append(likers.say(folded, user, rng.random() < 0.6))
        elif step < 0.85 and untold:
            tell = untold.pop(rng.randrange(len(untold)))
            if not tell():
                untold.append(tell)
        elif step < 0.9:
            likers.fill()()
        elif step < 0.95:
            likers.folds()()
        if not untold and node.shown is not None:
            assert node.shown == likers.truth
            shown += 1
    assert shown > 20


@pytest.mark.parametrize("seed", range(30))
def test_however_calls_race_a_node_agrees_with_the_database_once_all_is_folded(node: Node, seed: int) -> None:
    """Likes, folds, fills, late and lost calls in a random order; at the end one more fold is heard."""
    rng = random.Random(seed)
    likers = Likers(node, rng)
    late: list[Callable[[], object]] = []
    for _ in range(300):
        step = rng.random()
        call: Callable[[], object]
        if step < 0.5:
            user = rng.randrange(6)
            call = likers.say(likers.look(user), user, rng.random() < 0.6)
        elif step < 0.7:
            call = likers.fill()
        else:
            call = likers.folds()
        if rng.random() < 0.15:
            late.append(call)
        elif rng.random() > 0.05:
            call()
        if late and rng.random() < 0.1:
            late.pop(rng.randrange(len(late)))()
    for call in [*late, likers.fold_all(), *late]:
        call()
    assert node.shown in (likers.truth, None)
    assert likers.fill()() == likers.truth
    assert node.shown == likers.truth


# Through all clusters.


def test_a_read_fills_all_clusters_and_the_next_one_asks_no_database(stores: Stores, engine: sa.Engine) -> None:
    FoldedNodes(stores.brief).tell(0, 0, {})
    with engine.begin() as connection:
        connection.execute(sa.text("INSERT INTO tweet_counts VALUES (:id, 3, 2, 1)"), {"id": TWEET})
    assert stores.counts.read([TWEET, 5, TWEET]) == {TWEET: TweetCounts(3, 2, 1), 5: TweetCounts()}
    with engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM tweet_counts"))
    for _ in range(10):
        assert stores.counts.read([TWEET, 5]) == {TWEET: TweetCounts(3, 2, 1), 5: TweetCounts()}


def test_a_like_is_shown_by_every_cluster(stores: Stores) -> None:
    FoldedNodes(stores.brief).tell(0, 0, {})
    stores.counts.read([TWEET])
    stores.counts.bump(Reaction(LIKED, TWEET, 1, 0), Placed(reactions_partition(TWEET), 0), NO_LIKE)
    shown = {cluster: Node(stores.clusters.node_for(cluster, TWEET)).shown for cluster in CLUSTERS}
    assert shown == dict.fromkeys(CLUSTERS, TweetCounts(1))


@pytest.mark.parametrize("away", ["a", "ab", "abc"])
def test_clusters_that_are_away_hide_no_counts(stores: Stores, engine: sa.Engine, away: str) -> None:
    FoldedNodes(stores.brief).tell(0, 0, {})
    with engine.begin() as connection:
        connection.execute(sa.text("INSERT INTO tweet_counts VALUES (:id, 3, 2, 1)"), {"id": TWEET})
    known = stores.clusters.shard_map
    addresses = {name: "redis://127.0.0.1:1" if name[0] in away else url for name, url in known.addresses.items()}
    clusters = RedisClusters(fixed_maps(replace(known, addresses=addresses)), 0.5)
    counts = Counts(clusters, engine)
    for _ in range(5):
        assert counts.read([TWEET]) == {TWEET: TweetCounts(3, 2, 1)}
    counts.bump(Reaction(LIKED, TWEET, 1, 0), Placed(reactions_partition(TWEET), 0), NO_LIKE)
    assert counts.read([TWEET]) == {TWEET: TweetCounts(3 + (away != "abc"), 2, 1)}
    clusters.close()


def test_a_fold_reaches_the_node_of_each_cluster_and_every_other_node_hears_of_it(stores: Stores) -> None:
    nodes = FoldedNodes(stores.brief)
    nodes.tell(4, 4, {})
    stores.counts.bump(Reaction(LIKED, TWEET, 1, 0), Placed(reactions_partition(TWEET), 0), NO_LIKE)
    nodes.tell(4, 5, {TWEET: FoldedCounts(TweetCounts(8, 7, 6), 1)})
    for name in stores.clusters.shard_map.nodes:
        assert stores.clusters.node(name).command("HGET", "k", "fold") == b"5"
    for cluster in CLUSTERS:
        name = stores.clusters.shard_map.node_of(cluster, slot_of(TWEET))
        assert Node(stores.clusters.node(name)).shown == TweetCounts(8, 7, 6)


def test_a_node_that_was_away_for_a_fold_forgets_within_the_next_call(stores: Stores) -> None:
    now_s = [100.0]
    nodes = FoldedNodes(stores.brief, lambda: now_s[0])
    nodes.tell(0, 0, {})
    stores.counts.read([TWEET])
    left_out = stores.clusters.shard_map.node_of("b", slot_of(TWEET))
    nodes._near.note(left_out, OSError("away"))
    nodes.tell(0, 1, {TWEET: FoldedCounts(TweetCounts(1), 1)})
    assert nodes.away == [left_out]
    assert Node(stores.clusters.node(left_out)).shown == TweetCounts(0)
    now_s[0] += 1.5
    nodes.tell_now_and_then(1)
    assert nodes.away == []
    assert Node(stores.clusters.node(left_out)).shown is None
    assert stores.clusters.node(left_out).command("HGET", "k", "fold") == b"1"
