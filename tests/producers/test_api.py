"""What the writing routes refuse before they ask a server."""

import json
from typing import Any

import pytest

from infra.http_problems import ERRORS_SHOWN_MAX
from infra.ids import ID_MAX
from infra.tokens import Scope
from producers.api_requests import FOLLOWS_MAX, TWEETS_MAX
from tests.http_client import Client, client_without_servers, problem_of

JSON = {"content-type": "application/json"}


@pytest.fixture
def client() -> Client:
    return client_without_servers()


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (0, "0"),
        (-1, "-1"),
        (ID_MAX + 1, str(ID_MAX + 1)),
        (10**40, "10000"),
        (1.0, "1.0"),
        (True, "true"),
        (False, "false"),
        ("abc", "'abc'"),
        ("", "''"),
        ("-1", "'-1'"),
        ("007", "'007'"),
        ("1_000", "'1_000'"),
        (" 1", "' 1'"),
        ("१", "'१'"),
        ([], "an array"),
        ({"a": {}}, "an object"),
    ],
)
def test_an_id_that_is_none_is_refused_and_named(client: Client, given: object, named: str) -> None:
    tweet, users, batch = "/v1/tweets", "/v1/users", "/v1/tweets:batch"
    requests = [
        (tweet, {"text": "Hello", "reply_to": given}, "reply_to"),
        (tweet, {"retweet_of": given}, "retweet_of"),
        (users, {"handle": "ada", "id": given}, "id"),
        (batch, {"tweets": [{"text": "Hello"}, {"text": "Hello", "author_id": given}]}, "tweets.1.author_id"),
        ("/v1/users/1/following:batch", {"ids": ["2", given]}, "ids.1"),
    ]
    for path, body, field in requests:
        detail = problem_of(client.post(path, json=body, headers=client.acting(1, Scope.ADMIN)), 422)
        assert detail.startswith(f"{field} is {named}")
        assert "a whole number from 1 to" in detail


@pytest.mark.parametrize("given", ["1", 1, str(ID_MAX), ID_MAX])
def test_an_id_may_be_text_or_a_number(client: Client, given: object) -> None:
    problem_of(client.post("/v1/users", json={"handle": "ada", "id": given}), 503)


@pytest.mark.parametrize("given", ["abc", "0", "-5", str(ID_MAX + 1), "9" * 5000, "1.5", "%00"])
def test_an_id_in_the_path_that_is_none_is_refused(client: Client, given: str) -> None:
    for method, path in [
        ("DELETE", "/v1/tweets/{}"),
        ("DELETE", "/v1/users/{}"),
        ("PUT", "/v1/users/{}/following/2"),
        ("PUT", "/v1/users/{}/blocking/2"),
        ("DELETE", "/v1/users/1/blocking/{}"),
        ("DELETE", "/v1/users/1/following/{}"),
    ]:
        problem_of(client.request(method, path.format(given), headers=client.acting(1)), 422)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "empty"),
        (" \n\t", "empty"),
        (None, "empty"),
        ("x" * 281, "281 characters"),
        ("e\N{COMBINING ACUTE ACCENT}" * 281, "281 characters"),
        ("a\x00b", "NUL character at position 1"),
        ("a\ud800b", "lone surrogate at position 1"),
        (5, "valid string"),
        (["a"], "valid string"),
        ({"a": 1}, "valid string"),
        (True, "valid string"),
    ],
)
def test_a_text_that_breaks_a_rule_is_refused(client: Client, text: object, reason: str) -> None:
    body = json.dumps({"text": text})
    response = client.post("/v1/tweets", content=body, headers=client.acting(1) | JSON)
    assert reason in problem_of(response, 422)


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        (b'{"handle": ', 400, "the body is not JSON: Expecting value at character 11"),
        (b"{'handle': 'ada'}", 400, "not JSON"),
        (b'{"handle": "\xff"}', 400, "not UTF-8: the byte at 12 is 0xff"),
        ('{"handle": "ada"}'.encode("utf-16"), 400, "not UTF-8"),
        (b'\xef\xbb\xbf{"handle": "ada"}', 400, "BOM"),
        (b'{"handle": "ada", "handle": "bob"}', 400, "the key 'handle' twice"),
        (b'{"handle": {"a": 1, "a": 1}}', 400, "the key 'a' twice"),
        (b"[" * 60_000, 400, "nested too deep"),
        (b'{"id": ' + b"1" * 5000 + b"}", 400, "a number of 5000 digits"),
        (b"", 422, "the body is missing"),
        (b"[]", 422, "must be a JSON object"),
        (b"null", 422, "the body"),
        (b'{"id": 5}', 422, "handle is missing"),
        (b'{"handle": "ada", "hanlde": 1}', 422, "'hanlde' is not a field of this request"),
        (b'{"handle": "ada", "\\ud800": 1}', 422, "\\ud800"),
        (b'{"handle": 5}', 422, "handle is 5, but must be a valid string"),
        (b'{"handle": NaN}', 400, "NaN is no number"),
        (b'{"handle": null}', 422, "handle is null, but must be a valid string"),
        (b'{"handle": "a b"}', 422, "'a b'"),
        (b'{"handle": "a\\u0000"}', 422, "1 to 30 letters"),
        (b'{"handle": "\\ud800"}', 422, "\\ud800"),
    ],
)
def test_a_body_that_is_no_request_is_refused(client: Client, body: bytes, status: int, reason: str) -> None:
    assert reason in problem_of(client.post("/v1/users", content=body, headers=JSON), status)


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({"content-type": "text/plain"}, "must be a JSON object, sent as Content-Type: application/json"),
        ({"content-type": "application/problem+json"}, "'application/problem+json', but must be application/json"),
        ({"content-type": "application/json; charset=latin-1"}, "but must be application/json, in UTF-8"),
        (JSON | {"content-encoding": "gzip"}, "the Content-Encoding is 'gzip'"),
    ],
)
def test_a_body_that_says_it_has_another_form_is_refused(client: Client, headers: dict[str, str], reason: str) -> None:
    assert reason in problem_of(client.post("/v1/users", content=b'{"handle": "ada"}', headers=headers), 422)


@pytest.mark.parametrize(
    "kind", ["application/json", "Application/JSON; charset=UTF-8", 'application/json;charset="utf-8"']
)
def test_json_in_utf8_is_read_however_that_is_written(client: Client, kind: str) -> None:
    headers = {"content-type": kind, "content-encoding": "identity"}
    problem_of(client.post("/v1/users", content='{"handle": "ada"}', headers=headers), 503)


@pytest.mark.parametrize(("given", "named"), [(1, "1"), ("a", "'a'"), (None, "null"), ([], "an array")])
def test_an_item_that_is_no_object_is_named(client: Client, given: object, named: str) -> None:
    response = client.post("/v1/tweets:batch", json={"tweets": [given]}, headers=client.acting(1, Scope.ADMIN))
    assert problem_of(response, 422) == f"tweets.0 is {named}, but must be an object"


def test_a_body_without_its_type_is_refused(client: Client) -> None:
    response = client.post("/v1/users", content=b'{"handle": "ada"}')
    assert "application/json" in problem_of(response, 422)


@pytest.mark.parametrize("what", ["following", "blocking"])
def test_nobody_follows_or_blocks_himself(client: Client, what: str) -> None:
    assert "himself" in problem_of(client.put(f"/v1/users/1/{what}/1", headers=client.acting(1)), 422)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/users", {"handle": "ada"}),
        ("/v1/tweets", {"text": "Hello"}),
        ("/v1/tweets:batch", {"tweets": [{"text": "Hello"}]}),
        ("/v1/users/1/following:batch", {"ids": ["2"]}),
    ],
)
@pytest.mark.parametrize("key", [b"", b"a b", b"a\tb", b"x" * 256, "k\u00e9y".encode(), b"\xff"])
def test_an_idempotency_key_that_breaks_the_rule_is_refused(
    client: Client, path: str, body: object, key: bytes
) -> None:
    headers: dict[Any, Any] = {**client.acting(1, Scope.ADMIN), "Idempotency-Key": key}
    assert "1 to 255 visible ASCII characters" in problem_of(client.post(path, json=body, headers=headers), 422)


@pytest.mark.parametrize(
    ("path", "field", "item", "items_max"),
    [
        ("/v1/tweets:batch", "tweets", {"text": "x"}, TWEETS_MAX),
        ("/v1/users/1/following:batch", "ids", "2", FOLLOWS_MAX),
    ],
)
def test_a_batch_with_more_items_than_the_limit_is_refused(
    client: Client, path: str, field: str, item: object, items_max: int
) -> None:
    headers = client.acting(1, Scope.ADMIN)
    problem_of(client.post(path, json={field: [item] * items_max}, headers=headers), 503)
    detail = problem_of(client.post(path, json={field: [item] * (items_max + 1)}, headers=headers), 422)
    assert detail == f"{field} has more than {items_max} items, which is the most of one request"


def test_of_many_errors_the_first_ones_are_told(client: Client) -> None:
    headers = client.acting(1, Scope.ADMIN)
    response = client.post("/v1/users/1/following:batch", json={"ids": ["x"] * FOLLOWS_MAX}, headers=headers)
    detail = problem_of(response, 422)
    assert detail.startswith("ids.0 is 'x'")
    assert detail.endswith(f"and {FOLLOWS_MAX - ERRORS_SHOWN_MAX} more")


def test_a_retweet_with_words_of_its_own_is_refused(client: Client) -> None:
    response = client.post("/v1/tweets", json={"text": "look", "retweet_of": "1"}, headers=client.acting(1))
    assert "a retweet has no text" in problem_of(response, 422)
