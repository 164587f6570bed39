"""What each SQL statement of the product means for the database in memory, and an engine that answers by it.

tests/contracts/test_simulated_sql.py asks PostgreSQL the same. A statement that is not here is an error that names it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, NamedTuple, cast

import numpy as np
import sqlalchemy as sa

from consumers import page_queries
from infra import celebrities, outbox, rebuild, tweet_bodies
from infra import database as product
from infra.errors import DatabaseUnavailable
from infra.events import decode_activity
from infra.status import Standing, Status
from infra.timelines import Kind
from producers import relay, status_keeper
from streams import deliver, fan_out, verify
from tests.simulator.database import NO_TIME, Database

Parameters = Mapping[str, Any]
Rows = Iterable[Sequence[Any]]
Meaning = Callable[[Database, Parameters], Rows]

IMPORT_LOCK_SHARED = "SELECT pg_advisory_xact_lock_shared(:key)"


class StandingOrLive(NamedTuple):
    """A row of fan_out's look at authors and tweets."""

    id: int
    status: str | None
    status_before: str | None


class Posted(NamedTuple):
    """A row of deliver's look at whose tweets these are."""

    id: int
    author_id: int
    live: bool


class Candidate(NamedTuple):
    """A row of the status keeper's look at authors."""

    id: int
    status: str
    status_before: str
    status_event: int | None
    followers: int


class Deleted(NamedTuple):
    """A row of fan_out's delete of retweets."""

    id: int
    author_id: int
    deleted_ms: int


def _nothing(database: Database, given: Parameters) -> Rows:
    return []


def _standings_and_live(database: Database, given: Parameters) -> Rows:
    for author in given["authors"]:
        user = database.users.get(author)
        if user is not None and user.standing.is_pulled:
            yield StandingOrLive(author, user.standing.status, user.standing.before)
    for tweet in given["tweets"]:
        if database.is_live(tweet):
            yield StandingOrLive(tweet, None, None)


def _pairs(database: Database, given: Parameters) -> Rows:
    pairs = dict.fromkeys(zip(given["authors"], given["followers"], strict=True))
    return [(author, follower) for author, follower in pairs if (follower, author) in database.follows]


def _newest(database: Database, given: Parameters) -> Rows:
    return [(author, list(islice(database.live_of(author), given["limit"]))) for author in given["ids"]]


def _retweets(database: Database, given: Parameters) -> Rows:
    wanted = set(given["ids"])
    found = [(one.id, one.author) for one in database.tweets.values() if one.retweet_of in wanted and not one.deleted]
    return sorted(found)[: given["limit"]]


def _delete_retweets(database: Database, given: Parameters) -> Rows:
    for tweet_id in given["ids"]:
        tweet = database.tweets[tweet_id]
        if not tweet.deleted:
            tweet.deleted = True
            yield Deleted(tweet_id, tweet.author, 0)


def _append(database: Database, given: Parameters) -> Rows:
    database.append([decode_activity(payload.encode()) for payload in given["payloads"]])
    return []


def _remove(database: Database, given: Parameters) -> Rows:
    sent = set(given["ids"])
    database.outbox[:] = [row for row in database.outbox if row.id not in sent]
    return []


def _of_authors(database: Database, given: Parameters) -> Rows:
    wanted = set(given["ids"])
    return [
        Posted(one, author, database.is_live(one))
        for author in set(given["authors"])
        for one in database.all_of(author)
        if one in wanted
    ]


def _live(database: Database, given: Parameters) -> Rows:
    return [(one, database.tweets[one].author) for one in given["tweets"] if database.is_live(one)]


def _standings(database: Database, given: Parameters) -> Rows:
    found = ((one, database.users[one].standing) for one in given["authors"] if one in database.users)
    return [(one, standing.status, standing.before) for one, standing in found if standing.is_pulled]


def _not_following(database: Database, given: Parameters) -> Rows:
    authors, followers = (map(int, given[name].strip("{}").split(",")) for name in ("authors", "followers"))
    pairs = enumerate(zip(authors, followers, strict=True), start=1)
    return [(place,) for place, (author, follower) in pairs if (follower, author) not in database.follows]


def _home_entries(database: Database, reader: int) -> list[int]:
    authors = [one for one in database.followed_by(reader) if database.is_pushed(one)]
    return sorted((tweet for author in authors for tweet in database.live_of(author)), reverse=True)


def _snapshot(owner: int, entries: Sequence[int], length: int) -> Sequence[Any]:
    floor = entries[length] if len(entries) > length else 0
    return owner, floor, " ".join(map(str, reversed(entries[:length])))


def _home_snapshot(database: Database, given: Parameters) -> Rows:
    return [_snapshot(user, _home_entries(database, user), given["length"]) for user in given["users"]]


def _user_snapshot(database: Database, given: Parameters) -> Rows:
    return [_snapshot(user, list(database.live_of(user)), given["length"]) for user in given["users"]]


def _bodies(database: Database, given: Parameters) -> Rows:
    tweets = (database.tweets[one] for one in given["ids"] if database.is_live(one))
    return [(one.id, one.author, "text", NO_TIME, None, one.retweet_of) for one in tweets]


def _authors_of_page(database: Database, kind: Kind, user: int) -> Sequence[int]:
    return [*database.followed_by(user), user] if kind is Kind.HOME else [user]


def _page(kind: Kind, newest_first: bool) -> Meaning:
    def meaning(database: Database, given: Parameters) -> Rows:
        found = [
            tweet
            for author in _authors_of_page(database, kind, given["user"])
            for tweet in database.live_of(author)
            if (tweet < given["cursor"] if newest_first else tweet >= given["cursor"])
        ]
        return [(one,) for one in sorted(found, reverse=newest_first)[: given["count"]]]

    return meaning


def _celebrities(database: Database, given: Parameters) -> Rows:
    found = ((user, sorted(database.celebrities_of(user))) for user in given["ids"])
    return [(user, authors) for user, authors in found if authors]


def _candidates(database: Database, given: Parameters) -> Rows:
    for author, user in database.users.items():
        followers = len(database.followers_of(author))
        if user.standing.is_pulled or followers >= given["threshold"]:
            yield Candidate(author, user.standing.status, user.standing.before, user.status_event, followers)


def _change(database: Database, given: Parameters) -> Rows:
    user = database.users[given["id"]]
    if user.standing.status != given["old"] or user.status_event != given["event"]:
        return []
    user.standing = Standing(Status(given["new"]), Status(given["before"]))
    return [()]


def _note_event(database: Database, given: Parameters) -> Rows:
    database.users[given["id"]].status_event = len(database.committed)
    return []


def _left(database: Database, given: Parameters) -> Rows:
    return [(any(row.id <= given["last"] for row in database.outbox),)]


def _user(database: Database, given: Parameters) -> Rows:
    return [(1,)] if given["id"] in database.users else []


MEANINGS: dict[str, Meaning] = {
    fan_out._STANDINGS_AND_LIVE.text: _standings_and_live,
    fan_out._PAIRS.text: _pairs,
    fan_out._NEWEST.text: _newest,
    fan_out._RETWEETS.text: _retweets,
    fan_out._DELETE.text: _delete_retweets,
    deliver._OF_AUTHORS.text: _of_authors,
    verify._LIVE.text: _live,
    verify._STANDINGS.text: _standings,
    verify._NOT_FOLLOWING.text: _not_following,
    rebuild._HOME_SNAPSHOT.text: _home_snapshot,
    rebuild._USER_SNAPSHOT.text: _user_snapshot,
    rebuild._ACTIVATE.text: _nothing,
    tweet_bodies._READ.text: _bodies,
    outbox._APPEND.text: _append,
    outbox._WAKE.text: _nothing,
    relay._REMOVE.text: _remove,
    status_keeper._CANDIDATES.text: _candidates,
    status_keeper._CHANGE.text: _change,
    status_keeper._NOTE_EVENT.text: _note_event,
    status_keeper._LEFT.text: _left,
    product._LIMITS.text: _nothing,
    product._LOCK.text: _nothing,
    IMPORT_LOCK_SHARED: _nothing,
    celebrities._CELEBRITIES.text: _celebrities,
    page_queries._USER.text: _user,
    **{page_queries._BELOW[kind].text: _page(kind, newest_first=True) for kind in Kind},
    **{page_queries._FROM[kind].text: _page(kind, newest_first=False) for kind in Kind},
}


class Result:
    """What a statement answered, as SQLAlchemy gives it."""

    def __init__(self, rows: Rows) -> None:
        self._rows = list(rows)

    def __iter__(self) -> Iterator[Sequence[Any]]:
        return iter(self._rows)

    @property
    def rowcount(self) -> int:
        """How many rows there are, or were changed."""
        return len(self._rows)

    def all(self) -> list[Sequence[Any]]:
        """All rows; of scalars all values."""
        return self._rows

    def first(self) -> Sequence[Any] | None:
        """The first row or none."""
        return self._rows[0] if self._rows else None

    def scalars(self) -> "Result":
        """The first column."""
        result = Result([])
        result._rows = [row[0] for row in self._rows]
        return result

    def scalar_one(self) -> Any:
        """The only row's first value."""
        [row] = self._rows
        return row[0]

    def scalar(self) -> Any:
        """The first row's first value or none."""
        return self._rows[0][0] if self._rows else None


class Engine:
    """Stands where the product wants SQLAlchemy's engine. `pause` is called before and after each statement outside of
    a transaction, and before and after each transaction: others go on while a question or an answer is on its way."""

    def __init__(self, database: Database, pause: Callable[[], None] = lambda: None) -> None:
        self.away = False
        self._database = database
        self._pause = pause

    def as_engine(self) -> sa.Engine:
        """For the product's eyes."""
        return cast(sa.Engine, self)

    @contextmanager
    def connect(self) -> Iterator["Connection"]:
        """Statements that each see the newest state."""
        yield Connection(self._database, self._step)

    @contextmanager
    def begin(self) -> Iterator["Connection"]:
        """One transaction."""
        self._step()
        yield Connection(self._database)
        self._pause()

    def followers(self, authors: Sequence[int]) -> list[tuple[int, bytes]]:
        """What `read_followers` of streams/follower_index.py reads, a COPY there."""
        self._step()
        found = [(author, np.array(self._database.followers_of(author), dtype=">u8").tobytes()) for author in authors]
        self._pause()
        return found

    def _step(self) -> None:
        self._pause()
        if self.away:
            raise DatabaseUnavailable("the database is away")


class Connection:
    """Stands for SQLAlchemy's connection."""

    def __init__(self, database: Database, pause: Callable[[], None] = lambda: None) -> None:
        self._database = database
        self._pause = pause

    def execution_options(self, **_: object) -> "Connection":
        """Itself."""
        return self

    def execute(self, statement: sa.TextClause, given: Parameters | None = None) -> Result:
        """The statement's answer."""
        assert statement.text in MEANINGS, f"statements.py does not know what this means: {statement.text}"
        self._pause()
        result = Result(MEANINGS[statement.text](self._database, given or {}))
        self._pause()
        return result
