"""fan_out: an author's events become records for the timelines they change.

Input: the activity log, a batch of one partition. Output: chunks, packed into messages of the deliveries log.
`plan_deliveries` is the policy; `FanOut` asks the database and plans. Sent by app.py. Next: deliver.py.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import sqlalchemy as sa

from infra import outbox
from infra.database import AUTHOR_LOCKS_MAX, lock_authors, reading, transaction
from infra.events import (
    ALONE,
    FAMILY,
    NO_IDS,
    ONE_CHUNK,
    Activity,
    ActivityType,
    Delivery,
    DeliveryKind,
    Family,
    encode_deliveries,
)
from infra.kafka import Message
from infra.slots import Ids, slot_of
from infra.status import Standing, Status
from infra.topics import DELIVERIES
from streams.follower_index import FollowerIndex, PackedFollowers

MESSAGE_TARGETS_MAX = 16_384  # follower ids in one message: 128 kB, an eighth of what the broker takes
# Of one merge or unmerge of many: each list is read and written as a whole, some 0.4 ms in each cluster.
WHOLE_LISTS_MAX = 128
MESSAGE_CHUNKS_MAX = 4_000  # in one message: 80 kB beside their targets
_NEW = (DeliveryKind.DELIVER, DeliveryKind.DELIVER_OWN)


class Chunk(NamedTuple):
    """What one event does to timelines of one deliveries partition."""

    partition: int
    kind: DeliveryKind
    subject: int
    published_ms: int
    targets: Ids
    ids: Ids = NO_IDS
    verify: bool = False


@dataclass(frozen=True, slots=True)
class Facts:
    """What the database says about a batch of activity, read after the batch was."""

    live: frozenset[int]  # the posted tweets that are still live
    standings: Mapping[int, Standing]  # of the authors who are not simply pushed
    following: Mapping[tuple[int, int], bool]  # (author, follower) of each follow event → follows now
    newest: Mapping[int, Sequence[int]] = field(default_factory=dict)  # authors' newest ids, descending, to be merged

    def standing(self, author: int) -> Standing:
        """How an author's tweets reach home pages."""
        return self.standings.get(author, _PUSHED)


_PUSHED = Standing()
_COMING_DOWN = Standing(Status.BOTH, Status.PULL)


def plan_deliveries(event: Activity, facts: Facts, followers: PackedFollowers | None, length: int) -> Iterator[Chunk]:
    """The chunks that one event asks for.

    A follow event means "look at this pair", one of a status "look at this author": the row decides, so an old event
    that is replayed does no harm. An unfollow takes the author's entries out in any case, and puts those that are live
    back if the row says so.
    """
    match event.type:
        case ActivityType.POSTED:
            if event.other_id in facts.live:
                yield from _to_timelines(event, facts, followers, DeliveryKind.DELIVER, DeliveryKind.DELIVER_OWN)
        case ActivityType.DELETED:
            yield from _to_timelines(event, facts, followers, DeliveryKind.RETRACT, DeliveryKind.RETRACT_OWN)
        case ActivityType.FOLLOWED | ActivityType.UNFOLLOWED:
            yield from _to_follower(event, facts, length)
        case ActivityType.STATUS_CHANGED:
            yield from _to_all_followers(event, facts, followers, length)


def _to_timelines(
    event: Activity, facts: Facts, followers: PackedFollowers | None, home: DeliveryKind, own: DeliveryKind
) -> Iterator[Chunk]:
    yield _to_one(event.author_id, own, event.other_id, event)
    if followers is not None and facts.standing(event.author_id).is_pushed:
        yield from _to_many(followers, home, event.other_id, event, MESSAGE_TARGETS_MAX)


def _to_follower(event: Activity, facts: Facts, length: int) -> Iterator[Chunk]:
    author, follower = event.author_id, event.other_id
    follows = facts.following.get((author, follower), False)
    # Also when he follows again by now: the index may have been loaded in between, and then a retract passed him by.
    if not follows or event.type is ActivityType.UNFOLLOWED:
        yield _to_one(follower, DeliveryKind.UNMERGE, author, event)
    if not follows:
        yield _to_one(follower, DeliveryKind.REMOVE_CELEBRITY, author, event)
        return
    if facts.standing(author).is_pulled:
        yield _to_one(follower, DeliveryKind.ADD_CELEBRITY, author, event)
    if facts.standing(author).is_pushed:
        yield _to_one(follower, DeliveryKind.MERGE, author, event, _to_merge(facts, author, length))


def _to_all_followers(event: Activity, facts: Facts, followers: PackedFollowers | None, length: int) -> Iterator[Chunk]:
    """On the way to the other side that one is made complete, and on arrival the first one is given up. Nobody arrives
    before the way is applied everywhere (producers/status_keeper.py)."""
    author = event.author_id
    if followers is None:
        return
    match facts.standing(author):
        case Standing(Status.BOTH, Status.PUSH):
            yield from _to_many(followers, DeliveryKind.ADD_CELEBRITY, author, event, MESSAGE_TARGETS_MAX)
        case Standing(Status.BOTH, _):
            merged = _to_merge(facts, author, length)
            yield from _to_many(followers, DeliveryKind.MERGE, author, event, WHOLE_LISTS_MAX, merged)
        case Standing(Status.PULL, _):
            yield from _to_many(followers, DeliveryKind.UNMERGE, author, event, WHOLE_LISTS_MAX)
        case Standing(Status.PUSH, _):
            yield from _to_many(followers, DeliveryKind.REMOVE_CELEBRITY, author, event, MESSAGE_TARGETS_MAX)


def _to_merge(facts: Facts, author: int, length: int) -> Ids:
    return merged_ids(facts.newest.get(author, ()), length)


def merged_ids(newest: Sequence[int], length: int) -> Ids:
    """The ids of a merge: the bound above which it is complete, then an author's newest tweets, which come newest
    first."""
    bound = newest[length] if len(newest) > length else 0
    return np.array([bound, *reversed(newest[:length])], dtype=np.uint64)


def read_newest(connection: sa.Connection, authors: Iterable[int], length: int) -> dict[int, Sequence[int]]:
    """What `merged_ids` needs of each author: one live tweet more than a timeline holds, newest first."""
    rows = connection.execute(_NEWEST, {"ids": list(authors), "limit": length + 1})
    return {row[0]: row[1] for row in rows}


def _to_many(
    followers: PackedFollowers,
    kind: DeliveryKind,
    subject: int,
    event: Activity,
    targets_max: int,
    ids: Ids = NO_IDS,
) -> Iterator[Chunk]:
    for partition, targets in followers.by_partition():
        for start in range(0, len(targets), targets_max):
            part = targets[start : start + targets_max]
            yield Chunk(partition, kind, subject, event.published_ms, part, ids, event.replayed)


def _to_one(owner: int, kind: DeliveryKind, subject: int, event: Activity, ids: Ids = NO_IDS) -> Chunk:
    partition = slot_of(owner) % DELIVERIES.partitions
    return Chunk(partition, kind, subject, event.published_ms, np.array([owner], dtype=">u8"), ids, event.replayed)


def by_tweet_id(plans: Sequence[Sequence[Chunk]]) -> list[Chunk]:
    """The chunks of several activity partitions as one run: each partition's in its order, and new tweets among each
    other as timelines have them. Else a list would get the older tweets of one partition after the newer of another."""
    chunks = [chunk for plan in plans for chunk in plan]
    keys = [np.array([chunk.subject if chunk.kind in _NEW else 0 for chunk in plan], dtype=np.uint64) for plan in plans]
    reached = np.concatenate([np.maximum.accumulate(of_plan) for of_plan in keys]) if chunks else NO_IDS
    return [chunks[at] for at in np.argsort(reached, kind="stable").tolist()]


def pack_messages(chunks: Iterable[Chunk]) -> Iterator[Message]:
    """Messages of bounded size, in order within each partition and family of keys. A merge or unmerge travels alone:
    an unmerge is applied in two calls, and an applied offset must cover whole messages."""
    waiting: dict[int, _Packing] = {}
    for chunk in chunks:
        alone = chunk.kind in ALONE
        packing = waiting.get(chunk.partition)
        if packing is not None and (alone or not packing.has_room(chunk)):
            yield packing.message()
            packing = None
        if packing is None:
            packing = waiting[chunk.partition] = _Packing(chunk.partition)
        packing.add(chunk)
        if alone:
            yield packing.message()
            del waiting[chunk.partition]
    for packing in waiting.values():
        yield packing.message()


class _Packing:
    """A message in the making. Chunks of one kind that follow each other within a family share a record; families have
    different keys, so their order does not matter."""

    def __init__(self, partition: int) -> None:
        self._partition = partition
        self._records: dict[Family, list[list[Chunk]]] = {}
        self._chunks = 0
        self._targets = 0

    def has_room(self, chunk: Chunk) -> bool:
        return self._chunks < MESSAGE_CHUNKS_MAX and self._targets + len(chunk.targets) <= MESSAGE_TARGETS_MAX

    def add(self, chunk: Chunk) -> None:
        records = self._records.setdefault(FAMILY[chunk.kind], [])
        alike = bool(records) and (records[-1][0].kind, records[-1][0].verify) == (chunk.kind, chunk.verify)
        if alike and chunk.kind not in ONE_CHUNK:
            records[-1].append(chunk)
        else:
            records.append([chunk])
        self._chunks += 1
        self._targets += len(chunk.targets)

    def message(self) -> Message:
        records = (_record(chunks) for family in self._records.values() for chunks in family)
        return Message(DELIVERIES.name, encode_deliveries(records), partition=self._partition)


def _record(chunks: Sequence[Chunk]) -> Delivery:
    _, kinds, subjects, published_ms, targets, ids, verify = zip(*chunks, strict=True)
    return Delivery(
        kinds[0],
        np.array(subjects, dtype=">u8"),
        np.array(published_ms, dtype=">i8"),
        np.array([len(part) for part in targets], dtype=">u4"),
        np.concatenate(targets),
        ids[0],
        verify[0],
    )


class FanOut:
    """Fan-out of one activity partition in one consumer generation. Not safe for several threads."""

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._index = FollowerIndex(engine)

    def plan(self, events: Sequence[Activity], facts: Facts, length: int) -> list[Chunk]:
        """What a batch asks for. Idempotent by the timelines: a batch sent twice inserts, removes, merges the same."""
        mine = {(event.author_id, event.other_id) for event in events if _is_of_pair(event)}
        following = {pair: follows for pair, follows in facts.following.items() if pair in mine}
        self._index.set_all_following(changes_by_author(following))
        targeted = {event.author_id for event in events if _fans_out(event, facts)}
        followers = self._index.get_all(targeted)
        chunks: list[Chunk] = []
        for event in events:
            chunks += plan_deliveries(event, facts, followers.get(event.author_id), length)
        return chunks

    def close(self) -> None:
        """Drops the index."""
        self._index.close()


def read_facts(engine: sa.Engine, events: Sequence[Activity], length: int) -> Facts:
    """One look at the database for a whole round, of several partitions at times; first the retweets of what was
    deleted are deleted as well."""
    _delete_retweets(engine, [event.other_id for event in events if event.type is ActivityType.DELETED])
    posted = [event.other_id for event in events if event.type is ActivityType.POSTED]
    pairs = [(event.author_id, event.other_id) for event in events if _is_of_pair(event)]
    with reading(engine) as connection:
        authors = list({event.author_id for event in events})
        found = connection.execute(_STANDINGS_AND_LIVE, {"authors": authors, "tweets": posted}).all()
        standings = {row.id: Standing(Status(row.status), Status(row.status_before)) for row in found if row.status}
        live = {row.id for row in found if not row.status}
        following: dict[tuple[int, int], bool] = {}
        newest: dict[int, Sequence[int]] = {}
        changed = {event.author_id for event in events if event.type is ActivityType.STATUS_CHANGED}
        merged = {author for author in changed if standings.get(author) == _COMING_DOWN}
        if pairs:
            rows = connection.execute(_PAIRS, {"authors": [a for a, _ in pairs], "followers": [f for _, f in pairs]})
            now = {(author, follower) for author, follower in rows}
            following = {pair: pair in now for pair in pairs}
            merged |= {author for author, _ in now}
        if merged:
            newest = read_newest(connection, merged, length)
        return Facts(frozenset(live), standings, following, newest)


def changes_by_author(following: Mapping[tuple[int, int], bool]) -> dict[int, dict[int, bool]]:
    """What a batch's follow events say about the index, author by author.

    It is taken before the batch's first event: an event meets an index that is newer than itself, as it does after a
    load. Harmless: whoever has unfollowed since is unmerged by an event behind it, also when he follows again by then,
    and whoever has followed is merged.
    """
    changes: dict[int, dict[int, bool]] = {}
    for (author, follower), follows in following.items():
        changes.setdefault(author, {})[follower] = follows
    return changes


def _is_of_pair(event: Activity) -> bool:
    return event.type in (ActivityType.FOLLOWED, ActivityType.UNFOLLOWED)


def _fans_out(event: Activity, facts: Facts) -> bool:
    """Whether all followers are its targets."""
    if event.type is ActivityType.STATUS_CHANGED:
        return True
    return not _is_of_pair(event) and facts.standing(event.author_id).is_pushed


def _delete_retweets(engine: sa.Engine, tweet_ids: Sequence[int]) -> None:
    """Deletes the retweets of deleted tweets, with an event each, so that each is retracted in its author's log."""
    while tweet_ids and _delete_some_retweets(engine, tweet_ids):
        outbox.wake_relay(engine)


def _delete_some_retweets(engine: sa.Engine, tweet_ids: Sequence[int]) -> int:
    with reading(engine) as connection:
        found = connection.execute(_RETWEETS, {"ids": list(tweet_ids), "limit": AUTHOR_LOCKS_MAX}).all()
    if not found:
        return 0
    with transaction(engine) as connection:
        lock_authors(connection, [author_id for _, author_id in found])
        gone = connection.execute(_DELETE, {"ids": [tweet_id for tweet_id, _ in found]}).all()
        outbox.append(connection, [Activity(ActivityType.DELETED, author, tweet, ms) for tweet, author, ms in gone])
    return len(found)


_STANDINGS_AND_LIVE = sa.text(
    """
    SELECT id, status, status_before FROM users WHERE id = ANY (CAST(:authors AS bigint[])) AND status <> 'push'
    UNION ALL
    SELECT id, NULL, NULL FROM live_tweets WHERE id = ANY (CAST(:tweets AS bigint[]))
    """
)
_PAIRS = sa.text(
    """
    SELECT author_id, follower_id FROM follows
    JOIN unnest(CAST(:authors AS bigint[]), CAST(:followers AS bigint[])) AS pair (a, f)
      ON author_id = pair.a AND follower_id = pair.f
    """
)
_NEWEST = sa.text(
    """
    SELECT author.id, coalesce(array_agg(tweet.id ORDER BY tweet.id DESC) FILTER (WHERE tweet.id IS NOT NULL), '{}')
    FROM unnest(CAST(:ids AS bigint[])) AS author (id)
    LEFT JOIN LATERAL (
        SELECT id FROM live_tweets WHERE author_id = author.id ORDER BY id DESC LIMIT :limit
    ) AS tweet ON true
    GROUP BY author.id
    """
)
_RETWEETS = sa.text(
    "SELECT id, author_id FROM tweets WHERE retweet_of = ANY (CAST(:ids AS bigint[])) AND deleted_at IS NULL "
    "ORDER BY id LIMIT :limit"
)
_DELETE = sa.text(
    """
    UPDATE tweets SET deleted_at = now(), text = NULL
    WHERE id = ANY (CAST(:ids AS bigint[])) AND deleted_at IS NULL
    RETURNING id, author_id, CAST(extract(epoch FROM clock_timestamp()) * 1000 AS bigint)
    """
)
