"""Rate limits of HTTP without Redis: what is counted where, and what a request is answered."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request

from infra.errors import RedisRefused, RedisUnavailable
from infra.http_limits import Limits, buckets_of, client_network, count_items
from infra.http_problems import answer_problems
from infra.live_settings import LiveSettings
from infra.rate_limits import Bucket, Level, bucket_of, tightest
from tests.http_client import Client, MemoryTokens, bearing, problem_of

TOKEN, ADDRESS = bucket_of("with this token", "x", 200), bucket_of("from this address", "127.0.0.1", 1_000)


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("10.1.2.3", "10.1.2.3"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("2001:db8:1:2::ffff", "2001:db8:1:2::"),
        ("::ffff:10.1.2.3", "10.1.2.3"),
        ("fe80::1%eth0", "fe80::"),
        ("", ""),
        ("unknown", "unknown"),
        ("a:b", "a:b"),
    ],
)
def test_an_ipv6_client_is_his_first_64_bits(address: str, network: str) -> None:
    assert client_network(address) == network


def scope(
    path: str = "/v1/tweets", client: tuple[str, int] | None = ("127.0.0.1", 5), **headers: str
) -> dict[str, Any]:
    pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http", "path": path, "client": client, "headers": pairs}


def test_a_request_counts_for_its_address_and_for_its_token() -> None:
    assert buckets_of(scope(), LiveSettings()) == [ADDRESS]
    for header in ("Bearer x", "bearer  x "):
        assert buckets_of(scope(authorization=header), LiveSettings()) == [ADDRESS, TOKEN]
    assert [bucket.rate for bucket in buckets_of(scope(client=None), LiveSettings())] == [1_000]


def test_a_rate_of_0_turns_its_limit_off() -> None:
    given = scope(authorization="Bearer x")
    assert buckets_of(given, LiveSettings(rate_per_address=0)) == [TOKEN]
    assert buckets_of(given, LiveSettings(rate_per_token=0)) == [ADDRESS]
    assert buckets_of(given, LiveSettings(rate_per_token=0, rate_per_address=0)) == []


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/docs", "/openapi.json", "/"])
def test_what_is_not_under_v1_is_not_limited(path: str) -> None:
    assert buckets_of(scope(path), LiveSettings()) == []


def test_an_address_sent_as_a_token_is_not_the_bucket_of_that_address() -> None:
    address, token = buckets_of(scope(authorization="Bearer 127.0.0.1"), LiveSettings())
    assert address.key != token.key


def test_a_bucket_shows_neither_address_nor_token() -> None:
    assert b"127" not in ADDRESS.key
    assert len(ADDRESS.key) == len(TOKEN.key) == 18


def test_the_tightest_bucket_decides() -> None:
    lost = RedisUnavailable("away")
    fits, few, none = (Level(TOKEN, one > 0, one, 0.5) for one in (9, 2, 0))
    assert tightest([fits, few]) == few
    assert tightest([fits, lost]) == lost
    assert tightest([fits, lost, none]) == none


Take = Callable[[Sequence[Bucket]], "Future[Level]"]


def answering(outcome: Level | Exception) -> Take:
    def take(_: Sequence[Bucket]) -> "Future[Level]":
        future: Future[Level] = Future()
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
        return future

    return take


def limited(take: Take, *, closed: bool = False) -> Client:
    app = FastAPI()
    answer_problems(app)
    app.add_middleware(Limits, take=take, live=LiveSettings, closed=closed)
    app.add_api_route("/v1/x", lambda: "served")
    app.add_api_route("/healthz", lambda: "served")
    return Client(app, MemoryTokens())


def test_an_answer_says_what_is_left() -> None:
    response = limited(answering(Level(TOKEN, True, 7, 1.2))).get("/v1/x")
    assert response.json() == "served"
    found = {name: value for name, value in response.headers.items() if name.startswith(("ratelimit", "retry"))}
    assert found == {"ratelimit-limit": "400", "ratelimit-remaining": "7", "ratelimit-reset": "2"}


@pytest.mark.parametrize(
    ("bucket", "sentence"),
    [
        (TOKEN, "more than 200 requests a second with this token"),
        (ADDRESS, "more than 1000 requests a second from this address"),
    ],
)
def test_too_many_are_told_how_long_to_wait(bucket: Bucket, sentence: str) -> None:
    response = limited(answering(Level(bucket, False, 0, 0.005))).get("/v1/x", headers=bearing("x"))
    assert problem_of(response, 429).startswith(sentence)
    assert (response.headers["retry-after"], response.headers["ratelimit-remaining"]) == ("1", "0")


@pytest.mark.parametrize("error", [RedisUnavailable("away"), RedisRefused("no permission")])
def test_without_redis_requests_are_taken_or_put_off_as_it_is_set(error: Exception) -> None:
    response = limited(answering(error)).get("/v1/x")
    assert (response.json(), response.headers.get("ratelimit-limit")) == ("served", None)
    response = limited(answering(error), closed=True).get("/v1/x")
    assert "Redis does not answer" in problem_of(response, 503)
    assert response.headers["retry-after"] == "1"


class Counter:
    """Answers a batch's two calls, and knows what was taken."""

    def __init__(self, *outcomes: Level | Exception) -> None:
        self.taken: list[list[int]] = []
        self._outcomes = iter(outcomes)

    def __call__(self, buckets: Sequence[Bucket]) -> "Future[Level]":
        """As `Gathering.submit`."""
        self.taken.append([bucket.requests for bucket in buckets])
        return answering(next(self._outcomes))(buckets)


def send_batch(counter: Counter, items: int, *, closed: bool = False) -> httpx.Response:
    async def batch(request: Request) -> str:
        await count_items(request, items)
        return "served"

    client = limited(counter, closed=closed)
    client.app.add_api_route("/v1/x:batch", batch, methods=["POST"])
    return client.post("/v1/x:batch", headers=bearing("x"))


@pytest.mark.parametrize(
    ("items", "taken"),
    [(0, []), (1, []), (10, []), (11, [[1, 1]]), (500, [[49, 49]]), (5_000, [[499, 200]]), (10**6, [[1_000, 200]])],
)
def test_a_batch_counts_for_each_ten_items_and_at_most_for_a_second(items: int, taken: list[list[int]]) -> None:
    counter = Counter(Level(TOKEN, True, 399, 0.1), Level(TOKEN, True, 99, 1.5))
    response = send_batch(counter, items)
    assert response.json() == "served"
    assert counter.taken == [[1, 1], *taken]
    assert response.headers["ratelimit-remaining"] == ("99" if taken else "399")


def test_a_batch_that_is_too_much_is_told_how_long_to_wait() -> None:
    response = send_batch(Counter(Level(TOKEN, True, 20, 1.9), Level(TOKEN, False, 20, 1.1)), 500)
    assert problem_of(response, 429).startswith("more than 200 requests a second with this token")
    assert (response.headers["retry-after"], response.headers["ratelimit-remaining"]) == ("2", "20")


def test_a_batch_is_counted_without_redis_as_it_is_set() -> None:
    outcomes = Level(TOKEN, True, 20, 1.9), RedisUnavailable("away")
    assert send_batch(Counter(*outcomes), 500).json() == "served"
    assert "Redis does not answer" in problem_of(send_batch(Counter(*outcomes), 500, closed=True), 503)


def test_health_is_asked_without_limits() -> None:
    def never(_: Sequence[Bucket]) -> "Future[Level]":
        raise AssertionError

    assert limited(never).get("/healthz").json() == "served"
