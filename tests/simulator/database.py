"""The database in memory: users, follows, tweets and the outbox, and the transactions of publishers on them.

Each method of `Database` that changes something is one committed transaction. What the product asks it is in
statements.py.
"""

from bisect import insort
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from infra.cloud_events import TYPES
from infra.events import Activity, ActivityType, encode_activity
from infra.status import Standing, Status
from infra.topics import ACTIVITY
from producers.relay import Row

NO_TIME = datetime(2026, 11, 1, tzinfo=UTC)
PUSHED, PULLED = Standing(), Standing(Status.PULL, Status.BOTH)


@dataclass(slots=True)
class User:
    """A row of `users`, as far as timelines go."""

    standing: Standing = PUSHED
    status_event: int | None = None  # the outbox id of the event that told it


@dataclass(slots=True)
class Tweet:
    """A row of `tweets`."""

    id: int
    author: int
    retweet_of: int | None
    deleted: bool = False


@dataclass(slots=True)
class Database:
    """All tables, and what was published, in commit order."""

    users: dict[int, User] = field(default_factory=dict)
    follows: set[tuple[int, int]] = field(default_factory=set)  # follower and author
    once_followed: set[tuple[int, int]] = field(default_factory=set)
    blocks: set[tuple[int, int]] = field(default_factory=set)
    tweets: dict[int, Tweet] = field(default_factory=dict)
    outbox: list[Row] = field(default_factory=list)
    committed: list[str] = field(default_factory=list)  # every payload that was in the outbox
    since: dict[int | tuple[int, int], int] = field(default_factory=dict)  # tweet or follow → events committed by then
    appended: Callable[[], None] = lambda: None
    _of_author: dict[int, list[int]] = field(default_factory=dict)
    _log_of: dict[str, list[int]] = field(default_factory=dict)

    # What publishers do

    def post(self, tweet_id: int, author: int, now_ms: int, retweet_of: int | None = None) -> bool:
        """False when the original is not live: nothing is posted then."""
        if retweet_of is not None and not self.is_live(retweet_of):
            return False
        self.add(Tweet(tweet_id, author, retweet_of))
        self.since[tweet_id] = len(self.committed)
        self.append([Activity(ActivityType.POSTED, author, tweet_id, now_ms)])
        return True

    def delete(self, tweet_id: int, now_ms: int) -> None:
        """Deletes a tweet that may be deleted already."""
        tweet = self.tweets[tweet_id]
        if not tweet.deleted:
            tweet.deleted = True
            self.append([Activity(ActivityType.DELETED, tweet.author, tweet_id, now_ms)])

    def follow(self, follower: int, author: int, now_ms: int) -> None:
        """A block forbids it."""
        if (author, follower) in self.blocks or (follower, author) in self.blocks or (follower, author) in self.follows:
            return
        self.follows.add((follower, author))
        self.since[follower, author] = len(self.committed)
        self.once_followed.add((follower, author))
        self.append([Activity(ActivityType.FOLLOWED, author, follower, now_ms)])

    def unfollow(self, follower: int, author: int, now_ms: int) -> None:
        """Ends a follow that may not be there."""
        if (follower, author) in self.follows:
            self.follows.remove((follower, author))
            self.append([Activity(ActivityType.UNFOLLOWED, author, follower, now_ms)])

    def block(self, blocker: int, blocked: int, now_ms: int) -> None:
        """Ends the follows both ways; a second time it ends the block."""
        if (blocker, blocked) in self.blocks:
            self.blocks.remove((blocker, blocked))
            return
        self.blocks.add((blocker, blocked))
        self.unfollow(blocker, blocked, now_ms)
        self.unfollow(blocked, blocker, now_ms)

    # Rows

    def add(self, tweet: Tweet) -> None:
        """A row of `tweets`."""
        assert tweet.id not in self.tweets, "ids are unique"
        self.tweets[tweet.id] = tweet
        insort(self._of_author.setdefault(tweet.author, []), tweet.id)

    def append(self, events: Sequence[Activity]) -> None:
        """Rows of the outbox."""
        for event in events:
            payload = encode_activity(event)
            self.committed.append(payload)
            number, key = len(self.committed), str(event.author_id)
            self._log_of.setdefault(key, []).append(number)
            self.outbox.append(Row(number, ACTIVITY.name, key, TYPES[event.type], payload, NO_TIME, None))
        self.appended()

    def visible_since(self, follower: int, events: int) -> set[int]:
        """The live tweets of followed authors, where tweet and follow are older than so many events."""
        authors = [one for one in self.followed_by(follower) if self.since.get((follower, one), -1) < events]
        return {one for author in authors for one in self.live_of(author) if self.since.get(one, -1) < events}

    def of_log(self, author: str) -> list[int]:
        """The outbox ids of an author's events, in commit order."""
        return self._log_of.get(author, [])

    def is_live(self, tweet_id: int) -> bool:
        """As the view `live_tweets` has it."""
        tweet = self.tweets.get(tweet_id)
        if tweet is None or tweet.deleted:
            return False
        if tweet.retweet_of is None:
            return True
        original = self.tweets.get(tweet.retweet_of)
        return original is not None and not original.deleted

    def live_of(self, author: int) -> Iterator[int]:
        """An author's live tweets, newest first."""
        return (one for one in reversed(self._of_author.get(author, [])) if self.is_live(one))

    def all_of(self, author: int) -> list[int]:
        """An author's tweets, deleted ones too, oldest first."""
        return self._of_author.get(author, [])

    def is_pushed(self, author: int) -> bool:
        """Whether home timelines hold his tweets."""
        return self.users[author].standing.is_pushed

    def celebrities_of(self, follower: int) -> list[int]:
        """The followed authors whose user timelines are merged."""
        return [one for one in self.followed_by(follower) if self.users[one].standing.is_pulled]

    def followed_by(self, follower: int) -> list[int]:
        """The authors whom a user follows."""
        return sorted(author for one, author in self.follows if one == follower)

    def followers_of(self, author: int) -> list[int]:
        """An author's followers."""
        return sorted(follower for follower, one in self.follows if one == author)
