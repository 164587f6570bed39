"""Batches over HTTP that are sent again, on the real stores: answered the same, and nothing more is done."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from infra.composition import Stores
from infra.tokens import Scope
from producers.api_batches import item_key
from producers.publish import NewTweet, Publisher
from tests.http_client import Client, client_of, problem_of

NOT_YET = 8_000_000_000_000_000_001
TWEETS = "/v1/tweets:batch"


@pytest.fixture
def client(stores: Stores) -> Client:
    return client_of(stores)


@pytest.fixture
def user_ids(make_users: Callable[[int], list[int]]) -> list[int]:
    return make_users(4)


Send = Callable[..., httpx.Response]


@pytest.fixture
def send(client: Client) -> Send:
    """Sends a batch with the same key each time."""

    def one(admin: int, path: str, body: Any) -> httpx.Response:
        headers = client.acting(admin, Scope.ADMIN) | {"Idempotency-Key": "a-key"}
        return client.post(path, json=body, headers=headers)

    return one


def following(client: Client, user_id: int) -> list[str]:
    return [one["id"] for one in client.get(f"/v1/users/{user_id}/following").json()["users"]]


def test_a_repeated_batch_of_follows_does_not_follow_again(client: Client, send: Send, user_ids: list[int]) -> None:
    admin, follower, author, other = user_ids
    path, body = f"/v1/users/{follower}/following:batch", {"ids": [str(author), str(NOT_YET), str(follower)]}
    first = send(admin, path, body)
    assert [one["status"] for one in first.json()["results"]] == [204, 404, 422]
    client.delete(f"/v1/users/{follower}/following/{author}", headers=client.acting(follower))

    again = send(admin, path, body)

    assert (again.status_code, again.content) == (200, first.content)
    assert following(client, follower) == []
    problem_of(send(admin, f"/v1/users/{other}/following:batch", body), 409)


def test_a_tweet_of_a_batch_that_was_refused_is_refused_again(client: Client, send: Send, user_ids: list[int]) -> None:
    body = {"tweets": [{"text": "Hello"}, {"text": "Hello", "author_id": str(NOT_YET)}]}
    first = send(user_ids[0], TWEETS, body)
    assert [one["status"] for one in first.json()["results"]] == [201, 404]
    assert client.post("/v1/users", json={"handle": "later", "id": str(NOT_YET)}).status_code == 201

    again = send(user_ids[0], TWEETS, body)

    assert (again.status_code, again.content) == (200, first.content)
    assert client.get(f"/v1/users/{NOT_YET}/timeline").json()["tweets"] == []


def test_two_who_act_may_choose_the_same_key(client: Client, send: Send, user_ids: list[int]) -> None:
    one, other, author, _ = user_ids
    posted = []
    for admin, text in [(one, "Hello"), (other, "Hello"), (one, "Hello")]:
        (result,) = send(admin, TWEETS, {"tweets": [{"text": text, "author_id": str(author)}]}).json()["results"]
        assert result["status"] == 201
        posted.append(result["id"])
    assert posted[0] == posted[2] != posted[1]


def test_a_key_that_an_item_had_before_is_reported_as_the_batchs(
    publisher: Publisher, send: Send, user_ids: list[int]
) -> None:
    admin, author, _, _ = user_ids
    publisher.post(NewTweet(author, "before", key=item_key(admin, "a-key", 0)))
    (result,) = send(admin, TWEETS, {"tweets": [{"text": "now", "author_id": str(author)}]}).json()["results"]
    assert (result["status"], result["problem"]["type"]) == (409, "urn:fanfold:problem:key-reused")
    assert (
        result["problem"]["detail"] == "the idempotency key 'a-key' was sent before, with another tweet; take a new one"
    )


def test_a_batch_that_was_not_answered_acts_when_it_is_repeated(
    client: Client, stores: Stores, send: Send, user_ids: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process dies after it acted, and before the answer is kept."""
    admin, follower, author, _ = user_ids
    path, body = f"/v1/users/{follower}/following:batch", {"ids": [str(author)]}
    with monkeypatch.context() as patch:
        patch.setattr("producers.batch_keys.keep", lambda *_: (_ for _ in ()).throw(OSError("the process dies here")))
        problem_of(send(admin, path, body), 500)
    with stores.engine.connect() as connection:
        assert connection.execute(sa.text("SELECT answer FROM idempotency_keys")).scalars().all() == [""]
    assert send(admin, path, body).json() == {"results": [{"status": 204, "id": str(author)}]}
    assert following(client, follower) == [str(author)]
