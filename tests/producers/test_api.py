"""What the writing routes refuse before they ask a server."""

import json

import pytest

from infra.ids import ID_MAX
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
        (True, "True"),
        ("abc", "'abc'"),
        ("", "''"),
        ("-1", "'-1'"),
        ("007", "'007'"),
        ("1_000", "'1_000'"),
        (" 1", "' 1'"),
        ("१", "'१'"),
        ([], "[]"),
        ({"a": {}}, "{'a': {}}"),
    ],
)
def test_an_id_that_is_none_is_refused_and_named(client: Client, given: object, named: str) -> None:
    for field in ("reply_to", "retweet_of"):
        response = client.post("/v1/tweets", json={"text": "Hello", field: given}, headers=client.acting(1))
        detail = problem_of(response, 422)
        assert detail.startswith(f"{field} is {named}")
        assert "a whole number from 1 to" in detail


@pytest.mark.parametrize("given", ["1", 1, str(ID_MAX), ID_MAX])
def test_an_id_may_be_text_or_a_number(client: Client, given: object) -> None:
    problem_of(client.post("/v1/users", json={"handle": "ada", "id": given}), 503)


@pytest.mark.parametrize("given", ["abc", "0", "-5", str(ID_MAX + 1), "9" * 5000, "1.5", "%00"])
def test_an_id_in_the_path_that_is_none_is_refused(client: Client, given: str) -> None:
    for method, path in [
        ("DELETE", "/v1/tweets/{}"),
        ("PUT", "/v1/users/{}/following/2"),
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
        (b'{"handle": "\xff"}', 400, "not UTF-8"),
        (b"[" * 60_000, 400, "nested too deep"),
        (b'{"id": ' + b"1" * 5000 + b"}", 400, "thousands of digits"),
        (b"", 422, "the body is missing"),
        (b"[]", 422, "must be a JSON object"),
        (b"null", 422, "the body"),
        (b'{"id": 5}', 422, "handle is missing"),
        (b'{"handle": "ada", "hanlde": 1}', 422, "'hanlde' is not a field of this request"),
        (b'{"handle": "ada", "\\ud800": 1}', 422, "\\ud800"),
        (b'{"handle": 5}', 422, "handle is 5, but must be a valid string"),
        (b'{"handle": NaN}', 422, "handle is nan"),
        (b'{"handle": "a b"}', 422, "'a b'"),
        (b'{"handle": "a\\u0000"}', 422, "1 to 30 letters"),
        (b'{"handle": "\\ud800"}', 422, "\\ud800"),
    ],
)
def test_a_body_that_is_no_request_is_refused(client: Client, body: bytes, status: int, reason: str) -> None:
    assert reason in problem_of(client.post("/v1/users", content=body, headers=JSON), status)


def test_a_body_without_its_type_is_refused(client: Client) -> None:
    response = client.post("/v1/users", content=b'{"handle": "ada"}')
    assert "application/json" in problem_of(response, 422)


def test_nobody_follows_himself(client: Client) -> None:
    assert "himself" in problem_of(client.put("/v1/users/1/following/1", headers=client.acting(1)), 422)


def test_a_retweet_with_words_of_its_own_is_refused(client: Client) -> None:
    response = client.post("/v1/tweets", json={"text": "look", "retweet_of": "1"}, headers=client.acting(1))
    assert "a retweet has no text" in problem_of(response, 422)
