"""The oracle: what must hold at every moment, and what when everything was applied. Plain, and apart from the product.

It knows the database in memory and the lists as they lie in the nodes.
"""

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from consumers.read_timeline import Page
from infra.redis_keys import BODY, CELEBRITIES, HOME, USER, id_of
from infra.tweet_bodies import TOMBSTONE, Body
from tests.simulator.database import Database

TOKEN = b"-"
HIDES_WITHIN = 40  # entries: a retweet is hidden while an older one of the same tweet is no further away
REFILL_BELOW = 0.5  # of the length: with fewer entries above a floor a timeline has to be rebuilt


class Wrong(AssertionError):
    """Raised when something does not hold that must."""


@dataclass(slots=True)
class Oracle:
    """Checks one world; `length` is that of its timelines and `slack` what a list may have above it."""

    database: Database
    length: int
    slack: int
    acknowledged: set[int] = field(default_factory=set)  # tweets whose delete has returned
    _sent: dict[str, int] = field(default_factory=dict)  # author → outbox id of the newest event in the log

    # At every moment

    def check_list(self, where: str, key: bytes, listed: object) -> None:
        """No double, no wrong order, nothing at or below the floor, and bounded."""
        if key[:2] not in (HOME, USER) or listed is None:
            return
        if not isinstance(listed, list):
            raise Wrong(f"{where} {key!r} is no list: {listed!r}")
        head, entries = listed[0], listed[1:]
        bound = b"" if head.startswith(TOKEN) else b"%019d" % int(head)
        for before, one in zip([bound, *entries], entries, strict=False):
            if one <= before:
                raise Wrong(f"{where} {key!r} has {one!r} after {before!r}: {listed}")
        if len(entries) > (2 * self.length if head.startswith(TOKEN) else self.length + self.slack):
            raise Wrong(f"{where} {key!r} has {len(entries)} entries")

    def check_sent(self, author: str, outbox_id: int, of_author: Sequence[int]) -> None:
        """An event in the activity log: one that was there before, or the author's next one."""
        newest = self._sent.get(author, 0)
        following = next((one for one in of_author if one > newest), None)
        if outbox_id > newest and outbox_id != following:
            raise Wrong(f"the log of author {author} has event {outbox_id} after {newest}, and {following} is missing")
        self._sent[author] = max(newest, outbox_id)

    def check_page(self, page: Page, acknowledged_before: AbstractSet[int], who: str) -> None:
        """A page that a reader got: newest first, each once, and nothing that was deleted when he began."""
        ids = [tweet.id for tweet in page.tweets]
        if sorted(set(ids), reverse=True) != ids:
            raise Wrong(f"{who} got a page with a double or in a wrong order: {ids}")
        self.check_tweets(page.tweets, acknowledged_before, who)
        for tweet in page.tweets:
            if tweet.retweet_of in acknowledged_before:
                raise Wrong(f"{who} got a retweet of {tweet.retweet_of}, whose delete was acknowledged before")

    def check_tweets(self, tweets: Iterable[Body], acknowledged_before: AbstractSet[int], who: str) -> None:
        """Nothing that was deleted when the reader began (G7)."""
        for tweet in tweets:
            if tweet.id in acknowledged_before:
                raise Wrong(f"{who} got tweet {tweet.id}, whose delete was acknowledged before")

    def check_no_hole(self, page: Page, applied_before: int, user: int, max_id: int | None) -> None:
        """Of what was applied when the reader began, and stayed, his page has everything down to its end."""
        ids = {tweet.id for tweet in page.tweets}
        lowest = 0 if page.next_max_id is None else min(ids, default=max_id or 0)
        wanted = {
            one
            for one in self.database.visible_since(user, applied_before)
            if lowest <= one and (max_id is None or one < max_id)
        }
        wanted -= {one for one in wanted - ids if self._may_be_hidden(one)}
        if not wanted <= ids:
            raise Wrong(f"user {user} got a page with a hole: {sorted(wanted - ids)} between {sorted(ids)}")

    # When everything was applied

    def check_present(self, where: str, key: bytes, value: object) -> None:
        """A present timeline or set of celebrities is exact (G3)."""
        if key.startswith(BODY) and value != TOMBSTONE and id_of(key) in self.acknowledged:
            raise Wrong(f"{where} holds the body of {id_of(key)}, whose delete was acknowledged")
        if key.startswith(CELEBRITIES) and isinstance(value, set) and b"0" in value:
            self._check_celebrities(where, key, value)
        if key[:2] not in (HOME, USER) or not isinstance(value, list) or value[0].startswith(TOKEN):
            return
        owner, floor = id_of(key), int(value[0])
        authors = self._home_authors(owner) if key.startswith(HOME) else [owner]
        live = sorted(tweet for author in authors for tweet in self.database.live_of(author))
        above = [one for one in live if one > floor]
        entries = [int(one) for one in value[1:]]
        if entries != above:
            raise Wrong(
                f"{where} {key[:2].decode()}{owner}, floor {floor}: lacks {sorted(set(above) - set(entries))}, "
                f"has too many {sorted(set(entries) - set(above))}"
            )
        if floor and len(entries) < self.length * REFILL_BELOW:
            raise Wrong(f"{where} {key[:2].decode()}{owner} has {len(entries)} entries above the floor {floor}")
        if floor and self._ever_above(owner, key, floor) < self.length:
            raise Wrong(f"{where} {key[:2].decode()}{owner}: the floor {floor} is too high for any trim")

    def check_scrolled(self, user: int, ids: Sequence[int]) -> None:
        """A home timeline read to its end: all live tweets of the followed authors and his own, of the retweets of one
        tweet the oldest."""
        authors = {*self.database.followed_by(user), user}
        wanted = sorted((tweet for author in authors for tweet in self.database.live_of(author)), reverse=True)
        wanted = [
            one for at, one in enumerate(wanted) if not self._repeats(one, wanted[at + 1 : at + 1 + HIDES_WITHIN])
        ]
        if list(ids) != wanted:
            raise Wrong(
                f"user {user} scrolled and missed {sorted(set(wanted) - set(ids))}, "
                f"and got too many {sorted(set(ids) - set(wanted))}"
            )

    def _repeats(self, tweet_id: int, older: Sequence[int]) -> bool:
        original = self.database.tweets[tweet_id].retweet_of
        return original is not None and any(self.database.tweets[one].retweet_of == original for one in older)

    def _may_be_hidden(self, tweet_id: int) -> bool:
        """Whether anybody retweeted the same before: his retweet may have been there when the page was read."""
        original = self.database.tweets[tweet_id].retweet_of
        tweets = self.database.tweets.values()
        return original is not None and any(one.retweet_of == original and one.id < tweet_id for one in tweets)

    def _check_celebrities(self, where: str, key: bytes, value: set[bytes]) -> None:
        owner = id_of(key)
        wanted = set(self.database.celebrities_of(owner))
        if {int(one) for one in value} - {0} != wanted:
            raise Wrong(f"{where} has celebrities {value} for user {owner}, who follows {wanted}")

    def _home_authors(self, owner: int) -> list[int]:
        return [one for one in self.database.followed_by(owner) if self.database.is_pushed(one)]

    def _ever_above(self, owner: int, key: bytes, floor: int) -> int:
        pairs = self.database.once_followed if key.startswith(HOME) else {(owner, owner)}
        authors = {author for follower, author in pairs if follower == owner}
        return sum(one >= floor for author in authors for one in self.database.all_of(author))
