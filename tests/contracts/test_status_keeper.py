"""The status keeper on a real database and Kafka: who takes a step, when, and with which event."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from infra.events import Activity, ActivityType, decode_activity
from infra.settings import Settings
from infra.status import Standing, Status
from infra.topics import Topic
from producers import status_keeper
from producers.publish import Publisher, need_all
from producers.status_keeper import StatusKeeper, due_steps, take_steps

MakeUsers = Callable[[int], list[int]]

PUSH, BOTH, PULL = Status
THRESHOLD = 3
NOW_MS = 1_700_000_000_000


def standing_of(engine: sa.Engine, user_id: int) -> Standing:
    with engine.connect() as connection:
        row = connection.execute(
            sa.text("SELECT status, status_before FROM users WHERE id = :id"), {"id": user_id}
        ).one()
    return Standing(Status(row.status), Status(row.status_before))


def events(engine: sa.Engine) -> list[Activity]:
    with engine.connect() as connection:
        payloads = connection.execute(sa.text("SELECT payload FROM outbox ORDER BY id")).scalars().all()
    return [decode_activity(payload.encode()) for payload in payloads]


def pretend_sent(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        connection.execute(sa.text("DELETE FROM outbox"))


def step_all(engine: sa.Engine) -> list[Standing]:
    return [one.after for one in take_steps(engine, due_steps(engine, THRESHOLD), NOW_MS)]


@pytest.fixture
def star(publisher: Publisher, make_users: MakeUsers) -> int:
    """An author with one follower more than the threshold."""
    author, *followers = make_users(THRESHOLD + 2)
    need_all(publisher.follow_many([(follower, author) for follower in followers]))
    return author


def counted(engine: sa.Engine) -> tuple[dict[int, int], dict[int, int]]:
    with engine.connect() as connection:
        held = connection.execute(sa.text("SELECT * FROM follower_counts WHERE followers <> 0")).all()
        real = connection.execute(sa.text("SELECT author_id, count(*) FROM follows GROUP BY author_id")).all()
    return {row[0]: row[1] for row in held}, {row[0]: row[1] for row in real}


def test_followers_are_counted_as_they_follow_unfollow_block_and_go(
    publisher: Publisher, engine: sa.Engine, make_users: MakeUsers
) -> None:
    users = make_users(8)
    pairs = [(one, other) for one in users for other in users if one != other]
    publisher.follow_many([*pairs, *pairs[:9]])
    publisher.unfollow_many([*pairs[::5], *pairs[::5]])
    publisher.block(users[0], users[1])
    publisher.delete_user(users[2])
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda pair: publisher.follow(*pair), [pair for pair in pairs if users[2] not in pair][10:20]))

    held, real = counted(engine)

    assert real
    assert held == real


def test_each_step_is_one_row_and_one_event_and_the_next_one_is_of_the_same_rule(engine: sa.Engine, star: int) -> None:
    pretend_sent(engine)

    assert step_all(engine) == [Standing(BOTH, PUSH)]
    assert events(engine) == [Activity(ActivityType.STATUS_CHANGED, star, star, NOW_MS)]
    assert step_all(engine) == [Standing(PULL, BOTH)]
    assert step_all(engine) == []
    assert standing_of(engine, star) == Standing(PULL, BOTH)
    assert len(events(engine)) == 2


def test_a_step_that_somebody_else_has_taken_is_not_taken_again(engine: sa.Engine, star: int) -> None:
    pretend_sent(engine)
    seen = due_steps(engine, THRESHOLD)
    with ThreadPoolExecutor(8) as threads:
        taken = list(threads.map(lambda _: take_steps(engine, seen, NOW_MS), range(8)))

    assert sorted(map(len, taken)) == [0] * 7 + [1]
    assert len(events(engine)) == 1


def test_a_user_who_is_deleted_stays_where_he_is(publisher: Publisher, engine: sa.Engine, star: int) -> None:
    seen = due_steps(engine, THRESHOLD)
    publisher.hide_user(star)

    assert take_steps(engine, seen, NOW_MS) == []
    assert due_steps(engine, THRESHOLD) == []


def test_the_next_step_waits_until_the_last_one_is_sent_and_acknowledged(
    engine: sa.Engine, settings: Settings, star: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(status_keeper, "POLL_S", 0.01)
    asked, open_ = list[str](), {"activity": False, "deliveries": False}

    class Ends:
        """Where a log ended when it was asked for; the test says when all of it is acknowledged."""

        def __init__(self, _: str, topic: Topic) -> None:
            self._name = topic.name
            asked.append(topic.name)

        def are_acknowledged(self) -> bool:
            return open_[self._name]

    monkeypatch.setattr(status_keeper, "LogEnds", Ends)
    stop = threading.Event()
    keeper = StatusKeeper(engine, settings.kafka_bootstrap, lambda: THRESHOLD, stop)
    assert keeper.round()
    assert standing_of(engine, star).status is BOTH

    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(keeper.round)
        assert not waiting.done()
        pretend_sent(engine)
        assert not waiting.done()
        open_["activity"] = True
        assert not waiting.done()
        open_["deliveries"] = True
        assert waiting.result(10)
    assert asked == ["activity", "deliveries"]
    assert standing_of(engine, star).status is BOTH
    assert keeper.round()
    assert standing_of(engine, star).status is PULL


def test_a_keeper_that_begins_anew_knows_nothing_of_what_is_applied(
    engine: sa.Engine, settings: Settings, star: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the first one knew may be of another author's step that it did not see."""
    step_all(engine)
    stop = threading.Event()
    monkeypatch.setattr(StatusKeeper, "_wait_until_applied", lambda *_: stop.set())

    StatusKeeper(engine, settings.kafka_bootstrap, lambda: THRESHOLD, stop).run()

    assert standing_of(engine, star).status is BOTH


def test_it_ends_while_it_waits(engine: sa.Engine, settings: Settings, star: int) -> None:
    step_all(engine)
    stop = threading.Event()
    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(StatusKeeper(engine, settings.kafka_bootstrap, lambda: THRESHOLD, stop).run)
        stop.set()
        assert running.result(10) is None


def test_erasing_counts_the_followers_of_whom_he_followed(
    publisher: Publisher, engine: sa.Engine, make_users: MakeUsers, star: int
) -> None:
    [user] = make_users(1)
    publisher.follow(user, star)
    publisher.delete_user(user)

    held, real = counted(engine)
    assert held == real == {star: THRESHOLD + 1}
