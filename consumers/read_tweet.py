"""read_tweet: live tweets by id, from the cache and then the database."""

from collections.abc import Sequence

from consumers.page_rules import Live
from infra.errors import NotFound
from infra.tweet_bodies import Body, TweetBodies


def read_live(bodies: TweetBodies, ids: Sequence[int]) -> list[Body]:
    """The live ones among these tweets, in this order; a retweet of a deleted tweet is not live."""
    found = bodies.read(ids)
    originals = {body.retweet_of for body in found.values() if body.retweet_of is not None}
    live = bodies.read(list(originals)) if originals else {}
    return [
        found[one] for one in ids if one in found and (found[one].retweet_of is None or found[one].retweet_of in live)
    ]


def read_entries(bodies: TweetBodies, ids: Sequence[int]) -> list[Live]:
    """The same as the entries of a page, which have to know whether a reply's parent is live.

    One more round trip a node when there are retweets or replies, and another when a parent is a retweet.
    """
    known = bodies.read(ids)
    if all(body.reply_to is None and body.retweet_of is None for body in known.values()):
        return [Live(known[one]) for one in ids if one in known]
    replied = {body.reply_to for body in known.values() if body.reply_to is not None}
    named = replied.union(body.retweet_of for body in known.values() if body.retweet_of is not None)
    _read_more(bodies, known, named.difference(ids))
    if replied:
        parents = (known[one] for one in replied if one in known)
        _read_more(
            bodies, known, {one.retweet_of for one in parents if one.retweet_of is not None}.difference(named, ids)
        )

    def live(tweet_id: int) -> bool:
        body = known.get(tweet_id)
        return body is not None and (body.retweet_of is None or body.retweet_of in known)

    return [Live(known[one], known[one].reply_to is None or live(known[one].reply_to or 0)) for one in ids if live(one)]


def read_tweet(bodies: TweetBodies, tweet_id: int) -> Body:
    """One tweet. Raises `NotFound` when it is not live."""
    for body in read_live(bodies, [tweet_id]):
        return body
    raise NotFound(f"tweet {tweet_id} does not exist")


def _read_more(bodies: TweetBodies, known: dict[int, Body], ids: set[int]) -> None:
    if ids:
        known |= bodies.read(list(ids))
