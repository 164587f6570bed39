"""Liking: a user's word about a tweet goes to the topic reactions, then to the counts in the clusters; then he is
answered.

Idempotent: of what a user says about a tweet the last word holds, however often it is said. Next: streams/counters.py,
which folds it into the database.
"""

from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass

import sqlalchemy as sa

from infra.counts import SHARD, Counts, FoldedLike
from infra.database import limit_waits, reading, transaction
from infra.errors import DatabaseUnavailable, NotFound
from infra.reaction_log import Placed, ReactionLog, await_placed
from infra.reactions import Reaction, ReactionType, reactions_partition
from infra.topics import REACTIONS
from producers.rules import check_id

BATCH_LIKES_MAX = 500  # of a user who is erased: one wait for the broker


@dataclass(frozen=True, slots=True)
class Facts:
    """What the database says about a user and a tweet."""

    user: bool
    tweet: bool
    folded: FoldedLike


@dataclass(frozen=True, slots=True)
class Said:
    """A word on its way into the log, and what the database had of its user before."""

    reaction: Reaction
    folded: FoldedLike
    placed: "Future[Placed]"


class Liking:
    """Takes likes. Safe to share between threads."""

    def __init__(self, engine: sa.Engine, reactions: ReactionLog, counts: Counts, clock_ms: Callable[[], int]) -> None:
        self._engine = engine
        self._reactions = reactions
        self._counts = counts
        self._clock_ms = clock_ms

    def say(self, kind: ReactionType, user_id: int, tweet_id: int) -> None:
        """Returns when the broker has the word and the clusters that answer show it. Raises `InvalidInput`, `NotFound`,
        and `KafkaUnavailable`: then it may count or not, and saying it again settles it."""
        said = self.begin(kind, user_id, tweet_id)
        self.show(said, await_placed(said.placed))

    def begin(self, kind: ReactionType, user_id: int, tweet_id: int) -> Said:
        """Sends a word, and does not wait for Kafka: seconds while that is away. Next: `show`."""
        check_id(user_id, "user")
        check_id(tweet_id, "tweet")
        facts = self._look(user_id, tweet_id)
        if not facts.user:
            raise NotFound(f"user {user_id} does not exist")
        if not facts.tweet:
            raise NotFound(f"tweet {tweet_id} does not exist")
        reaction = Reaction(kind, tweet_id, user_id, self._clock_ms())
        return Said(reaction, facts.folded, self._reactions.submit(reaction))

    def show(self, said: Said, placed: Placed) -> None:
        """Shows it in the clusters that answer. What ends before, or finds no database, leaves a like that counts and
        is not shown before its fold."""
        if not self._counts.bump(said.reaction, placed, said.folded):
            with suppress(DatabaseUnavailable):
                folded = self._look(said.reaction.user_id, said.reaction.tweet_id).folded
                self._counts.bump(said.reaction, placed, folded)  # overtaken once more, its own fold shows it soon

    def _look(self, user_id: int, tweet_id: int) -> Facts:
        asked = {
            "user": user_id,
            "tweet": tweet_id,
            "topic": REACTIONS.name,
            "partition": reactions_partition(tweet_id),
        }
        with reading(self._engine) as connection:
            user, tweet, likes, next_offset = connection.execute(_FACTS, asked).one()
        return Facts(user, tweet, FoldedLike(likes, next_offset))


def take_back(engine: sa.Engine, reactions: ReactionLog, user_id: int, above: int, now_ms: int) -> int | None:
    """Takes back the likes of a deleted user, the next some above this tweet id; the last tweet's id, or None when none
    is left. Counters removes them when it reads that.

    It waits for the fold under way; every later one sees that the user is deleted and takes no like of his. So what is
    found here is all that there will ever be.
    """
    with transaction(engine) as connection:
        limit_waits(connection)
        connection.execute(_AWAIT_FOLD, {"shard": SHARD})
        wanted = {"user": user_id, "above": above, "limit": BATCH_LIKES_MAX}
        tweets = list(connection.execute(_LIKES, wanted).scalars())
    reactions.send_all([Reaction(ReactionType.UNLIKED, tweet_id, user_id, now_ms) for tweet_id in tweets])
    return tweets[-1] if tweets else None


_FACTS = sa.text(
    """
    SELECT EXISTS (SELECT FROM users WHERE id = :user AND deleted_at IS NULL),
           EXISTS (SELECT FROM live_tweets WHERE id = :tweet),
           EXISTS (SELECT FROM likes WHERE tweet_id = :tweet AND user_id = :user),
           coalesce((SELECT next_offset FROM folded WHERE topic = :topic AND partition = :partition), 0)
    """
)
_AWAIT_FOLD = sa.text("SELECT FROM counters WHERE shard = :shard FOR SHARE")
_LIKES = sa.text(
    "SELECT tweet_id FROM likes WHERE user_id = :user AND tweet_id > :above ORDER BY tweet_id LIMIT :limit"
)
