"""Writing over HTTP on the real stores: repeated calls, batches, blocks, deleted users, and when nothing is taken."""

import secrets
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import httpx
import pytest
import sqlalchemy as sa

from infra import reaction_log
from infra.composition import Stores
from infra.errors import DatabaseUnavailable, RedisUnavailable
from infra.http import THREADS
from infra.ids import ID_MAX
from infra.reaction_log import ReactionLog
from infra.settings import Settings
from infra.tokens import Scope, Tokens
from infra.tweet_bodies import TweetBodies
from producers.erasing import Erased, Eraser
from producers.publish import NewTweet, Publisher
from tests.counting import counting, make_counters, relaying, wait_until_counted
from tests.http_client import Client, bearing, client_of, problem_of
from tests.live_client import serving
from tests.waiting import wait_until

UNKNOWN = 9_000_000_000_000_000_001  # above all ids that tests make

MakeUsers = Callable[[int], list[int]]
Header = dict[str, str]


@pytest.fixture
def client(stores: Stores) -> Client:
    return client_of(stores)


@pytest.fixture
def user_ids(make_users: MakeUsers) -> list[int]:
    return make_users(3)


def with_key(headers: Header, key: str) -> Header:
    return headers | {"Idempotency-Key": key}


def kind_of(response: httpx.Response) -> str:
    return str(response.json()["type"]).rpartition(":")[2]


def count(stores: Stores, table: str) -> int:
    with stores.engine.connect() as connection:
        return int(connection.execute(sa.text(f"SELECT count(*) FROM {table}")).scalar_one())


def test_a_post_with_a_key_is_made_once_and_answered_the_same(
    client: Client, stores: Stores, user_ids: list[int]
) -> None:
    headers = with_key(client.acting(user_ids[0]), "a-key")
    first, again = [client.post("/v1/tweets", json={"text": "Hello"}, headers=headers) for _ in range(2)]
    assert (first.status_code, first.content) == (again.status_code, again.content)
    assert first.headers["location"] == again.headers["location"]
    assert first.status_code == 201
    assert (count(stores, "tweets"), count(stores, "outbox")) == (1, 1)
    other = client.post("/v1/tweets", json={"text": "Bye"}, headers=headers)
    assert "'a-key' before, with another request" in problem_of(other, 409)
    assert kind_of(other) == "key-reused"
    of_another = client.post("/v1/tweets", json={"text": "Bye"}, headers=with_key(client.acting(user_ids[1]), "a-key"))
    assert of_another.status_code == 201


def test_a_user_with_a_key_is_made_once_and_answered_the_same(client: Client, stores: Stores) -> None:
    headers, handle = {"Idempotency-Key": secrets.token_hex(8)}, f"u{secrets.token_hex(6)}"
    first, again = [client.post("/v1/users", json={"handle": handle}, headers=headers) for _ in range(2)]
    assert (first.status_code, first.content) == (201, again.content)
    assert count(stores, "users") == 1
    other = client.post("/v1/users", json={"handle": handle + "x"}, headers=headers)
    problem_of(other, 409)
    assert kind_of(other) == "key-reused"


def test_each_tweet_of_a_batch_has_its_own_result(client: Client, stores: Stores, user_ids: list[int]) -> None:
    acting, author, _ = user_ids
    tweets = [
        {"text": "one"},
        {"text": "two", "author_id": str(author)},
        {"text": "", "author_id": author},
        {"text": "x" * 281},
        {"text": "lost", "author_id": str(UNKNOWN)},
        {"text": "what?", "reply_to": str(UNKNOWN)},
        {"text": "three"},
    ]
    response = client.post("/v1/tweets:batch", json={"tweets": tweets}, headers=client.acting(acting, Scope.ADMIN))
    assert response.status_code == 200
    results = response.json()["results"]
    assert [result["status"] for result in results] == [201, 201, 422, 422, 404, 404, 201]
    assert [set(result) - {"status"} for result in results] == [
        {"id" if result["status"] == 201 else "problem"} for result in results
    ]
    assert results[4]["problem"]["detail"] == f"user {UNKNOWN} does not exist"
    assert results[4]["problem"]["type"] == "urn:fanfold:problem:not-found"
    posted = [client.get(f"/v1/tweets/{result['id']}").json() for result in results if "id" in result]
    assert [(one["text"], one["author_id"]) for one in posted] == [
        ("one", str(acting)),
        ("two", str(author)),
        ("three", str(acting)),
    ]
    assert count(stores, "outbox") == 3


def test_a_batch_with_a_key_can_be_repeated(
    client: Client, stores: Stores, user_ids: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    acting, author, _ = user_ids
    headers = with_key(client.acting(acting, Scope.ADMIN), "a-key")
    tweets = {"tweets": [{"text": str(number), "author_id": author} for number in range(20)] + [{"text": ""}]}
    first, again = [client.post("/v1/tweets:batch", json=tweets, headers=headers) for _ in range(2)]
    assert (first.status_code, first.content) == (200, again.content)
    assert count(stores, "tweets") == 20
    for path, body in [
        ("/v1/tweets:batch", {"tweets": tweets["tweets"][:5]}),
        (f"/v1/users/{acting}/following:batch", {"ids": [author]}),
        ("/v1/tweets", {"text": "Hello"}),
    ]:
        other = client.post(path, json=body, headers=headers)
        problem_of(other, 409)
        assert kind_of(other) == "key-reused"
    assert count(stores, "tweets") == 20


def test_a_batch_that_was_cut_off_goes_on_where_it_was(
    client: Client, stores: Stores, user_ids: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first try posts some and fails before its answer."""
    headers = with_key(client.acting(user_ids[0], Scope.ADMIN), "a-key")
    body = {"tweets": [{"text": str(number)} for number in range(10)]}
    whole = Publisher.post_many
    with monkeypatch.context() as patch:

        def cut_off(publisher: Publisher, tweets: list[object]) -> None:
            whole(publisher, tweets[:4])  # type: ignore[arg-type]
            raise OSError("the process dies here")

        patch.setattr(Publisher, "post_many", cut_off)
        problem_of(client.post("/v1/tweets:batch", json=body, headers=headers), 500)
    assert count(stores, "tweets") == 4
    assert client.post("/v1/tweets:batch", json=body, headers=headers).status_code == 200
    assert count(stores, "tweets") == 10


def test_a_user_follows_many_at_once(client: Client, user_ids: list[int]) -> None:
    acting, follower, author = user_ids
    path, headers = f"/v1/users/{follower}/following:batch", client.acting(acting, Scope.ADMIN)
    ids = [str(author), str(UNKNOWN), str(follower), str(acting), str(author)]
    for _ in range(2):
        response = client.post(path, json={"ids": ids}, headers=headers)
        results = response.json()["results"]
        assert [result["status"] for result in results] == [204, 404, 422, 204, 204]
        assert [result.get("id") for result in results] == [str(author), None, None, str(acting), str(author)]
    following = client.get(f"/v1/users/{follower}/following").json()["users"]
    assert {one["id"] for one in following} == {str(author), str(acting)}


def test_an_empty_batch_has_no_results(client: Client, user_ids: list[int]) -> None:
    headers = client.acting(user_ids[0], Scope.ADMIN)
    for path, field in [("/v1/tweets:batch", "tweets"), (f"/v1/users/{user_ids[0]}/following:batch", "ids")]:
        response = client.post(path, json={field: []}, headers=headers)
        assert (response.status_code, response.json()) == (200, {"results": []})


def test_who_blocks_ends_the_follows_both_ways_and_can_repeat_it(client: Client, user_ids: list[int]) -> None:
    one, other, _ = user_ids
    for follower, author in [(one, other), (other, one)]:
        client.put(f"/v1/users/{follower}/following/{author}", headers=client.acting(follower))
    blocking = f"/v1/users/{one}/blocking/{other}"
    for _ in range(2):
        assert client.put(blocking, headers=client.acting(one)).status_code == 204
    for user_id in (one, other):
        assert client.get(f"/v1/users/{user_id}/followers").json()["users"] == []
    for follower, author in [(one, other), (other, one)]:
        response = client.put(f"/v1/users/{follower}/following/{author}", headers=client.acting(follower))
        assert f"user {one} blocks user {other}" in problem_of(response, 403)
    for _ in range(2):
        assert client.delete(blocking, headers=client.acting(one)).status_code == 204
    assert client.put(f"/v1/users/{other}/following/{one}", headers=client.acting(other)).status_code == 204


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_who_does_not_exist_is_blocked_by_nobody(client: Client, user_ids: list[int], method: str) -> None:
    path = f"/v1/users/{user_ids[0]}/blocking/{UNKNOWN}"
    assert f"{UNKNOWN} does not exist" in problem_of(
        client.request(method, path, headers=client.acting(user_ids[0])), 404
    )


def test_a_deleted_user_is_gone_with_his_tweets_follows_and_tokens(client: Client, user_ids: list[int]) -> None:
    going, follower, admin = user_ids
    client.put(f"/v1/users/{follower}/following/{going}", headers=client.acting(follower))
    tweet = client.post("/v1/tweets", json={"text": "Hello"}, headers=client.acting(going)).headers["location"]
    assert client.get(f"/v1/users/{going}/timeline").json()["tweets"]
    assert client.delete(f"/v1/users/{going}", headers=client.acting(going)).status_code == 204
    for path in (
        *(
            f"/v1/users/{going}/timeline{page}"
            for page in ("", f"?max_id={ID_MAX}", "?min_id=0", "?since_id=1&max_id=9")
        ),
        *(f"/v1/users/{going}", tweet),
    ):
        problem_of(client.get(path), 404)
    assert client.get(f"/v1/users/{follower}/following").json()["users"] == []
    for response in (
        client.delete(f"/v1/users/{going}", headers=client.acting(going)),
        client.post("/v1/tweets", json={"text": "Hello"}, headers=client.acting(going)),
        client.get("/v1/users/1", headers=client.acting(going)),
    ):
        problem_of(response, 401)
    again = client.delete(f"/v1/users/{going}", headers=client.acting(admin, Scope.ADMIN))
    assert again.status_code == 204
    problem_of(client.delete(f"/v1/users/{UNKNOWN}", headers=client.acting(admin, Scope.ADMIN)), 404)


def test_a_user_with_very_much_is_deleted_later(
    client: Client, user_ids: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Publisher, "delete_user", lambda *_, **__: Erased(500, 0, complete=False))
    response = client.delete(f"/v1/users/{user_ids[0]}", headers=client.acting(user_ids[0]))
    assert (response.status_code, response.content, response.headers["retry-after"]) == (202, b"", "1")


def test_a_user_whose_tweets_cannot_be_buried_is_deleted_and_the_rest_goes_later(
    client: Client, stores: Stores, user_ids: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """His token is refused from then on, so he could not try again."""
    going, admin, _ = user_ids
    client.post("/v1/tweets", json={"text": "Hello"}, headers=client.acting(going))

    def refuse(*_: object) -> None:
        raise RedisUnavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr(TweetBodies, "bury", refuse)
        response = client.delete(f"/v1/users/{going}", headers=client.acting(going))
        assert (response.status_code, response.content, response.headers["retry-after"]) == (202, b"", "1")
    problem_of(client.get(f"/v1/users/{going}"), 404)
    problem_of(client.delete(f"/v1/users/{going}", headers=client.acting(going)), 401)
    assert client.delete(f"/v1/users/{going}", headers=client.acting(admin, Scope.ADMIN)).status_code == 204


def test_a_user_who_could_not_be_deleted_at_all_can_try_again(
    client: Client, user_ids: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise DatabaseUnavailable("away")

    with monkeypatch.context() as patch:
        patch.setattr(Eraser, "hide", refuse)
        problem_of(client.delete(f"/v1/users/{user_ids[0]}", headers=client.acting(user_ids[0])), 503)
    assert client.delete(f"/v1/users/{user_ids[0]}", headers=client.acting(user_ids[0])).status_code == 204


def test_nobody_answers_or_retweets_what_was_deleted(client: Client, user_ids: list[int]) -> None:
    author, other, _ = user_ids
    location = client.post("/v1/tweets", json={"text": "Hello"}, headers=client.acting(author)).headers["location"]
    tweet_id = location.rpartition("/")[2]
    refused = client.delete(location, headers=client.acting(other))
    assert "only its author" in problem_of(refused, 403)
    assert client.delete(location, headers=client.acting(author)).status_code == 204
    for body in ({"text": "What?", "reply_to": tweet_id}, {"retweet_of": tweet_id}):
        response = client.post("/v1/tweets", json=body, headers=client.acting(other))
        assert problem_of(response, 404) == f"tweet {tweet_id} does not exist"


def test_admin_deletes_anybodys_tweet(client: Client, user_ids: list[int]) -> None:
    location = client.post("/v1/tweets", json={"text": "Hi"}, headers=client.acting(user_ids[0])).headers["location"]
    assert client.delete(location, headers=client.acting(user_ids[1], Scope.ADMIN)).status_code == 204
    problem_of(client.get(location), 404)


def test_nothing_is_written_while_events_are_not_worked_off(stores: Stores, user_ids: list[int]) -> None:
    user_id, other, admin = user_ids
    client = client_of(stores)
    headers, admins = client.acting(user_id), client.acting(admin, Scope.ADMIN)
    location = client.post("/v1/tweets", json={"text": "Hello"}, headers=headers).headers["location"]
    with stores.engine.begin() as connection:
        connection.execute(sa.text("UPDATE outbox SET created_at = now() - interval '61 seconds'"))
    behind = Client(client_of(stores).app, client.tokens)
    for method, path, body in [
        ("POST", "/v1/tweets", {"text": "Hello"}),
        ("POST", "/v1/tweets:batch", {"tweets": [{"text": "Hello"}]}),
        ("POST", f"/v1/users/{user_id}/following:batch", {"ids": [other]}),
        ("PUT", f"/v1/users/{user_id}/following/{other}", None),
        ("DELETE", location, None),
    ]:
        response = behind.request(method, path, json=body, headers=admins)
        assert "nothing more is taken to write" in problem_of(response, 503)
        assert (response.headers["retry-after"], kind_of(response)) == ("1", "overloaded")
    assert behind.get(location).status_code == 200
    assert count(stores, "tweets") == 1


def test_likes_over_http_are_the_tokens_users_and_show_in_the_answers(
    client: Client, stores: Stores, settings: Settings, user_ids: list[int]
) -> None:
    author, fan, other = user_ids
    tweet = client.post("/v1/tweets", json={"text": "Hello"}, headers=client.acting(author)).json()["id"]
    path = f"/v1/tweets/{tweet}/like"
    with relaying(stores, settings), counting(make_counters(stores, settings)):
        for user in (fan, other, fan):
            assert client.post(path, headers=client.acting(user)).status_code == 204
        assert client.get(f"/v1/tweets/{tweet}").json()["counts"] == {"likes": 2, "retweets": 0, "replies": 0}
        reply = client.post("/v1/tweets", json={"text": "Yes", "reply_to": tweet}, headers=client.acting(fan)).json()
        assert reply["counts"] == {"likes": 0, "retweets": 0, "replies": 0}
        client.post("/v1/tweets", json={"retweet_of": tweet}, headers=client.acting(other))
        assert client.delete(path, headers=client.acting(other)).status_code == 204
        wait_until_counted(stores, settings)
        page = client.get(f"/v1/users/{author}/timeline").json()
        assert [one["counts"] for one in page["tweets"]] == [{"likes": 1, "retweets": 1, "replies": 1}]


def test_who_may_not_like_is_told_so(client: Client, user_ids: list[int]) -> None:
    tweet = client.post("/v1/tweets", json={"text": "Hello"}, headers=client.acting(user_ids[0])).json()["id"]
    for method in ("POST", "DELETE"):
        path = f"/v1/tweets/{tweet}/like"
        problem_of(client.request(method, path), 401)
        problem_of(client.request(method, path, headers=client.acting(user_ids[1], Scope.READ)), 403)
        unknown = client.request(method, f"/v1/tweets/{UNKNOWN}/like", headers=client.acting(user_ids[1]))
        assert problem_of(unknown, 404) == f"tweet {UNKNOWN} does not exist"


def test_a_like_is_answered_503_while_kafka_is_away(
    client: Client, user_ids: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    tweet = client.post("/v1/tweets", json={"text": "Hello"}, headers=client.acting(user_ids[0])).json()["id"]
    monkeypatch.setattr(reaction_log, "TAKEN_WITHIN_S", 0.5)
    monkeypatch.setattr(client.app.state.stores.reactions, "_bootstrap", lambda: "127.0.0.1:1")
    answer = client.post(f"/v1/tweets/{tweet}/like", headers=client.acting(user_ids[1]))
    assert problem_of(answer, 503) == "Kafka cannot do its part at the moment; try again"


def test_likes_that_wait_for_kafka_hold_up_no_reads(
    stores: Stores, settings: Settings, publisher: Publisher, user_ids: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reaction_log, "TAKEN_WITHIN_S", 4.0)
    waiting = THREADS + 4
    tweet = publisher.post(NewTweet(user_ids[0], "hello")).id
    headers = bearing(Tokens(stores.engine).create(user_ids[1])[1])
    with socket.create_server(("127.0.0.1", 0)) as silent:
        log = ReactionLog(lambda: f"127.0.0.1:{silent.getsockname()[1]}")
        with serving(replace(stores, reactions=log), settings) as server, ThreadPoolExecutor(waiting) as threads:
            url = f"http://{server.address[0]}:{server.address[1]}/v1/tweets/{tweet}"
            likes = [threads.submit(httpx.post, f"{url}/like", headers=headers, timeout=30) for _ in range(waiting)]
            wait_until(lambda: log._producer is not None and len(log._producer) == waiting, "all likes to be sent")
            assert httpx.get(url, timeout=30).status_code == 200
            assert not any(like.done() for like in likes)
            assert {like.result().status_code for like in likes} == {503}
        log.close()
