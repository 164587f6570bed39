"""Counts of tweets: read from the clusters by tweet id, filled from the database, bumped by likes on their way there.

lua/counts.lua says why they are exact: the numbers carry the fold and the offset up to which they hold, and a like
counts beside them until the fold has passed it. Who folds: streams/counters.py.
"""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from infra import metrics, redis_keys
from infra.database import reading
from infra.errors import FanfoldError, ZooKeeperUnavailable
from infra.near_nodes import NearNodes
from infra.reaction_log import Placed
from infra.reactions import Reaction, ReactionType, reactions_partition
from infra.redis_clusters import RedisClusters
from infra.redis_node import Argument
from infra.shard_map import CLUSTERS
from infra.topics import REACTIONS

SHARD = 0  # one shard of folding so far
NUMBERS = 3  # of a tweet, in the Functions' answers
ABSENT = -1
LATER_FOLD = -1  # counts_bump's answer

_READ = sa.text(
    """
    SELECT asked.id, coalesce(c.likes, 0), coalesce(c.retweets, 0), coalesce(c.replies, 0),
           coalesce(f.next_offset, 0), counters.fold
    FROM unnest(CAST(:ids AS bigint[]), CAST(:partitions AS integer[])) AS asked (id, partition)
    JOIN counters ON counters.shard = :shard
    LEFT JOIN tweet_counts AS c ON c.tweet_id = asked.id
    LEFT JOIN folded AS f ON f.topic = :topic AND f.partition = asked.partition
    """
)


@dataclass(frozen=True, slots=True)
class TweetCounts:
    """How often a tweet was liked, retweeted and answered."""

    likes: int = 0
    retweets: int = 0
    replies: int = 0


@dataclass(frozen=True, slots=True)
class FoldedCounts:
    """A tweet's counts in the database; likes below `next_offset` of its partition are in them."""

    counts: TweetCounts
    next_offset: int

    def arguments(self, tweet_id: int) -> list[Argument]:
        """The five arguments of a tweet that counts_fill and counts_fold take."""
        counts = self.counts
        return [redis_keys.counts(tweet_id), counts.likes, counts.retweets, counts.replies, self.next_offset]


@dataclass(frozen=True, slots=True)
class FoldedLike:
    """Whether a user likes a tweet in the database, where its partition is folded up to `next_offset`."""

    likes: bool
    next_offset: int


class Counts:
    """Counts by tweet id. `clusters` should have a short time-out. Safe to share between threads."""

    def __init__(
        self, clusters: RedisClusters, engine: sa.Engine, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._clusters = clusters
        self._engine = engine
        self._near = NearNodes(clock_s)

    def read(self, ids: Sequence[int]) -> dict[int, TweetCounts]:
        """The counts of these tweets, zeros for one that has none. What no cluster holds is read from the database and
        filled in. Raises `DatabaseUnavailable`."""
        asked = list(dict.fromkeys(ids))
        found, left = dict[int, TweetCounts](), asked
        for cluster in random.sample(CLUSTERS, len(CLUSTERS)):
            answered = self._held(cluster, left)
            found |= {tweet_id: counts for part in answered for tweet_id, counts in part.items() if counts is not None}
            left = [tweet_id for tweet_id in left if tweet_id not in found]  # a copy that has just moved has none
            if not left:
                break
        unknown = [tweet_id for tweet_id in asked if tweet_id not in found]
        if unknown:
            metrics.MISSES.labels("counts").inc(len(unknown))
            found |= self._fill(unknown)
        return found

    def _held(self, cluster: str, ids: Sequence[int]) -> list[dict[int, TweetCounts | None]]:
        """What one cluster's nodes say of them, one call a node; without the nodes that do not answer."""
        parts = self._by_node([cluster], ids)
        calls = {node: list(map(redis_keys.counts, part)) for node, part in parts.items()}
        answers = self._ask(("FCALL_RO", "counts_read"), calls)
        return [decode_counts(parts[node], answer) for node, answer in answers.items()]

    def bump(self, reaction: Reaction, placed: Placed, folded: FoldedLike) -> bool:
        """Shows a word that is not folded yet, given what the database has of its user. False when a node knows of a
        later fold than `folded` is of: then the caller looks again. Late, repeated or lost it does no harm; a node that
        is away goes without it."""
        likes = int(reaction.type is ReactionType.LIKED), int(folded.likes)
        arguments = redis_keys.counts(reaction.tweet_id), reaction.user_id, placed.offset, *likes, folded.next_offset
        nodes = self._by_node(CLUSTERS, [reaction.tweet_id])
        return LATER_FOLD not in self._ask(("FCALL", "counts_bump"), dict.fromkeys(nodes, arguments)).values()

    def _fill(self, ids: Sequence[int]) -> dict[int, TweetCounts]:
        """From the database, into every cluster that answers; with the likes that wait there for their fold."""
        folded, fold = read_folded(self._engine, ids)
        found = {tweet_id: one.counts for tweet_id, one in folded.items()}
        parts = self._by_node(CLUSTERS, ids)
        calls = {
            node: [fold, *(argument for one in part for argument in folded[one].arguments(one))]
            for node, part in parts.items()
        }
        for node, answer in self._ask(("FCALL", "counts_fill"), calls).items():
            shown = decode_counts(parts[node], answer)
            found |= {tweet_id: counts for tweet_id, counts in shown.items() if counts is not None}
        return found

    def _by_node(self, clusters: Sequence[str], ids: Sequence[int]) -> dict[str, list[int]]:
        """The tweets of each node; none while no placement was ever written."""
        parts: dict[str, list[int]] = {}
        try:
            shard_map = self._clusters.shard_map
        except ZooKeeperUnavailable:
            return parts
        for cluster in clusters:
            parts |= shard_map.by_node(cluster, ids)
        return parts

    def _ask(self, call: tuple[str, str], calls: Mapping[str, Sequence[Argument]]) -> dict[str, Any]:
        """One call of each node that is near, with its arguments; what failed is left out."""
        near = {node: [(*call, 0, *arguments)] for node, arguments in self._near.among(calls).items()}
        answers: dict[str, Any] = {}
        for node, (answer,) in self._clusters.commands_at_once(near).items():
            self._near.note(node, answer)
            if not isinstance(answer, FanfoldError):
                answers[node] = answer
        return answers


def read_folded(engine: sa.Engine, ids: Sequence[int]) -> tuple[dict[int, FoldedCounts], int]:
    """What the database has of these tweets, and the number of the last fold that this look saw: one statement, so all
    of it is of one moment."""
    asked = {
        "ids": list(ids),
        "partitions": [reactions_partition(tweet_id) for tweet_id in ids],
        "shard": SHARD,
        "topic": REACTIONS.name,
    }
    folded, fold = dict[int, FoldedCounts](), 0
    with reading(engine) as connection:
        for tweet_id, likes, retweets, replies, next_offset, fold in connection.execute(_READ, asked):  # noqa: B007
            folded[tweet_id] = FoldedCounts(TweetCounts(likes, retweets, replies), next_offset)
    return folded, fold


def decode_counts(ids: Sequence[int], answer: Sequence[int]) -> dict[int, TweetCounts | None]:
    """What counts_read or counts_fill answered for these tweets; None for an absent one."""
    numbers = [answer[at : at + NUMBERS] for at in range(0, len(answer), NUMBERS)]
    return {
        tweet_id: None if three[0] == ABSENT else TweetCounts(*three)
        for tweet_id, three in zip(ids, numbers, strict=True)
    }
