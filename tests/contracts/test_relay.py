"""The relay on real PostgreSQL and Kafka: everything committed, in order, at least once, by one owner."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import sqlalchemy as sa

import infra.advisory_lock
import producers.relay
from infra import outbox, trace
from infra.advisory_lock import AdvisoryLock, LockClass
from infra.database import lock_authors, transaction
from infra.errors import DatabaseUnavailable, Superseded
from infra.events import Activity, ActivityType
from infra.health import Health, State
from infra.kafka import TransactionalProducer
from infra.settings import Settings
from producers.outbox_watch import look
from producers.publish import NewTweet, Publisher, need_all
from producers.relay import Ownership, Relay
from tests.activity_log import other_ids, reading_from_now
from tests.waiting import wait_until

MakeUsers = Callable[[int], list[int]]


@contextmanager
def running(relay: Relay) -> Iterator[Health]:
    stop, health = threading.Event(), Health()
    thread = threading.Thread(target=relay.run, args=(stop, health))
    thread.start()
    try:
        wait_until(lambda: health.state is State.SERVING)
        yield health
    finally:
        stop.set()
        thread.join(20)
        assert not thread.is_alive()


@pytest.fixture
def relay(engine: sa.Engine, settings: Settings) -> Relay:
    return Relay(engine, settings.database_url, settings.kafka_bootstrap)


@pytest.fixture
def owner(relay: Relay, monkeypatch: pytest.MonkeyPatch) -> Iterator[Relay]:
    """One that owns the outbox, for single steps, however long the test takes between them."""
    monkeypatch.setattr(infra.advisory_lock, "IDLE_SESSION_TIMEOUT_MS", 0)
    assert relay._ownership.try_take()
    yield relay
    relay._ownership.give_back()


def test_what_is_published_is_relayed_in_order_and_removed(
    relay: Relay, publisher: Publisher, engine: sa.Engine, settings: Settings, make_users: MakeUsers
) -> None:
    [author] = make_users(1)
    with reading_from_now(settings.kafka_bootstrap) as relayed, running(relay):
        first = [publisher.post(NewTweet(author, f"tweet {number}")).id for number in range(20)]
        wait_until(lambda: outbox.unsent(engine) == 0)
        second = publisher.post(NewTweet(author, "after a sleep")).id
        wait_until(lambda: outbox.unsent(engine) == 0)

        assert other_ids(relayed()) == [*first, second]


TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
OTHER_TRACE = "00-0af7651916cd43dd8448eb211c80319c-b9c7c989f97918e1-00"


def test_an_event_carries_the_trace_of_the_call_that_made_it(
    owner: Relay, publisher: Publisher, settings: Settings, make_users: MakeUsers
) -> None:
    [author] = make_users(1)
    with reading_from_now(settings.kafka_bootstrap) as relayed:
        with trace.within(TRACE):
            publisher.post(NewTweet(author, "traced"))
        publisher.post(NewTweet(author, "not traced"))
        owner.step(TransactionalProducer(settings.kafka_bootstrap, "test-trace"))

        assert [message.headers.get("traceparent") for message in relayed()] == [TRACE.encode(), None]


def test_events_written_together_keep_the_traces_of_their_own_calls(
    owner: Relay, engine: sa.Engine, settings: Settings
) -> None:
    with reading_from_now(settings.kafka_bootstrap) as relayed:
        with trace.within(TRACE), transaction(engine) as connection:
            lock_authors(connection, [7])
            events = [Activity(ActivityType.POSTED, 7, tweet_id, 0) for tweet_id in (1, 2, 3)]
            outbox.append(connection, events, [OTHER_TRACE, None, TRACE])
        owner.step(TransactionalProducer(settings.kafka_bootstrap, "test-traces"))

        assert [(message.event.other_id, message.headers.get("ce_traceparent")) for message in relayed()] == [
            (1, OTHER_TRACE.encode()),
            (2, None),
            (3, TRACE.encode()),
        ]


def test_a_crash_between_commit_and_removal_sends_again_in_the_same_order(
    owner: Relay,
    publisher: Publisher,
    settings: Settings,
    make_users: MakeUsers,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    [author] = make_users(1)
    ids = [tweet.id for tweet in need_all(publisher.post_many([NewTweet(author, f"{number}") for number in range(5)]))]

    def die(_: object) -> None:
        raise OSError("killed before the removal")

    with reading_from_now(settings.kafka_bootstrap) as relayed:
        producer = TransactionalProducer(settings.kafka_bootstrap, "test-relay")
        with monkeypatch.context() as patch:
            patch.setattr(owner, "_remove", die)
            with pytest.raises(OSError, match="before the removal"):
                owner.step(producer)
        assert owner.step(producer) == 5
        assert owner.step(producer) == 0

        messages = relayed()
        assert other_ids(messages) == [*ids, *ids]
        event_ids = [message.headers["ce_id"] for message in messages]
        assert event_ids == event_ids[:5] * 2
        assert len(set(event_ids)) == 5


def test_a_superseded_relay_cannot_get_its_buffer_in(
    owner: Relay, publisher: Publisher, engine: sa.Engine, settings: Settings, make_users: MakeUsers
) -> None:
    [author] = make_users(1)
    with reading_from_now(settings.kafka_bootstrap) as relayed:
        old = TransactionalProducer(settings.kafka_bootstrap, "test-fenced-relay")
        new = TransactionalProducer(settings.kafka_bootstrap, "test-fenced-relay")
        tweet = publisher.post(NewTweet(author, "hello"))

        with pytest.raises(Superseded):
            owner.step(old)
        old.close()
        assert outbox.unsent(engine) == 1
        owner.step(new)

        assert other_ids(relayed()) == [tweet.id]


def test_one_relay_owns_the_outbox_until_its_session_ends(settings: Settings) -> None:
    first, second = Ownership(settings.database_url), Ownership(settings.database_url)

    assert first.try_take()
    assert not second.try_take()
    first.give_back()
    wait_until(second.try_take)
    second.give_back()


def test_a_lock_of_one_class_keeps_nobody_from_one_of_another(settings: Settings) -> None:
    locks = [AdvisoryLock(settings.database_url, lock_class, number=5) for lock_class in LockClass]

    assert len(locks) > 1
    assert all(lock.try_take() for lock in locks)
    for lock in locks:
        lock.give_back()


def test_a_frozen_owner_loses_the_outbox(settings: Settings, engine: sa.Engine) -> None:
    """No ping for 3 s: the server ends the session, as it does when the process is stopped."""
    frozen, next_ = Ownership(settings.database_url), Ownership(settings.database_url)
    assert frozen.try_take()

    wait_until(next_.try_take, limit_s=10)

    with pytest.raises(DatabaseUnavailable):
        frozen.unsent()
    next_.give_back()
    with engine.connect() as connection:
        held = connection.execute(
            sa.text(
                "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = :class AND database = "
                "(SELECT oid FROM pg_database WHERE datname = current_database())"
            ),
            {"class": LockClass.RELAY.value},
        ).scalar_one()
    assert held == 0


def test_a_second_relay_stands_by_and_takes_over(engine: sa.Engine, relay: Relay, settings: Settings) -> None:
    owner = Ownership(settings.database_url)
    assert owner.try_take()
    stop, health = threading.Event(), Health()
    thread = threading.Thread(target=relay.run, args=(stop, health))
    thread.start()
    try:
        wait_until(lambda: health.state is State.STANDBY)
        assert (health.ready().status, health.alive().status) == ("standby", "alive")
        owner.give_back()
        wait_until(lambda: health.state is State.SERVING)
        assert health.ready().status == "ready"
    finally:
        stop.set()
        thread.join(20)


def test_a_relay_without_a_database_is_alive_and_not_ready(engine: sa.Engine, settings: Settings) -> None:
    relay = Relay(engine, "postgresql://postgres@127.0.0.1:1/none", settings.kafka_bootstrap)
    stop, health = threading.Event(), Health()
    thread = threading.Thread(target=relay.run, args=(stop, health))
    thread.start()
    try:
        wait_until(lambda: health.state is State.WAITING)
        assert health.ready().reasons == ("the relay waits: DatabaseUnavailable",)
        assert health.alive().status == "alive"
    finally:
        stop.set()
        thread.join(20)


def test_the_outbox_is_as_old_as_its_oldest_unsent_event(
    engine: sa.Engine, publisher: Publisher, make_users: MakeUsers, owner: Relay, settings: Settings
) -> None:
    assert look(engine) == (0, 0.0)
    publisher.post_many([NewTweet(make_users(1)[0], f"{number}") for number in range(3)])
    with engine.begin() as connection:
        connection.execute(
            sa.text(
                "UPDATE outbox SET created_at = created_at - interval '1 minute' "
                "WHERE id = (SELECT min(id) FROM outbox)"
            )
        )

    unsent, age_s = look(engine)
    assert unsent == 3
    assert 60 <= age_s < 90

    owner.step(TransactionalProducer(settings.kafka_bootstrap, "test-relay-age"))
    assert look(engine) == (0, 0.0)


def test_the_outbox_is_vacuumed_as_rows_are_removed(
    owner: Relay,
    engine: sa.Engine,
    publisher: Publisher,
    make_users: MakeUsers,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else each look would step over everything that was sent since autovacuum came."""
    monkeypatch.setattr(producers.relay, "VACUUM_AFTER_ROWS", 3)
    [author] = make_users(1)
    producer = TransactionalProducer(settings.kafka_bootstrap, "test-relay-vacuum")
    for number in range(5):
        publisher.post(NewTweet(author, f"{number}"))
        assert owner.step(producer) == 1

    wait_until(lambda: vacuums(engine) > 0)
    assert vacuums(engine) == 1


def vacuums(engine: sa.Engine) -> int:
    """How often the outbox was vacuumed, but for autovacuum."""
    with engine.connect() as connection:
        counted = sa.text("SELECT vacuum_count FROM pg_stat_user_tables WHERE relname = 'outbox'")
        return int(connection.execute(counted).scalar_one())
