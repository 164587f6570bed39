"""Token buckets on real nodes: what they allow, how long they live, how little is waited for nodes that are away."""

import secrets
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import sqlalchemy as sa

from infra.breaker import PROBE_TIMEOUT_S
from infra.composition import BRIEF_TIMEOUT_S, Stores
from infra.errors import RedisUnavailable
from infra.live_settings import set_live_settings
from infra.rate_limits import BURST_S, LEFT_OUT_S, Bucket, Level, RateLimits, bucket_of
from infra.redis_clusters import RedisClusters
from infra.shard_map import CLUSTERS
from infra.slots import slot_of
from infra.tokens import Scope
from tests.fixed_maps import fixed_maps
from tests.http_client import Client, client_of, problem_of

WITHIN_S = 10.0


def fresh(rate: int) -> Bucket:
    """A bucket that nobody took from yet."""
    return bucket_of("of a test", secrets.token_hex(8), rate)


def one(limits: RateLimits, *buckets: Bucket) -> Level:
    (level,) = limits.take([buckets])
    assert isinstance(level, Level), level
    return level


@pytest.fixture
def limits(stores: Stores) -> RateLimits:
    return RateLimits(stores.brief)


MakeClusters = Callable[[str, str], RedisClusters]


@pytest.fixture
def with_address(stores: Stores) -> Iterator[MakeClusters]:
    """Makes clients of clusters, in some of which (by letter) every node is at another address."""
    made = []

    def make(clusters: str, address: str) -> RedisClusters:
        known = stores.clusters.shard_map
        addresses = {name: address if name[0] in clusters else url for name, url in known.addresses.items()}
        made.append(RedisClusters(fixed_maps(replace(known, addresses=addresses)), BRIEF_TIMEOUT_S))
        return made[-1]

    yield make
    for clusters in made:
        clusters.close()


@pytest.mark.parametrize("rate", [1, 3, 50])
def test_a_full_bucket_holds_what_its_rate_allows_in_two_seconds(limits: RateLimits, rate: int) -> None:
    bucket = fresh(rate)
    (*levels, last) = limits.take([[bucket]] * (BURST_S * rate + 1))
    assert [level.remaining for level in levels if isinstance(level, Level)] == list(range(BURST_S * rate))[::-1]
    assert isinstance(last, Level)
    assert (last.allowed, last.remaining) == (False, 0)
    assert 0 < last.reset_s <= 1 / rate


def test_an_empty_bucket_has_one_again_when_it_said(limits: RateLimits) -> None:
    bucket = fresh(5)
    limits.take([[bucket]] * 10)
    refused, began_s = one(limits, bucket), time.monotonic()
    while not one(limits, bucket).allowed:
        assert time.monotonic() < began_s + WITHIN_S
    took_s = time.monotonic() - began_s
    assert refused.reset_s - 0.1 <= took_s


def test_who_is_refused_takes_nothing(limits: RateLimits) -> None:
    bucket = fresh(1)
    limits.take([[bucket]] * 2)
    waits = [one(limits, bucket).reset_s for _ in range(20)]
    assert max(waits) <= 1.0


def test_several_are_taken_at_once_or_none(limits: RateLimits) -> None:
    bucket = fresh(1_000)
    level = one(limits, replace(bucket, requests=1_500))
    assert (level.allowed, level.remaining) == (True, 500)
    slow = fresh(1)
    assert one(limits, slow).remaining == 1
    refused = one(limits, replace(slow, requests=2))
    assert (refused.allowed, refused.remaining) == (False, 1)
    assert 0 < refused.reset_s <= 1
    assert one(limits, slow).allowed


def test_a_bucket_lives_until_it_is_full(stores: Stores, limits: RateLimits) -> None:
    bucket = fresh(1)
    limits.take([[bucket]] * 2)
    node = stores.clusters.node(stores.clusters.shard_map.node_of("a", slot_of(int.from_bytes(bucket.key[-8:], "big"))))
    assert 0 < node.command("PTTL", bucket.key) <= BURST_S * 1000
    assert len(node.command("GET", bucket.key)) == 16


def test_a_new_rate_counts_from_the_next_request_on(limits: RateLimits) -> None:
    bucket = fresh(1)
    limits.take([[bucket]] * 2)
    assert one(limits, replace(bucket, rate=1_000)).remaining in range(1_000)
    assert not one(limits, bucket).allowed


def test_the_requests_of_a_batch_each_have_their_own_answer(limits: RateLimits) -> None:
    many = [fresh(1 + number) for number in range(100)]
    empty = fresh(1)
    limits.take([[empty]] * 2)
    levels = limits.take([[bucket, empty] if bucket.rate % 2 else [bucket] for bucket in many])
    assert [isinstance(level, Level) and level.allowed for level in levels] == [bucket.rate % 2 == 0 for bucket in many]


def test_the_buckets_of_nodes_that_are_away_are_in_the_next_cluster(with_address: MakeClusters) -> None:
    limits = RateLimits(with_address("ab", "redis://127.0.0.1:1"), lambda: 0.0)
    bucket = fresh(1)
    outcomes = [limits.take([[bucket]])[0] for _ in range(5)]
    assert [type(outcome) for outcome in outcomes] == [RedisUnavailable, RedisUnavailable, Level, Level, Level]
    assert [outcome.allowed for outcome in outcomes if isinstance(outcome, Level)] == [True, True, False]


def test_servers_that_hang_cost_few_requests_a_short_time_out(with_address: MakeClusters) -> None:
    now_s = 0.0
    with socket.create_server(("127.0.0.1", 0)) as silent:
        limits = RateLimits(with_address("abc", f"redis://127.0.0.1:{silent.getsockname()[1]}"), lambda: now_s)
        bucket = fresh(1)

        def took_s(requests: int) -> float:
            began_s = time.monotonic()
            for _ in range(requests):
                assert isinstance(limits.take([[bucket]])[0], RedisUnavailable)
            return time.monotonic() - began_s

        assert len(CLUSTERS) * BRIEF_TIMEOUT_S <= took_s(len(CLUSTERS)) < len(CLUSTERS) * BRIEF_TIMEOUT_S + 1
        assert took_s(1_000) < BRIEF_TIMEOUT_S
        now_s = LEFT_OUT_S
        assert took_s(1) >= PROBE_TIMEOUT_S  # it is tried again, by the breaker's probe


def test_a_node_that_is_back_is_used_again(stores: Stores, with_address: MakeClusters) -> None:
    now_s, gone = 0.0, with_address("abc", "redis://127.0.0.1:1")
    limits, bucket = RateLimits(gone, lambda: now_s), fresh(1)
    for _ in CLUSTERS:
        limits.take([[bucket]])
    limits._clusters = stores.brief
    assert isinstance(limits.take([[bucket]])[0], RedisUnavailable)
    now_s = LEFT_OUT_S
    assert one(limits, bucket).allowed


@pytest.fixture
def strict(stores: Stores) -> Stores:
    """Stores whose live settings allow 2 requests a second with a token, and 5 from an address."""
    wanted = set_live_settings(stores.zookeeper, rate_per_token=2, rate_per_address=5)
    deadline = time.monotonic() + WITHIN_S
    while stores.timelines.live != wanted:
        assert time.monotonic() < deadline
    return stores


def statuses(client: Client, count: int, headers: dict[str, str]) -> list[int]:
    return [client.get("/v1/users/1", headers=headers).status_code for _ in range(count)]


def test_over_http_a_token_and_an_address_have_each_their_limit(
    strict: Stores, make_users: Callable[[int], list[int]]
) -> None:
    one_user, other = make_users(2)
    client, elsewhere = client_of(strict), Client(client_of(strict).app, client_of(strict).tokens, "10.0.0.2")
    assert statuses(client, 4, client.acting(one_user)) == [404] * 4
    response = client.get("/v1/users/1", headers=client.acting(one_user))
    assert "2 requests a second with this token" in problem_of(response, 429)
    assert response.headers["ratelimit-limit"] == "4"
    assert statuses(client, 3, client.acting(other)) == [404] * 3
    assert 404 in statuses(client, 3, client.acting(one_user, Scope.READ)), "another token of the same user"
    response = client.get("/v1/users/1")
    while response.status_code == 404:
        response = client.get("/v1/users/1")
    assert "5 requests a second from this address" in problem_of(response, 429)
    assert statuses(elsewhere, 3, {}) == [404] * 3
    assert client.get("/healthz").status_code == 200


def test_over_http_a_batch_takes_more_than_a_request(strict: Stores, make_users: Callable[[int], list[int]]) -> None:
    client = client_of(strict)
    headers, body = client.acting(make_users(1)[0], Scope.ADMIN), {"tweets": [{"text": "Hello"}] * 20}
    responses = [client.post("/v1/tweets:batch", json=body, headers=headers) for _ in range(6)]
    assert responses[0].status_code == 200
    assert int(responses[0].headers["ratelimit-remaining"]) <= 2, "a lone request leaves 3 of 4"
    refused = [response for response in responses if response.status_code != 200]
    assert "2 requests a second with this token" in problem_of(refused[0], 429)
    with strict.engine.connect() as connection:
        posted = connection.execute(sa.text("SELECT count(*) FROM tweets")).scalar_one()
    assert posted == 20 * (len(responses) - len(refused))
