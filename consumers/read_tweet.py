"""read_tweet: live tweets by id, from the cache and then the database."""

from collections.abc import Sequence

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


def read_tweet(bodies: TweetBodies, tweet_id: int) -> Body:
    """One tweet. Raises `NotFound` when it is not live."""
    for body in read_live(bodies, [tweet_id]):
        return body
    raise NotFound(f"tweet {tweet_id} does not exist")
