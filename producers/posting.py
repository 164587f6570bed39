"""Posting: tweets as rows and events in one transaction (G1), each with its own result.

A batch may hold tweets of many callers. The locks of all its authors are taken before any write, so an author's outbox
ids are in commit order (G2). Next: relay.py.
"""

import json
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime

import sqlalchemy as sa

from infra import outbox, trace
from infra.errors import Conflict, InvalidInput, NotFound, UseError
from infra.events import Activity, ActivityType
from infra.tweet_ids import time_ms_of
from producers.idempotency import Kept, check_key, hash_of, keep_answers, kept_answers
from producers.rules import check_id, check_text, check_type
from producers.snowflake import Snowflakes

ID_ATTEMPTS_MAX = 16  # each further one needs a collision of node number, millisecond and sequence


@dataclass(frozen=True, slots=True)
class NewTweet:
    """What an author posts. A retweet points to an original and repeats its text. With a `key`, posting it again within
    a day returns the first result. `traceparent` is the trace of the call under way, unless it is given."""

    author_id: int
    text: str = ""
    reply_to: int | None = None
    retweet_of: int | None = None
    key: str | None = None
    traceparent: str | None = None


@dataclass(frozen=True, slots=True)
class Tweet:
    """A tweet as it was stored."""

    id: int
    author_id: int
    text: str
    created_at: datetime
    reply_to: int | None = None
    retweet_of: int | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """What the database says about a batch, read under its authors' locks."""

    users: frozenset[int]
    originals: Mapping[int, tuple[int, str]]  # each live tweet that is named → its original's id and text
    kept: Mapping[tuple[int, str], Kept]


def checked(new: NewTweet) -> NewTweet:
    """The tweet with its text in NFC. Raises `InvalidInput`."""
    check_type(new, NewTweet, "a tweet to post")
    check_id(new.author_id, "user")
    new = replace(new, traceparent=_checked_trace(new.traceparent) or trace.current())
    if new.key is not None:
        check_key(new.key)
    if new.retweet_of is not None:
        if new.text or new.reply_to is not None:
            raise InvalidInput("a retweet has no text and no reply_to of its own; leave them out")
        check_id(new.retweet_of, "tweet")
        return new
    if new.reply_to is not None:
        check_id(new.reply_to, "tweet")
    return replace(new, text=check_text(new.text))


def _checked_trace(given: str | None) -> str | None:
    if given is None:
        return None
    parsed = trace.parse(check_type(given, str, "the traceparent"))
    if parsed is None:
        raise InvalidInput(f"the traceparent {reprlib.repr(given)} is malformed; W3C Trace Context says how it looks")
    return parsed


def decide(new: NewTweet, facts: Facts) -> NewTweet | Tweet:
    """What to store: a retweet points to its original. Or what was stored for the same key. Raises `UseError`."""
    kept = facts.kept.get((new.author_id, new.key)) if new.key is not None else None
    if kept is not None:
        return _decode(kept.answer_to(new.author_id, _hash_of(new)))
    if new.author_id not in facts.users:
        raise NotFound(f"user {new.author_id} does not exist")
    named = new.retweet_of or new.reply_to
    if named is not None and named not in facts.originals:
        raise NotFound(f"tweet {named} does not exist")
    if new.retweet_of is None:
        return new
    original_id, text = facts.originals[new.retweet_of]
    return replace(new, text=text, retweet_of=original_id)


def post_batch(
    connection: sa.Connection, batch: Sequence[NewTweet], snowflakes: Snowflakes, now_ms: int
) -> tuple[list[Tweet | UseError], list[Tweet]]:
    """A result for each checked tweet, and the tweets among them that are new. The caller holds the authors' locks.

    Idempotent by key: what a key was answered is kept in the same transaction. A key is in a batch once.
    """
    facts = _read_facts(connection, batch)
    results: dict[int, Tweet | UseError] = {}
    to_store: dict[int, NewTweet] = {}
    for place, new in enumerate(batch):
        try:
            decided = decide(new, facts)
        except UseError as error:
            results[place] = error
            continue
        if isinstance(decided, Tweet):
            results[place] = decided
        else:
            to_store[place] = decided
    if not to_store:
        return [results[place] for place in range(len(batch))], []
    stored = dict(zip(to_store, _store(connection, list(to_store.values()), snowflakes), strict=True))
    events = [Activity(ActivityType.POSTED, tweet.author_id, tweet.id, now_ms) for tweet in stored.values()]
    outbox.append(connection, events, [batch[place].traceparent for place in stored])
    keep_answers(connection, dict(_to_keep(batch[place], tweet) for place, tweet in stored.items() if batch[place].key))
    results.update(stored)
    return [results[place] for place in range(len(batch))], list(stored.values())


def try_lock_originals(connection: sa.Connection, batch: Sequence[NewTweet]) -> set[int]:
    """Locks what this batch retweets, as `post_batch` does, but without waiting: the tweets among it that somebody else
    is deleting. Whether he does in the end, `post_batch` finds out, and waits for that."""
    retweeted = list({new.retweet_of for new in batch if new.retweet_of is not None})
    return set(connection.execute(_TRY_LOCK_ORIGINALS, {"ids": retweeted}).scalars()) if retweeted else set()


def _to_keep(new: NewTweet, tweet: Tweet) -> tuple[tuple[int, str], Kept]:
    assert new.key is not None
    return (new.author_id, new.key), Kept(new.key, _hash_of(new), _encode(tweet))


def _hash_of(new: NewTweet) -> bytes:
    return hash_of(new.text, new.reply_to, new.retweet_of)


def _encode(tweet: Tweet) -> str:
    return json.dumps({**asdict(tweet), "created_at": tweet.created_at.isoformat()})


def _decode(answer: str) -> Tweet:
    value = json.loads(answer)
    return Tweet(**{**value, "created_at": datetime.fromisoformat(value["created_at"])})


def _store(connection: sa.Connection, batch: Sequence[NewTweet], snowflakes: Snowflakes) -> list[Tweet]:
    """Inserts rows under new ids, in this order; a row whose id is taken gets another one."""
    stored: dict[int, Tweet] = {}
    left = dict(enumerate(batch))
    for _ in range(ID_ATTEMPTS_MAX):
        rows = {place: _with_id(new, snowflakes.next()) for place, new in left.items()}
        free = _insert(connection, list(rows.values()))
        stored |= {place: row for place, row in rows.items() if row.id in free}
        left = {place: new for place, new in left.items() if place not in stored}
        if not left:
            return [stored[place] for place in range(len(batch))]
    raise Conflict(f"no free tweet id after {ID_ATTEMPTS_MAX} tries: is another node using the same number?")


def _with_id(new: NewTweet, tweet_id: int) -> Tweet:
    created_at = datetime.fromtimestamp(time_ms_of(tweet_id) / 1000, UTC)
    return Tweet(tweet_id, new.author_id, new.text, created_at, new.reply_to, new.retweet_of)


def _insert(connection: sa.Connection, rows: Sequence[Tweet]) -> set[int]:
    parameters = {
        "ids": [row.id for row in rows],
        "authors": [row.author_id for row in rows],
        "texts": [row.text for row in rows],
        "times": [row.created_at for row in rows],
        "replies": [row.reply_to for row in rows],
        "originals": [row.retweet_of for row in rows],
    }
    return set(connection.execute(_INSERT, parameters).scalars())


def _read_facts(connection: sa.Connection, batch: Sequence[NewTweet]) -> Facts:
    users = connection.execute(_USERS, {"ids": list({new.author_id for new in batch})}).scalars()
    kept = kept_answers(connection, [(new.author_id, new.key) for new in batch if new.key is not None])
    replies = {new.reply_to for new in batch if new.reply_to is not None}
    retweets = {new.retweet_of for new in batch if new.retweet_of is not None}
    return Facts(frozenset(users), _originals(connection, replies, retweets), kept)


def _originals(connection: sa.Connection, replies: set[int], retweets: set[int]) -> dict[int, tuple[int, str]]:
    """The live ones of these tweets. The originals of retweets are locked until the commit, lowest id first: a delete
    of one is then either seen here, or comes after the retweet and takes it with it."""
    if not replies and not retweets:
        return {}
    rows = connection.execute(_LIVE, {"ids": list(replies | retweets)}).all()
    live = {row.id: (row.original_id, row.text) for row in rows}
    wanted = [original for tweet_id, (original, _) in live.items() if tweet_id in retweets]
    if not wanted:
        return live
    locked = set(connection.execute(_LOCK_ORIGINALS, {"ids": wanted}).scalars())
    return {one: found for one, found in live.items() if one not in retweets or found[0] in locked}


_USERS = sa.text("SELECT id FROM users WHERE id = ANY (CAST(:ids AS bigint[])) AND deleted_at IS NULL")
_LIVE = sa.text(
    "SELECT id, coalesce(retweet_of, id) AS original_id, text FROM live_tweets WHERE id = ANY (CAST(:ids AS bigint[]))"
)
_LOCK_ORIGINALS = sa.text(
    """
    SELECT id FROM tweets WHERE id = ANY (CAST(:ids AS bigint[])) AND deleted_at IS NULL
    ORDER BY id FOR SHARE
    """
)
_TRY_LOCK_ORIGINALS = sa.text(
    """
    WITH named AS (
        SELECT id, coalesce(retweet_of, id) AS original_id FROM live_tweets WHERE id = ANY (CAST(:ids AS bigint[]))
    ), locked AS (
        SELECT id FROM tweets WHERE id IN (SELECT original_id FROM named) AND deleted_at IS NULL
        ORDER BY id FOR SHARE SKIP LOCKED
    )
    SELECT id FROM named WHERE original_id NOT IN (SELECT id FROM locked)
    """
)
_INSERT = sa.text(
    """
    INSERT INTO tweets (id, author_id, text, created_at, reply_to, retweet_of)
    SELECT * FROM unnest(CAST(:ids AS bigint[]), CAST(:authors AS bigint[]), CAST(:texts AS text[]),
                         CAST(:times AS timestamptz[]), CAST(:replies AS bigint[]), CAST(:originals AS bigint[]))
    ON CONFLICT DO NOTHING RETURNING id
    """
)
