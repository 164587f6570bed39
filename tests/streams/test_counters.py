"""What a batch of both logs says, and what each node is told."""

from dataclasses import dataclass, field

import pytest

from infra.counts import FoldedCounts, TweetCounts
from infra.events import Activity, ActivityType, encode_activity
from infra.reactions import Reaction, ReactionType, encode_reaction
from infra.shard_map import make_shard_map
from infra.slots import slot_of
from infra.topics import ACTIVITY, MESSAGE_BYTES_MAX, REACTIONS
from streams.counters import ahead, gather
from streams.fold import Batch, FoldState
from streams.folded_logs import Positions
from streams.folded_nodes import arguments_by_node

LIKED, UNLIKED = ReactionType.LIKED, ReactionType.UNLIKED


@dataclass(frozen=True)
class Read:
    """A message as the client gives it."""

    of: str
    at: int
    data: bytes | None
    place: int = 0
    named: list[tuple[str, bytes]] = field(default_factory=list)

    def topic(self) -> str:
        return self.of

    def partition(self) -> int:
        return self.place

    def offset(self) -> int:
        return self.at

    def value(self) -> bytes | None:
        return self.data

    def key(self) -> bytes:
        return b"key"

    def headers(self) -> list[tuple[str, bytes]]:
        return self.named

    def timestamp(self) -> tuple[int, int]:
        return 1, 5


def said(at: int, kind: ReactionType, tweet: int, user: int, place: int = 0) -> Read:
    return Read(REACTIONS.name, at, encode_reaction(Reaction(kind, tweet, user, 0)), place)


def happened(at: int, kind: ActivityType, other: int) -> Read:
    return Read(ACTIVITY.name, at, encode_activity(Activity(kind, 1, other, 0)).encode())


def test_the_last_word_of_each_user_about_each_tweet_holds() -> None:
    batch, letters = gather(
        [said(4, LIKED, 1, 7), said(5, LIKED, 1, 8), said(6, UNLIKED, 1, 7), said(9, LIKED, 2, 7, 3)]
    )
    assert batch.words == {(1, 7): False, (1, 8): True, (2, 7): True}
    assert letters == []


def test_events_name_the_tweets_that_came_and_went() -> None:
    batch, _ = gather(
        [
            happened(1, ActivityType.POSTED, 11),
            happened(2, ActivityType.FOLLOWED, 12),
            happened(3, ActivityType.DELETED, 13),
        ]
    )
    assert batch.named == {11, 13}


@pytest.mark.parametrize(
    "value", [None, b"\xff", b"{}", b"1" * (MESSAGE_BYTES_MAX + 1)], ids=["none", "bytes", "{}", "large"]
)
def test_a_reaction_that_cannot_be_read_is_a_dead_letter_and_an_event_is_not_ours_to_bury(value: bytes | None) -> None:
    batch, letters = gather([Read(REACTIONS.name, 4, value, 2), Read(ACTIVITY.name, 5, value)])
    assert batch == Batch()
    [letter] = letters
    assert (letter.topic, letter.partition, letter.offset, letter.value) == (REACTIONS.name, 2, 4, value)
    assert letter.agent == "counters"


def test_only_what_was_read_beyond_the_last_fold_is_stored() -> None:
    places = {(REACTIONS.name, 0): 7, (ACTIVITY.name, 0): 4, (ACTIVITY.name, 1): 0}
    assert ahead(places | {(ACTIVITY.name, 1): 2}, FoldState(1, places, {})) == {(ACTIVITY.name, 1): 2}


def test_every_node_is_told_and_each_tweet_goes_to_one_node_of_each_cluster() -> None:
    shard_map = make_shard_map(3, {f"{cluster}{n}": f"redis://{cluster}{n}" for cluster in "abc" for n in (1, 2)})
    counts = {tweet: FoldedCounts(TweetCounts(tweet), 9) for tweet in range(1, 20)}
    told = arguments_by_node(shard_map, 4, 5, counts)
    assert set(told) == set(shard_map.nodes)
    assert all(arguments[:3] == [3, 4, 5] for arguments in told.values())
    for tweet, folded in counts.items():
        for cluster in "abc":
            node = shard_map.node_of(cluster, slot_of(tweet))
            at = told[node].index(folded.arguments(tweet)[0])
            assert told[node][at : at + 5] == folded.arguments(tweet)
    assert sum(len(arguments) - 3 for arguments in told.values()) == 19 * 3 * 5


def test_the_lag_is_what_is_behind_the_ends_and_never_below_zero() -> None:
    positions = Positions({("activity", 0): 5, ("activity", 1): 9, ("reactions", 0): 2})
    assert positions.lag("activity") == 0
    positions.ends = {("activity", 0): 8, ("activity", 1): 7, ("reactions", 0): 3}
    assert (positions.lag("activity"), positions.lag("reactions")) == (3, 1)
