"""Publishing with relays that are killed and frozen: every committed event gets into its author's log, in commit order
(G2). The relays are processes; PostgreSQL, Kafka and the publishers are real.
"""

import secrets
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from random import Random

import pytest
import sqlalchemy as sa

from infra import outbox
from infra.composition import Stores
from infra.events import ActivityType
from infra.health import State
from infra.settings import Settings
from producers.publish import NewTweet, Publisher
from tests.activity_log import Relayed, other_ids, reading_from_now
from tests.stack.author_logs import faults, last_words, log_faults, note_commits, read_committed
from tests.stack.holding_relay import HELD, Place, holding_relay
from tests.stack.random_callers import CALLERS_OF_PUBLISHER, Call, Part, act_together, callers_elsewhere
from tests.waiting import wait_until

MakeUsers = Callable[[int], list[int]]
Trouble = Callable[[Settings, Place, Random], None]

SEED = 20_261_125
AUTHORS, FOLLOWERS_OF_CALLER, SHARED_FOLLOWERS = 300, 30, 20
PUBLISHERS_HERE, PUBLISHERS_ELSEWHERE = 2, 2
KILLS_AFTER_SENDING = 50
OTHER_KILLS = (Place.OWNED, Place.READ, Place.BUFFERED) * 2
PASSES_MAX = 2  # batches that a relay sends and removes before it is held


@pytest.mark.parametrize(
    ("log", "faulty"),
    [
        ([1, 2, 3], False),
        ([1, 2, 1, 2, 3], False),
        ([1, 2, 3, 2, 3], False),
        ([], True),
        ([1, 2], True),
        ([1, 3], True),
        ([1, 3, 2, 3], True),
        ([2, 1, 2, 3], True),
        ([1, 2, 3, 1], True),
        ([1, 2, 3, 9], True),
    ],
)
def test_a_log_repeats_only_from_what_was_sent_to_the_end(log: Sequence[int], faulty: bool) -> None:
    assert bool(log_faults(log, [1, 2, 3])) is faulty


def test_whatever_dies_every_authors_log_is_complete_and_in_commit_order(
    stores: Stores, settings: Settings, engine: sa.Engine
) -> None:
    note_commits(engine)
    rng = Random(SEED)
    with reading_from_now(settings.kafka_bootstrap) as read:
        with publishing(stores, settings, make_parts(engine, rng)) as finish:
            for trouble, place in troubles(rng):
                trouble(settings, place, rng)
                tidy(engine)
            calls = finish()
        with holding_relay(settings):
            wait_until(lambda: outbox.unsent(engine) == 0, "the relay to send the rest")
        relayed = read()

    committed = read_committed(engine)
    assert faults(relayed, committed, calls) == []
    assert len(relayed) > len(committed) > len(calls) > 0
    check_last_words(engine, relayed)


def troubles(rng: Random) -> list[tuple[Trouble, Place]]:
    """In an order by lot."""
    chosen: list[tuple[Trouble, Place]] = [(kill, place) for place in (Place.SENT,) * KILLS_AFTER_SENDING + OTHER_KILLS]
    chosen += [(freeze, place) for place in Place]
    rng.shuffle(chosen)
    return chosen


def kill(settings: Settings, place: Place, rng: Random) -> None:
    """A relay, at this place of one of its first batches."""
    with holding_relay(settings, place, passes_of(place, rng)) as relay:
        relay.wait_for(HELD)


def freeze(settings: Settings, place: Place, rng: Random) -> None:
    """A relay, until a standby has taken over; then it goes on from its place and finds that out."""
    with holding_relay(settings, place, passes_of(place, rng)) as old:
        old.wait_for(HELD)
        old.freeze()
        with holding_relay(settings) as new:
            new.wait_for(State.SERVING)
            old.thaw()
            old.wait_for(State.WAITING)


def passes_of(place: Place, rng: Random) -> int:
    """A relay comes to own the outbox once only."""
    return 0 if place is Place.OWNED else rng.randint(0, PASSES_MAX)


def tidy(engine: sa.Engine) -> None:
    """New rows take the places of removed ones then, so that where they are says nothing about their order."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(sa.text("VACUUM outbox"))


def make_parts(engine: sa.Engine, rng: Random) -> list[list[Part]]:
    """Users, and for each publisher the parts of its callers."""
    callers = (PUBLISHERS_HERE + PUBLISHERS_ELSEWHERE) * CALLERS_OF_PUBLISHER
    count = AUTHORS + SHARED_FOLLOWERS + callers * FOLLOWERS_OF_CALLER
    ids = [secrets.randbelow(1 << 62) + 1 for _ in range(count)]
    with engine.begin() as connection:
        connection.execute(
            sa.text("INSERT INTO users (id, handle) SELECT id, 'u' || id FROM unnest(CAST(:ids AS bigint[])) AS id"),
            {"ids": ids},
        )
    authors, shared = ids[:AUTHORS], ids[AUTHORS : AUTHORS + SHARED_FOLLOWERS]
    own = ids[AUTHORS + SHARED_FOLLOWERS :]
    parts = [Part(rng.getrandbits(32), authors, own[at::callers], shared) for at in range(callers)]
    return [parts[at : at + CALLERS_OF_PUBLISHER] for at in range(0, callers, CALLERS_OF_PUBLISHER)]


@contextmanager
def publishing(stores: Stores, settings: Settings, parts: Sequence[list[Part]]) -> Iterator[Callable[[], list[Call]]]:
    """Callers at work on publishers here and in other processes, and a function that stops them all."""
    stop = threading.Event()
    with ExitStack() as opened:
        elsewhere = [opened.enter_context(callers_elsewhere(settings, one)) for one in parts[PUBLISHERS_HERE:]]
        publishers = [opened.enter_context(Publisher(stores)) for _ in range(PUBLISHERS_HERE)]
        threads = opened.enter_context(ThreadPoolExecutor(PUBLISHERS_HERE))
        opened.callback(stop.set)
        here = [
            threads.submit(act_together, publisher, one, stop.is_set)
            for publisher, one in zip(publishers, parts, strict=False)
        ]

        def finish() -> list[Call]:
            stop.set()
            lists = [one.result() for one in here] + [finish_other() for finish_other in elsewhere]
            return [call for calls in lists for call in calls]

        yield finish


def check_last_words(engine: sa.Engine, relayed: Sequence[Relayed]) -> None:
    """What each author's log says last of a pair or a tweet is what the tables say."""
    with engine.connect() as connection:
        follows = connection.execute(sa.text("SELECT author_id, follower_id FROM follows")).all()
        tweets = connection.execute(sa.text("SELECT author_id, id, deleted_at IS NOT NULL AS gone FROM tweets")).all()
    of_pairs = last_words(relayed, ActivityType.FOLLOWED, ActivityType.UNFOLLOWED)
    assert {pair for pair, word in of_pairs.items() if word is ActivityType.FOLLOWED} == {(*row,) for row in follows}
    assert last_words(relayed, ActivityType.POSTED, ActivityType.DELETED) == {
        (row.author_id, row.id): ActivityType.DELETED if row.gone else ActivityType.POSTED for row in tweets
    }


def test_a_late_committer_is_relayed_and_holds_up_its_own_author_only(
    stores: Stores,
    settings: Settings,
    engine: sa.Engine,
    make_users: MakeUsers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It has its outbox id, and commits only when a later id of another author is in Kafka."""
    late, other = make_users(2)
    has_its_id, may_commit = threading.Event(), threading.Event()
    append = outbox.append

    def append_and_linger(connection: sa.Connection, *arguments: object) -> None:
        append(connection, *arguments)  # type: ignore[arg-type]
        if not has_its_id.is_set():
            has_its_id.set()
            assert may_commit.wait(10)

    monkeypatch.setattr(outbox, "append", append_and_linger)
    with (
        reading_from_now(settings.kafka_bootstrap) as read,
        holding_relay(settings),
        Publisher(stores) as one,
        Publisher(stores) as another,
    ):
        first = one.submit(NewTweet(late, "first"))
        assert has_its_id.wait(10)
        second = another.submit(NewTweet(late, "second"))
        earlier = another.post(NewTweet(other, "not held up"))
        wait_until(lambda: other_ids(read()) == [earlier.id], "the other author's tweet")
        wait_until(lambda: somebody_waits(engine), "the same author's second tweet to wait for the lock")
        assert not first.done()
        may_commit.set()
        ids = [first.result(10).id, second.result(10).id]
        wait_until(lambda: outbox.unsent(engine) == 0, "the relay")
        relayed = read()

    assert other_ids([message for message in relayed if message.event.author_id == late]) == ids
    event_id = {message.event.other_id: message.event_id for message in relayed}
    assert event_id[ids[0]] < event_id[earlier.id] < event_id[ids[1]]


def somebody_waits(engine: sa.Engine) -> bool:
    """Whether somebody waits for an author's lock."""
    with engine.connect() as connection:
        waiting = sa.text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted")
        return bool(connection.execute(waiting).scalar_one())
