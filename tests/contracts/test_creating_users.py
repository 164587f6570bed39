"""Creating users on a real database: each handle, id and key is given once, whoever else asks at the same time."""

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from infra import database
from infra.composition import Stores
from infra.errors import AuthorBusy, Conflict, KeyReused
from producers import users
from producers.idempotency import Kept, Name, keep_answers
from producers.publish import Publisher
from tests.contracts.test_publish import count, waits_for_a_lock

WITHIN_S = 10.0

MakeUsers = Callable[[int], list[int]]


def test_a_handle_or_an_id_is_given_once(publisher: Publisher) -> None:
    user = publisher.create_user("ann")

    assert publisher.create_user("ann", user.id) == user
    with pytest.raises(Conflict, match="handle 'ann' is taken"):
        publisher.create_user("ann")
    with pytest.raises(Conflict, match=f"user id {user.id} is taken"):
        publisher.create_user("bob", user.id)


def test_a_user_who_is_being_deleted_is_not_created_again(publisher: Publisher, make_users: MakeUsers) -> None:
    user, fan = make_users(2)
    publisher.follow(fan, user)
    assert not publisher.delete_user(user, limit_s=0).complete

    with pytest.raises(Conflict, match=f"user id {user} is taken by a user who was deleted"):
        publisher.create_user(f"u{user}", user)
    with pytest.raises(Conflict, match=f"handle 'u{user}' is free only when the user who had it is wholly deleted"):
        publisher.create_user(f"u{user}")


def test_the_same_user_created_with_a_key_at_once_is_one(stores: Stores, engine: sa.Engine) -> None:
    with Publisher(stores) as one, ThreadPoolExecutor(8) as threads:
        made = list(threads.map(lambda _: one.create_user("ann", key="k"), range(8)))

        assert len({user.id for user in made}) == 1
        with pytest.raises(KeyReused):
            one.create_user("bob", key="k")
    assert count(engine, "users") == 1


def test_of_two_users_created_with_one_key_at_once_only_the_first_is_made(
    publisher: Publisher, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside, go_on = threading.Event(), threading.Event()

    def hold(connection: sa.Connection, answers: Mapping[Name, Kept]) -> None:
        if not inside.is_set():
            inside.set()
            assert go_on.wait(WITHIN_S)
        keep_answers(connection, answers)

    monkeypatch.setattr(users, "keep_answers", hold)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(publisher.create_user, "ann", key="k")
        assert inside.wait(WITHIN_S)
        second = threads.submit(publisher.create_user, "bob", key="k")
        held_back = waits_for_a_lock(engine)
        go_on.set()
        assert first.result(WITHIN_S).handle == "ann"
        with pytest.raises(KeyReused):
            second.result(WITHIN_S)
    assert held_back
    assert count(engine, "users") == 1


def test_a_user_who_was_there_before_is_kept_under_the_key_too(publisher: Publisher) -> None:
    user = publisher.create_user("ann", 7)

    assert publisher.create_user("ann", 7, key="k") == user
    with pytest.raises(KeyReused):
        publisher.create_user("bob", key="k")


def test_creating_a_user_does_not_wait_for_a_frozen_one_for_ever(
    publisher: Publisher, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_LIMITS", sa.text("SET LOCAL lock_timeout = 100"))
    with ThreadPoolExecutor(1) as threads, engine.begin() as frozen:
        frozen.execute(sa.text("INSERT INTO users (id, handle) VALUES (7, 'ann')"))
        with pytest.raises(AuthorBusy):
            threads.submit(publisher.create_user, "ann").result(3)
