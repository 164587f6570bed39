"""verify: what came outside of the live order, compared with the database right before it is applied.

Input: a run's records, of which those that carry `verify` are looked at. Output: the same records without what is not
right any more. What changes after the look has its own retract, merge or unmerge behind them in the owner's log. So a
replay, or a dead letter that is driven again, brings back nothing that was deleted or unfollowed, and takes nothing
away that is right. Set-based: no loop over followers. Next: node_calls.py.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import sqlalchemy as sa

from infra.database import reading
from infra.events import ONE_CHUNK, Delivery, DeliveryKind
from infra.slots import Ids
from infra.status import Standing, Status
from streams.fan_out import merged_ids, read_newest
from streams.node_calls import Placed

NOBODY = 0  # instead of an author: no follow decides
_PUSHED = Standing()

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Truth:
    """What the database says about a run's records."""

    author_of: Mapping[int, int]  # live tweet → its author
    standings: Mapping[int, Standing]  # of the authors who are not simply pushed
    newest: Mapping[int, Sequence[int]]  # of the authors who are merged

    def is_pushed(self, author: int) -> bool:
        """Whether home timelines hold his tweets."""
        return self.standings.get(author, _PUSHED).is_pushed

    def is_pulled(self, author: int) -> bool:
        """Whether he belongs into the sets of followed celebrities."""
        return self.standings.get(author, _PUSHED).is_pulled


@dataclass(frozen=True, slots=True)
class Rule:
    """What decides about each chunk's targets: whether they follow the author in `by_follow`, and `otherwise` the
    chunk as a whole. `ends`: it is for those who do not follow."""

    by_follow: Ids
    otherwise: Mask
    ends: bool = False


def verified(engine: sa.Engine, placed: Sequence[Placed], length: int) -> list[Placed]:
    """These records, those with `verify` as far as they are right now. Merges get the ids of now, and unmerges stay
    whole: what they may take is asked when the lists were read (`read_kept`). `length` is that of timelines."""
    records = [one.record for one in placed if _is_checked(one.record)]
    if not records:
        return list(placed)
    with reading(engine) as connection:
        truth = _read_truth(connection, records, length)
        rules = [rule_of(record, truth) for record in records]
        authors = [np.repeat(rule.by_follow, record.counts) for rule, record in zip(rules, records, strict=True)]
        follow = _read_following(connection, authors, [record.targets for record in records])
    right = (
        _only(record, _mask(rule, of_targets, record, follows), truth, length)
        for record, rule, of_targets, follows in zip(records, rules, authors, follow, strict=True)
    )
    found = [replace(one, record=next(right)) if _is_checked(one.record) else one for one in placed]
    return [one for one in found if len(one.record.targets) or not one.record.verify]


def read_kept(connection: sa.Connection, unmerges: Iterable[Delivery]) -> set[tuple[int, int]]:
    """Of unmerges with `verify` the pairs (author, owner) where he follows again by now: he keeps what is live."""
    asked = [record for record in unmerges if record.verify]
    standings = _read_standings(connection, {record.subject for record in asked}) if asked else {}
    asked = [record for record in asked if standings.get(record.subject, _PUSHED).is_pushed]
    authors = [np.full(len(record.targets), record.subject, dtype=np.uint64) for record in asked]
    follow = _read_following(connection, authors, [record.targets for record in asked])
    return {
        (record.subject, owner)
        for record, follows in zip(asked, follow, strict=True)
        for owner in record.targets[follows].tolist()
    }


def rule_of(record: Delivery, truth: Truth) -> Rule:
    """The policy: what must hold of a record of each kind."""
    subjects = record.subjects.tolist()
    match record.kind:
        case DeliveryKind.DELIVER:
            authors = [truth.author_of.get(tweet, NOBODY) for tweet in subjects]
            return _rule([author if truth.is_pushed(author) else NOBODY for author in authors], [False] * len(subjects))
        case DeliveryKind.DELIVER_OWN:
            return _rule([NOBODY] * len(subjects), [tweet in truth.author_of for tweet in subjects])
        case DeliveryKind.RETRACT | DeliveryKind.RETRACT_OWN:
            return _rule([NOBODY] * len(subjects), [tweet not in truth.author_of for tweet in subjects])
        case DeliveryKind.MERGE:
            return _rule([author if truth.is_pushed(author) else NOBODY for author in subjects], [False])
        case DeliveryKind.ADD_CELEBRITY:
            return _rule([author if truth.is_pulled(author) else NOBODY for author in subjects], [False])
        case DeliveryKind.REMOVE_CELEBRITY:
            return _rule([author if truth.is_pulled(author) else NOBODY for author in subjects], [True], ends=True)
        case DeliveryKind.UNMERGE:
            return _rule([NOBODY], [True])


def _rule(by_follow: Sequence[int], otherwise: Sequence[bool], *, ends: bool = False) -> Rule:
    return Rule(np.array(by_follow, dtype=np.uint64), np.array(otherwise, dtype=np.bool_), ends)


def _is_checked(record: Delivery) -> bool:
    return record.verify and record.kind is not DeliveryKind.UNMERGE


def _mask(rule: Rule, authors: Ids, record: Delivery, follows: Mask) -> Mask:
    """Which targets stay."""
    return np.where(authors != NOBODY, follows != rule.ends, np.repeat(rule.otherwise, record.counts))


def _only(record: Delivery, stays: Mask, truth: Truth, length: int) -> Delivery:
    """The record with these of its targets."""
    if record.kind is DeliveryKind.MERGE:
        record = replace(record, ids=merged_ids(truth.newest.get(record.subject, ()), length))
    if stays.all():
        return record
    chunk_of = np.repeat(np.arange(len(record.counts)), record.counts)
    counts = np.bincount(chunk_of[stays], minlength=len(record.counts)).astype(np.uint32)
    return replace(record, targets=record.targets[stays], counts=counts)


def _read_truth(connection: sa.Connection, records: Sequence[Delivery], length: int) -> Truth:
    """Several statements: each is right by itself, since what changes after one of them has its event behind."""
    of_authors = {record.subject for record in records if record.kind in ONE_CHUNK}
    merged = {record.subject for record in records if record.kind is DeliveryKind.MERGE}
    tweets = {tweet for record in records if record.kind not in ONE_CHUNK for tweet in record.subjects.tolist()}
    author_of: dict[int, int] = {}
    if tweets:
        author_of = {row[0]: row[1] for row in connection.execute(_LIVE, {"tweets": list(tweets)})}
    standings = _read_standings(connection, {*author_of.values(), *of_authors})
    return Truth(author_of, standings, read_newest(connection, merged, length) if merged else {})


def _read_standings(connection: sa.Connection, authors: Iterable[int]) -> dict[int, Standing]:
    rows = connection.execute(_STANDINGS, {"authors": list(authors)})
    return {author: Standing(Status(status), Status(before)) for author, status, before in rows}


def _read_following(connection: sa.Connection, authors: Sequence[Ids], targets: Sequence[Ids]) -> list[Mask]:
    """For each target whether he follows the author beside him now; anything where that is nobody. Each pair is asked
    once, in the order of the index."""
    if not authors:
        return []
    author, target = np.concatenate(authors).astype(np.uint64), np.concatenate(targets).astype(np.uint64)
    asked = author != NOBODY
    follows = np.zeros(len(author), dtype=np.bool_)
    if asked.any():
        some, place_of_author = np.unique(author[asked], return_inverse=True)
        users, place_of_user = np.unique(target[asked], return_inverse=True)
        both, back = np.unique((place_of_author << 32) | place_of_user, return_inverse=True)
        pairs = {"authors": _as_array(some[both >> 32]), "followers": _as_array(users[both & 0xFFFFFFFF])}
        does = np.ones(len(both), dtype=np.bool_)
        does[np.array([place - 1 for (place,) in connection.execute(_NOT_FOLLOWING, pairs)], dtype=np.int64)] = False
        follows[asked] = does[back]
    return np.split(follows, np.cumsum([len(one) for one in authors])[:-1])


def _as_array(ids: Ids) -> str:
    """As PostgreSQL reads an array: a quarter of a million at most, for which psycopg's own way takes ten times as
    long."""
    return "{" + ",".join(map(str, ids.tolist())) + "}"


_LIVE = sa.text("SELECT id, author_id FROM live_tweets WHERE id = ANY (CAST(:tweets AS bigint[]))")
_STANDINGS = sa.text(
    "SELECT id, status, status_before FROM users WHERE id = ANY (CAST(:authors AS bigint[])) AND status <> 'push'"
)
# OFFSET 0 keeps it a look into the index for each pair; a join would be planned as a read of all follows at times.
_NOT_FOLLOWING = sa.text(
    """
    SELECT pair.place
    FROM unnest(CAST(CAST(:authors AS text) AS bigint[]), CAST(CAST(:followers AS text) AS bigint[]))
         WITH ORDINALITY AS pair (author_id, follower_id, place)
    WHERE NOT EXISTS (
        SELECT FROM follows WHERE author_id = pair.author_id AND follower_id = pair.follower_id OFFSET 0
    )
    """
)
