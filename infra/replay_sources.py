"""What a replay reads: pages of tweets from the database, then the activity log. Each event comes with the position
that is behind it.

The database knows tweets: a live one as it was posted, one that is gone as its delete. Follows come from the log. What
a replay or a redrive has sent is left out: the log has it already, as it came first.
"""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime
from operator import itemgetter

import numpy as np
import sqlalchemy as sa

from infra.cloud_events import TYPES, constant_headers, headers_of
from infra.database import reading
from infra.errors import KafkaUnavailable, Undecodable
from infra.events import REPLAY_HEADER, Activity, ActivityType, decode_activity, encode_activity
from infra.kafka import Message
from infra.log_reader import Log, LogMessage, LogReader
from infra.replay_jobs import Counts, Job, Position
from infra.replay_what import What
from infra.slots import Ids
from infra.topics import ACTIVITY
from infra.tweet_ids import time_ms_of

# Tweets that one question looks at: some milliseconds, and nothing is held longer than that; and messages of the log
# that are read together, as long as they are small: ours have some hundred bytes.
PAGE_ROWS, PAGE_BYTES = 2_000, 4_194_304
FETCHED_BYTES = 65_536  # of each partition at once, so that a page has something of all of them
READ_S, READ_MORE_S = 0.2, 0.02  # for the first message of a page, where a stop waits no longer; and for more of them
SILENT_MAX_S = 20.0  # of reads without a message; longer than an open transaction holds the log up
SOURCE = "/fanfold/replay/"  # of events that the database tells, with the job's number


@dataclass(frozen=True, slots=True)
class Item:
    """An event to send, the position behind it, and what was looked at for it and for those of its page before it."""

    message: Message
    behind: Position
    counts: Counts


@dataclass(frozen=True, slots=True)
class Page:
    """Some events, how far they go with what is left out behind them, and what was looked at for them."""

    items: Sequence[Item]
    behind: Position
    counts: Counts


def pages(engine: sa.Engine, bootstrap: str, job: Job) -> Iterator[Page]:
    """All that is left of a job, from its position on: the database first. A page may have nothing to send. Raises
    `KafkaUnavailable` when the log gives nothing any more: begun again, it is read by another client, since one that a
    frozen broker refused asks for nothing and says nothing."""
    chosen = _Chosen(job.what, read_followers_of(engine, job.what.followers_of))
    position = job.position
    for page in _of_database(engine, job, position):
        position = page.behind
        yield page
    yield from _of_log(bootstrap, job, position, chosen)


class _Chosen:
    """Whose and which events are meant."""

    def __init__(self, what: What, followers: Ids | None) -> None:
        self._what = what
        self._authors = frozenset(what.authors)
        self._followers = followers

    def has(self, event: Activity) -> bool:
        """Whether this one is."""
        if self._authors and event.author_id not in self._authors:
            return False
        if self._followers is not None and not _is_among(event.author_id, self._followers):
            return False
        since_ms, until_ms = self._what.since_ms, self._what.until_ms
        return (since_ms or 0) <= event.published_ms and (until_ms is None or event.published_ms < until_ms)


def read_followers_of(engine: sa.Engine, user: int | None) -> Ids | None:
    """The ids of a user's followers, ascending: 8 bytes each. None when no user is asked for."""
    if user is None:
        return None
    with reading(engine) as connection:
        found = connection.execute(_FOLLOWERS, {"user": user}).scalar_one()
    return np.frombuffer(bytes(found or b""), dtype=">u8")


def _is_among(author: int, ids: Ids) -> bool:
    at = int(np.searchsorted(ids, author))
    return at < len(ids) and int(ids[at]) == author


def _of_database(engine: sa.Engine, job: Job, position: Position) -> Iterator[Page]:
    after, before = max(position.after_id, job.plan.ids[0]), job.plan.ids[1]
    constant = (*constant_headers(f"{SOURCE}{job.id}"), *_replayed(job))
    while after < before:
        given = {"after": after, "before": before, "rows": PAGE_ROWS, **_filter(job.what)}
        with reading(engine) as connection:
            looked, last = connection.execute(_LAST, given).one()
            rows = connection.execute(_TWEETS, {**given, "before": last + 1}).all() if looked else []
        after = int(last) if looked == PAGE_ROWS else before
        items = [
            Item(_as_message(job, row, constant), replace(position, after_id=row.id), Counts(looked=number))
            for number, row in enumerate(rows, start=1)
        ]
        yield Page(items, replace(position, after_id=after), Counts(looked=looked))


def _filter(what: What) -> dict[str, object]:
    return {"authors": list(what.authors) or None, "followers_of": what.followers_of}


def _as_message(
    job: Job, row: sa.Row[tuple[int, int, bool, datetime]], constant: Sequence[tuple[str, bytes]]
) -> Message:
    kind = ActivityType.POSTED if row.live else ActivityType.DELETED
    value = encode_activity(Activity(kind, row.author_id, row.id, time_ms_of(row.id)))
    author = b"%d" % row.author_id
    headers = [*constant, *headers_of(f"{row.id}-{kind}", TYPES[kind], author, row.created_at, None)]
    return Message(job.what.topic or ACTIVITY.name, value.encode(), author, headers=headers)


def _replayed(job: Job) -> list[tuple[str, bytes]]:
    """For a topic of its own everything is new."""
    return [] if job.what.topic else [(REPLAY_HEADER, b"%d" % job.id)]


def _of_log(bootstrap: str, job: Job, position: Position, chosen: _Chosen) -> Iterator[Page]:
    ends = {partition: last for partition, (_, last) in job.plan.offsets.items()}
    reached = {partition: position.offsets.get(partition, first) for partition, (first, _) in job.plan.offsets.items()}
    left = {(ACTIVITY.name, partition): at for partition, at in reached.items() if at < ends[partition]}
    if not left:
        return
    with closing(LogReader(bootstrap, left, FETCHED_BYTES)) as reader:
        silent_s = 0.0
        while any(at < ends[partition] for partition, at in reached.items()):
            items, looked, unreadable = [], 0, 0
            began_s = time.monotonic()
            messages = mixed(reader, began_s + READ_S)
            silent_s = 0.0 if messages else silent_s + time.monotonic() - began_s
            if silent_s > SILENT_MAX_S:
                raise KafkaUnavailable(f"Kafka at {bootstrap} has given nothing of the log for {SILENT_MAX_S:g} s")
            for message in messages:
                partition = message.log[1]
                if reached[partition] >= ends[partition] or message.offset >= ends[partition]:
                    reached[partition] = ends[partition]
                    continue
                reached[partition] = message.next_offset
                if message.value is None:
                    continue
                looked += 1
                try:
                    sent = _sent_again(job, message, chosen)
                except Undecodable:
                    unreadable += 1
                else:
                    if sent is not None:
                        items.append(
                            Item(sent, replace(position, offsets=dict(reached)), Counts(looked, 0, unreadable))
                        )
            yield Page(items, replace(position, offsets=dict(reached)), Counts(looked, 0, unreadable))


def mixed(reader: LogReader, until_s: float) -> list[LogMessage]:
    """A page of messages, collected until then at most, of all partitions in turn: fan_out works these off side by
    side, and in none of them live events wait behind much more than in another. Each partition's order stays."""
    messages = reader.read(READ_S)
    size = sum(len(one.value or b"") for one in messages)
    while messages and len(messages) < PAGE_ROWS and size < PAGE_BYTES and time.monotonic() < until_s:
        if not (more := reader.read(READ_MORE_S)):
            break
        messages += more
        size += sum(len(one.value or b"") for one in more)
    turns = Counter[Log]()
    in_turn: list[tuple[int, LogMessage]] = []
    for one in messages:
        in_turn.append((turns[one.log], one))
        turns[one.log] += 1
    return [one for _, one in sorted(in_turn, key=itemgetter(0))]


def _sent_again(job: Job, message: LogMessage, chosen: _Chosen) -> Message | None:
    """The message once more, or None for one that is not meant. Raises `Undecodable`."""
    if message.replayed or not chosen.has(decode_activity(message.value)):
        return None
    headers = [*message.headers, *_replayed(job)]
    return Message(job.what.topic or ACTIVITY.name, message.value, message.key, headers=headers)


_FOLLOWERS = sa.text(
    "SELECT string_agg(int8send(follower_id), '' ORDER BY follower_id) FROM follows WHERE author_id = :user"
)
_PAGE = "SELECT id FROM tweets WHERE id > :after AND id < :before ORDER BY id LIMIT :rows"
_LAST = sa.text(f"SELECT count(*), max(id) FROM ({_PAGE}) AS page")  # noqa: S608 - a constant
_TWEETS = sa.text(
    """
    SELECT id, author_id, EXISTS (SELECT FROM live_tweets WHERE live_tweets.id = tweets.id) AS live, created_at
    FROM tweets WHERE id > :after AND id < :before
      AND (CAST(:authors AS bigint[]) IS NULL OR author_id = ANY (CAST(:authors AS bigint[])))
      AND (CAST(:followers_of AS bigint) IS NULL OR EXISTS (
            SELECT FROM follows WHERE follows.author_id = :followers_of AND follower_id = tweets.author_id))
    ORDER BY id
    """
)
