"""The HTTP API on the real stores: what users do, what they read, and what happens while a server is away."""

import re
import secrets
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from consumers import pages, timeline_source
from infra.composition import Stores
from infra.counts import Counts
from infra.database import make_engine
from infra.redis_clusters import RedisClusters
from infra.settings import Settings
from infra.shard_map import CLUSTERS
from infra.timelines import Kind, Timelines, new_token
from infra.tweet_bodies import TweetBodies
from infra.write_through import WriteThrough
from tests.fixed_maps import fixed_maps
from tests.http_client import NOBODY_LISTENS, Client, bearing, client_of, problem_of

UNKNOWN = 9_000_000_000_000_000_001  # above all ids that tests make

MakeUsers = Callable[[int], list[int]]


@pytest.fixture
def client(stores: Stores) -> Client:
    return client_of(stores)


@pytest.fixture
def stores_without_redis(stores: Stores) -> Iterator[Stores]:
    """What a process has that no Redis node answers."""
    known = stores.clusters.shard_map
    nowhere = replace(known, addresses=dict.fromkeys(known.addresses, "redis://127.0.0.1:1"))
    clusters, live = RedisClusters(fixed_maps(nowhere)), stores.timelines._live
    bodies, timelines = TweetBodies(clusters, stores.engine), Timelines(clusters, live)
    yield replace(
        stores,
        clusters=clusters,
        timelines=timelines,
        bodies=bodies,
        brief=clusters,
        write_through=WriteThrough(clusters, live),
        counts=Counts(clusters, stores.engine),
    )
    clusters.close()


@pytest.fixture
def without_redis(stores_without_redis: Stores) -> Client:
    return client_of(stores_without_redis)


def post(client: Client, author_id: int, text: str = "Hello", **more: Any) -> str:
    """The id of a new tweet."""
    response = client.post("/v1/tweets", json={"text": text, **more}, headers=client.acting(author_id))
    assert response.status_code == 201, response.text
    return str(response.json()["id"])


def follow(client: Client, follower_id: int, author_id: int) -> httpx.Response:
    return client.put(f"/v1/users/{follower_id}/following/{author_id}", headers=client.acting(follower_id))


def ids_of(response: httpx.Response, what: str = "tweets") -> list[str]:
    assert response.status_code == 200, response.text
    return [one["id"] for one in response.json()[what]]


def links_of(response: httpx.Response) -> dict[str, str]:
    found = re.findall(r'<http://fanfold\.test(/[^>]*)>; rel="(\w+)"', response.headers.get("link", ""))
    return {relation: path for path, relation in found}


def test_a_created_user_can_be_read(client: Client) -> None:
    handle = f"u{secrets.token_hex(6)}"
    created = client.post("/v1/users", json={"handle": handle})
    assert created.status_code == 201
    assert created.json() == {"id": created.json()["id"], "handle": handle}
    assert client.get(created.headers["location"]).json() == created.json()


@pytest.mark.parametrize("kind", [str, int])
def test_a_user_may_be_created_under_a_given_id(client: Client, kind: type) -> None:
    user_id = secrets.randbelow(1 << 62) + 1
    created = client.post("/v1/users", json={"id": kind(user_id), "handle": f"u{user_id}"})
    assert (created.status_code, created.json()["id"]) == (201, str(user_id))


def test_an_id_and_a_handle_are_taken_once(client: Client, make_users: MakeUsers) -> None:
    user_id = make_users(1)[0]
    again = client.post("/v1/users", json={"id": user_id, "handle": "another"})
    assert f"user id {user_id} is taken" in problem_of(again, 409)
    again = client.post("/v1/users", json={"handle": f"u{user_id}"})
    assert "handle" in problem_of(again, 409)


def test_a_posted_tweet_can_be_read(client: Client, make_users: MakeUsers) -> None:
    author_id = make_users(1)[0]
    posted = client.post("/v1/tweets", json={"text": "Hello \N{GRINNING FACE}"}, headers=client.acting(author_id))
    assert posted.status_code == 201
    tweet = posted.json()
    assert tweet | {"id": "", "created_at": ""} == {
        "id": "",
        "author_id": str(author_id),
        "text": "Hello \N{GRINNING FACE}",
        "created_at": "",
        "reply_to": None,
        "retweet_of": None,
        "counts": {"likes": 0, "retweets": 0, "replies": 0},
    }
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", tweet["created_at"])
    first, cached = client.get(posted.headers["location"]), client.get(posted.headers["location"])
    assert first.json() == cached.json() == tweet


def test_an_answer_and_a_retweet_name_their_tweet(client: Client, make_users: MakeUsers) -> None:
    author_id, reader_id = make_users(2)
    original = post(client, author_id)
    answer = client.get("/v1/tweets/" + post(client, reader_id, "And you?", reply_to=original)).json()
    assert (answer["reply_to"], answer["retweet_of"]) == (original, None)
    retweet = client.get("/v1/tweets/" + post(client, reader_id, "", retweet_of=original)).json()
    assert (retweet["reply_to"], retweet["retweet_of"], retweet["text"]) == (None, original, "Hello")


def test_a_text_of_280_characters_after_composition_is_taken(client: Client, make_users: MakeUsers) -> None:
    text = "e\N{COMBINING ACUTE ACCENT}" * 280
    tweet_id = post(client, make_users(1)[0], text)
    assert client.get(f"/v1/tweets/{tweet_id}").json()["text"] == unicodedata.normalize("NFC", text)


@pytest.mark.parametrize("field", ["reply_to", "retweet_of"])
def test_a_tweet_about_an_unknown_tweet_is_refused(client: Client, make_users: MakeUsers, field: str) -> None:
    body = {"text": "" if field == "retweet_of" else "Hello", field: str(UNKNOWN)}
    response = client.post("/v1/tweets", json=body, headers=client.acting(make_users(1)[0]))
    assert problem_of(response, 404) == f"tweet {UNKNOWN} does not exist"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/users/{unknown}"),
        ("GET", "/v1/users/{unknown}/followers"),
        ("GET", "/v1/users/{unknown}/following"),
        ("GET", "/v1/users/{unknown}/timeline"),
        ("GET", "/v1/tweets/{unknown}"),
        ("DELETE", "/v1/tweets/{unknown}"),
        ("PUT", "/v1/users/{known}/following/{unknown}"),
        ("DELETE", "/v1/users/{known}/following/{unknown}"),
    ],
)
def test_what_is_unknown_is_not_found(client: Client, make_users: MakeUsers, method: str, path: str) -> None:
    known = make_users(1)[0]
    response = client.request(method, path.format(known=known, unknown=UNKNOWN), headers=client.acting(known))
    assert problem_of(response, 404).endswith(f" {UNKNOWN} does not exist")


def test_a_deleted_tweet_is_gone_from_every_read(client: Client, make_users: MakeUsers) -> None:
    author_id, reader_id = make_users(2)
    follow(client, reader_id, author_id)
    kept, deleted = post(client, author_id), post(client, author_id)
    retweet = post(client, reader_id, "", retweet_of=deleted)
    home = "/v1/timelines/home"
    assert ids_of(client.get(home, headers=client.acting(reader_id))) == [retweet, deleted, kept]
    assert client.delete(f"/v1/tweets/{deleted}", headers=client.acting(author_id)).status_code == 204
    assert ids_of(client.get(home, headers=client.acting(reader_id))) == [kept]
    assert ids_of(client.get(f"/v1/users/{author_id}/timeline")) == [kept]
    assert ids_of(client.get(f"/v1/users/{reader_id}/timeline")) == []
    problem_of(client.get(f"/v1/tweets/{deleted}"), 404)
    problem_of(client.get(f"/v1/tweets/{retweet}"), 404)
    again = client.delete(f"/v1/tweets/{deleted}", headers=client.acting(author_id))
    assert (again.status_code, again.content, again.headers.get("content-type")) == (204, b"", None)


def test_only_its_author_deletes_a_tweet(client: Client, make_users: MakeUsers) -> None:
    author_id, other_id = make_users(2)
    tweet_id = post(client, author_id)
    response = client.delete(f"/v1/tweets/{tweet_id}", headers=client.acting(other_id))
    assert "only its author" in problem_of(response, 403)
    assert client.get(f"/v1/tweets/{tweet_id}").status_code == 200


def test_a_follow_is_made_and_undone_and_both_can_be_repeated(client: Client, make_users: MakeUsers) -> None:
    reader_id, author_id = make_users(2)
    following = f"/v1/users/{reader_id}/following"
    for _ in range(2):
        assert follow(client, reader_id, author_id).status_code == 204
    assert ids_of(client.get(following), "users") == [str(author_id)]
    assert ids_of(client.get(f"/v1/users/{author_id}/followers"), "users") == [str(reader_id)]
    for _ in range(2):
        assert client.delete(f"{following}/{author_id}", headers=client.acting(reader_id)).status_code == 204
    assert ids_of(client.get(following), "users") == []


def test_followers_are_paged_by_id_in_both_directions(client: Client, make_users: MakeUsers) -> None:
    author_id, *followers = make_users(6)
    for follower_id in followers:
        follow(client, follower_id, author_id)
    expected = [str(one) for one in sorted(followers, reverse=True)]
    path = f"/v1/users/{author_id}/followers"
    first = client.get(f"{path}?limit=2")
    assert ids_of(first, "users") == expected[:2]
    assert first.json()["next_max_id"] == expected[1]
    second = client.get(links_of(first)["next"])
    assert ids_of(second, "users") == expected[2:4]
    third = client.get(links_of(second)["next"])
    assert ids_of(third, "users") == expected[4:]
    assert third.json()["next_max_id"] is None
    assert "next" not in links_of(third)
    back = client.get(links_of(third)["prev"])
    assert ids_of(back, "users") == expected[2:4]
    assert ids_of(client.get(f"{path}?min_id=0&limit=2"), "users") == expected[3:]
    assert ids_of(client.get(f"{path}?since_id={expected[3]}&max_id={expected[0]}"), "users") == expected[1:3]
    assert ids_of(client.get(f"{path}?max_id=0"), "users") == []


@pytest.mark.parametrize("where", ["home", "user"])
def test_timelines_are_paged_in_both_directions(client: Client, make_users: MakeUsers, where: str) -> None:
    reader_id, author_id = make_users(2)
    follow(client, reader_id, author_id)
    expected = [post(client, author_id, str(number)) for number in range(5)][::-1]
    path = "/v1/timelines/home" if where == "home" else f"/v1/users/{author_id}/timeline"
    headers = client.acting(reader_id)
    first = client.get(f"{path}?limit=2", headers=headers)
    assert ids_of(first) == expected[:2]
    assert first.json().keys() == {"tweets", "next_max_id", "state"}
    assert (first.json()["next_max_id"], first.json()["state"]) == (expected[1], "complete")
    second = client.get(links_of(first)["next"], headers=headers)
    third = client.get(links_of(second)["next"], headers=headers)
    assert ids_of(second) + ids_of(third) == expected[2:]
    assert third.json()["next_max_id"] is None
    assert ids_of(client.get(links_of(third)["prev"], headers=headers)) == expected[2:4]
    assert ids_of(client.get(f"{path}?since_id={expected[3]}&limit=1", headers=headers)) == expected[:1]
    assert ids_of(client.get(f"{path}?min_id={expected[3]}&limit=1", headers=headers)) == expected[2:3]


def test_a_home_page_names_who_retweeted(client: Client, make_users: MakeUsers) -> None:
    reader_id, first_id, second_id, stranger_id = make_users(4)
    for author_id in (first_id, second_id):
        follow(client, reader_id, author_id)
    plain = post(client, first_id)
    original = post(client, stranger_id)
    retweets = [
        client.post("/v1/tweets", json={"retweet_of": original}, headers=client.acting(author_id)).json()["id"]
        for author_id in (first_id, second_id)
    ]

    tweets = client.get("/v1/timelines/home", headers=client.acting(reader_id)).json()["tweets"]

    assert [(tweet["id"], tweet["retweeted_by"]) for tweet in tweets] == [
        (retweets[0], [str(second_id), str(first_id)]),
        (plain, []),
    ]


def test_a_page_that_deleted_tweets_cut_short_is_no_error_and_goes_on(
    client: Client, make_users: MakeUsers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "LOOKED_ENTRIES_MAX", 3)
    monkeypatch.setattr(pages, "MORE_ENTRIES", 0)
    [user_id] = make_users(1)
    headers = client.acting(user_id)
    oldest, *others = [post(client, user_id, str(number)) for number in range(6)]
    assert ids_of(client.get("/v1/timelines/home?limit=1", headers=headers)) == [others[-1]]
    for tweet_id in others:
        client.delete(f"/v1/tweets/{tweet_id}", headers=headers)

    first = client.get("/v1/timelines/home?limit=1", headers=headers)

    assert (first.status_code, first.json()["state"], first.json()["tweets"]) == (200, "partial", [])
    assert "retry-after" not in first.headers
    found: list[str] = []
    while (cut := first.json()["next_max_id"]) is not None:
        first = client.get(f"/v1/timelines/home?limit=1&max_id={cut}", headers=headers)
        found += ids_of(first)
    assert found == [oldest]


def test_upwards_a_page_that_was_cut_to_nothing_has_a_link_that_goes_on(
    client: Client, make_users: MakeUsers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "LOOKED_ENTRIES_MAX", 3)
    monkeypatch.setattr(pages, "MORE_ENTRIES", 0)
    [user_id] = make_users(1)
    headers = client.acting(user_id)
    oldest, *others, newest = [post(client, user_id, str(number)) for number in range(9)]
    assert ids_of(client.get("/v1/timelines/home?limit=1", headers=headers)) == [newest]
    for tweet_id in others:
        client.delete(f"/v1/tweets/{tweet_id}", headers=headers)

    page = client.get(f"/v1/timelines/home?limit=1&min_id={oldest}", headers=headers)

    assert (page.status_code, page.json()) == (200, {"tweets": [], "next_max_id": None, "state": "partial"})
    for _ in others:
        if page.json()["tweets"]:
            break
        page = client.get(links_of(page)["prev"], headers=headers)
    assert ids_of(page) == [newest]


def test_a_timeline_that_another_process_rebuilds_is_a_page_that_says_so(
    client: Client, stores: Stores, make_users: MakeUsers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timeline_source, "BUSY_WAIT_S", 0)
    user_id = make_users(1)[0]
    tweet_id = post(client, user_id)
    for cluster in CLUSTERS:
        stores.timelines.put_tokens(cluster, Kind.HOME, [user_id], new_token(), "claim")
    response = client.get("/v1/timelines/home", headers=client.acting(user_id))
    assert (response.status_code, response.headers["retry-after"]) == (206, "1")
    assert response.json()["state"] == "rebuilding"
    assert [tweet["id"] for tweet in response.json()["tweets"]] == [tweet_id]


def test_a_process_with_its_servers_is_ready(client: Client) -> None:
    assert client.get("/readyz").json() == {
        "status": "ready",
        "reasons": [],
        "clusters": ["a", "b", "c"],
        "epoch": 1,
    }


def test_without_the_database_requests_are_put_off(stores: Stores) -> None:
    client = client_of(replace(stores, engine=make_engine(NOBODY_LISTENS)))
    for response in (
        client.get("/v1/users/1"),
        client.post("/v1/users", json={"handle": "ada"}),
        client.get("/v1/timelines/home", headers=bearing("ff_1_" + "A" * 43)),
    ):
        assert problem_of(response, 503).startswith("PostgreSQL")
        assert response.headers["retry-after"] == "1"
    assert problem_of(client.get("/readyz"), 503) == "PostgreSQL does not answer"
    assert client.get("/healthz").status_code == 200


def test_without_redis_tweets_are_taken_and_timelines_put_off(without_redis: Client, make_users: MakeUsers) -> None:
    client, user_id = without_redis, make_users(1)[0]
    tweet_id = post(client, user_id)
    assert client.get(f"/v1/tweets/{tweet_id}").json()["text"] == "Hello"
    response = client.get("/v1/timelines/home", headers=client.acting(user_id))
    assert problem_of(response, 503).startswith("Redis")
    assert response.headers["retry-after"] == "1"
    assert problem_of(client.get("/readyz"), 503) == "no Redis cluster answers"


def test_without_redis_and_so_without_limits_requests_are_put_off_if_it_is_set(stores_without_redis: Stores) -> None:
    client = client_of(stores_without_redis, Settings(rate_limit_without_redis="closed"))
    assert "no rate limit can be checked" in problem_of(client.get("/v1/users/1"), 503)
    assert client.get("/healthz").status_code == 200


def test_a_delete_that_reaches_no_cache_is_put_off_and_can_be_repeated(
    client: Client, without_redis: Client, make_users: MakeUsers
) -> None:
    author_id = make_users(1)[0]
    tweet_id = post(client, author_id)
    path = f"/v1/tweets/{tweet_id}"
    assert client.get(path).status_code == 200
    problem_of(without_redis.delete(path, headers=client.acting(author_id)), 503)
    assert client.delete(path, headers=client.acting(author_id)).status_code == 204
    problem_of(client.get(path), 404)
