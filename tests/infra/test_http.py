"""The HTTP API's frame without servers: every error is a problem document, and bodies are bounded."""

import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from infra import http_frame, trace
from infra.errors import (
    AuthorBusy,
    ClockWentBack,
    Conflict,
    DatabaseUnavailable,
    FanfoldError,
    Fenced,
    Forbidden,
    InvalidInput,
    NotFound,
    Overloaded,
    RedisFull,
    RedisUnavailable,
    Superseded,
    TokenLost,
    Unauthenticated,
)
from infra.http import GATHERED_CONNECTIONS_MAX
from infra.http_access import CHECKS_AT_ONCE
from infra.http_bodies import BATCH_BODY_BYTES_MAX, BODY_BYTES_MAX
from infra.ids import ID_MAX
from infra.tokens import Scope
from producers.api_requests import FOLLOWS_MAX, TWEETS_MAX
from producers.publish import POSTS_AT_ONCE, WAITING_MAX
from producers.rules import TEXT_MAX
from tests.http_client import Client, client_without_servers, problem_of

SECRET = "postgresql://user:secret@db"


@pytest.fixture
def client() -> Client:
    return client_without_servers()


def failing(client: Client, error: Exception) -> Client:
    """The client of an app that has one more route, which fails."""

    def fail() -> None:
        raise error

    client.app.add_api_route("/failing", fail)
    return client


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (InvalidInput("five is right out"), 422, "invalid-input"),
        (NotFound("user 1 does not exist"), 404, "not-found"),
        (Forbidden("not yours"), 403, "forbidden"),
        (Conflict("taken"), 409, "conflict"),
        (Unauthenticated("who?"), 401, "unauthenticated"),
        (Overloaded("events wait"), 503, "overloaded"),
    ],
)
def test_an_error_that_the_caller_can_mend_is_said_in_full(
    client: Client, error: FanfoldError, status: int, kind: str
) -> None:
    response = failing(client, error).get("/failing")
    assert problem_of(response, status) == str(error)
    assert response.json()["type"].endswith(":" + kind)


@pytest.mark.parametrize("kind", [DatabaseUnavailable, RedisUnavailable, Fenced, TokenLost, ClockWentBack])
def test_an_error_that_may_pass_asks_for_another_try_and_shows_no_internals(
    client: Client, kind: type[FanfoldError]
) -> None:
    response = failing(client, kind(SECRET)).get("/failing")
    assert "try again" in problem_of(response, 503)
    assert response.headers["retry-after"] == "1"
    assert "secret" not in response.text


@pytest.mark.parametrize(
    ("kind", "server"), [(RedisFull, "Redis"), (RedisUnavailable, "Redis"), (AuthorBusy, "PostgreSQL")]
)
def test_the_server_that_is_lacking_is_named(client: Client, kind: type[FanfoldError], server: str) -> None:
    response = failing(client, kind(SECRET)).get("/failing")
    assert problem_of(response, 503) == f"{server} cannot do its part at the moment; try again"


@pytest.mark.parametrize("error", [ValueError(SECRET), KeyError(SECRET), Superseded(SECRET)])
def test_an_unexpected_error_is_a_problem_without_internals(client: Client, error: Exception) -> None:
    with capture_logs() as logged:
        response = failing(client, error).get("/failing")
    problem_of(response, 500)
    assert "secret" not in response.text
    assert [entry["path"] for entry in logged] == ["/failing"]


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/users/", "/v1/nothing", "/v1/tweets/1/2", "/%00%ff"])
def test_an_unknown_path_is_a_problem(client: Client, path: str) -> None:
    assert "there is nothing at" in problem_of(client.get(path), 404)


def test_a_wrong_method_is_told_the_methods_of_all_routes_of_its_path(client: Client) -> None:
    response = client.request("PATCH", "/v1/tweets/1")
    problem_of(response, 405)
    assert response.headers["allow"] == "GET, DELETE, HEAD"


LIMITS = [
    ("/v1/users", BODY_BYTES_MAX),
    ("/v1/tweets", BODY_BYTES_MAX),
    ("/v1/tweets:batch", BATCH_BODY_BYTES_MAX["/tweets:batch"]),
    ("/v1/users/1/following:batch", BATCH_BODY_BYTES_MAX["/following:batch"]),
]


@pytest.mark.parametrize(("path", "bytes_max"), LIMITS)
def test_a_body_that_says_it_is_too_large_is_refused(client: Client, path: str, bytes_max: int) -> None:
    for size in (bytes_max + 1, 10_000_000):
        assert f"larger than {bytes_max} bytes" in problem_of(client.post(path, content=b"x" * size), 413)


@pytest.mark.parametrize(("path", "bytes_max"), LIMITS)
def test_a_body_that_turns_out_too_large_is_refused(client: Client, path: str, bytes_max: int) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(bytes_max // 1024 + 1):
            yield b"x" * 1024

    response = client.post(path, content=pieces(), headers=client.acting(1, Scope.ADMIN))
    assert f"larger than {bytes_max} bytes" in problem_of(response, 413)


def test_a_body_that_is_declared_too_large_is_refused_also_where_none_is_read(client: Client) -> None:
    for method, path in [("GET", "/healthz"), ("GET", "/v1/users/1"), ("PUT", "/v1/users/1/following/2")]:
        response = client.request(method, path, content=b"x" * (BODY_BYTES_MAX + 1))
        assert f"larger than {BODY_BYTES_MAX} bytes" in problem_of(response, 413)


def test_what_works_outside_the_routes_threads_has_its_share_of_the_pool() -> None:
    assert CHECKS_AT_ONCE + POSTS_AT_ONCE + WAITING_MAX <= GATHERED_CONNECTIONS_MAX


def test_the_largest_batch_fits_its_limit() -> None:
    tweet = {"text": "\N{GRINNING FACE}" * TEXT_MAX, "reply_to": str(ID_MAX), "author_id": str(ID_MAX)}
    assert len(json.dumps({"tweets": [tweet] * TWEETS_MAX})) < BATCH_BODY_BYTES_MAX["/tweets:batch"]
    assert len(json.dumps({"ids": [str(ID_MAX)] * FOLLOWS_MAX})) < BATCH_BODY_BYTES_MAX["/following:batch"]


@pytest.mark.parametrize("name", ["Authorization", "Content-Type", "Host", "Idempotency-Key"])
def test_a_header_that_is_there_twice_is_refused(client: Client, name: str) -> None:
    given = [(name, "one"), (name.lower(), "two")]
    assert problem_of(client.get("/healthz", headers=given), 400).startswith(f"the header {name.lower()} is there more")


@pytest.mark.parametrize("path", ["/v1/users/1%2Ftweets", "/v1%2fusers/1", "/healthz%2F"])
def test_a_slash_that_is_written_otherwise_leads_nowhere(client: Client, path: str) -> None:
    assert path in problem_of(client.get(path), 404)


def test_who_asks_only_for_the_head_is_answered_as_for_the_whole(client: Client) -> None:
    assert client.request("HEAD", "/healthz").status_code == client.get("/healthz").status_code == 200
    assert client.request("HEAD", "/nothing").status_code == 404
    assert client.request("HEAD", "/v1/tweets:batch").status_code == 405


def test_a_body_of_just_the_limit_is_read(client: Client) -> None:
    body = b'{"handle": "' + b"x" * (BODY_BYTES_MAX - 14) + b'"}'
    response = client.post("/v1/users", content=body, headers={"content-type": "application/json"})
    assert "the handle" in problem_of(response, 422)


def test_more_requests_than_the_limit_are_sent_away(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_frame, "REQUESTS_MAX", 0)
    response = client.get("/v1/nothing")
    assert "0 requests are under way" in problem_of(response, 503)
    assert response.headers["retry-after"] == "1"
    assert [client.get(path).status_code for path in ("/healthz", "/metrics")] == [200, 200]


def test_who_asks_whether_the_process_lives_is_never_sent_away(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_frame, "OPERATORS_REQUESTS_MAX", 0)
    for path in ("/readyz", "/metrics"):
        assert "0 requests are under way" in problem_of(client.get(path), 503)
    assert client.get("/healthz").status_code == 200


TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        ([TRACEPARENT], TRACEPARENT),
        ([], None),
        ([TRACEPARENT.upper()], None),
        ([TRACEPARENT, TRACEPARENT], None),
    ],
)
def test_a_call_belongs_to_the_trace_of_its_request(client: Client, given: list[str], seen: str | None) -> None:
    client.app.add_api_route("/trace", trace.current)

    assert client.get("/trace", headers=[("traceparent", value) for value in given]).json() == seen
    assert client.get("/trace").json() is None


def test_a_process_without_its_servers_is_alive(client: Client) -> None:
    assert client.get("/healthz").json() == {"status": "alive", "reasons": []}


def test_metrics_are_in_the_format_of_prometheus(client: Client) -> None:
    response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    assert "# TYPE python_info gauge" in response.text


def operations(client: Client) -> dict[str, dict[str, Any]]:
    paths = client.get("/openapi.json").json()["paths"]
    return {f"{method} {path}": one for path, methods in paths.items() for method, one in methods.items()}


def test_the_document_describes_every_answer_and_every_error_as_a_problem(client: Client) -> None:
    found = operations(client)
    assert len(found) == 23
    for name, operation in found.items():
        assert operation["description"], name
        for status, response in operation["responses"].items():
            if int(status) >= 400:
                assert set(response["content"]) == {"application/problem+json"}, name
                content = response["content"]["application/problem+json"]
                assert content["schema"] == {"$ref": "#/components/schemas/Problem"}
                assert content["example"]["status"] == int(status)


def test_the_document_has_an_example_of_every_request_and_answer(client: Client) -> None:
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    for name, operation in operations(client).items():
        bodies = [operation["requestBody"]] if "requestBody" in operation else []
        for body in bodies + list(operation["responses"].values()):
            for content in body.get("content", {}).values():
                schema = schemas.get(content["schema"].get("$ref", "").rpartition("/")[2], {})
                assert "example" in content or schema.get("examples"), name


def test_limits_and_what_to_wait_for_are_in_the_document(client: Client) -> None:
    for name, operation in operations(client).items():
        for status, response in operation["responses"].items():
            headers = response.get("headers", {}).keys()
            assert ("RateLimit-Limit" in headers) == ("/v1/" in name)
            assert ("Retry-After" in headers) == (status in {"202", "206", "429", "503"})
            assert ("WWW-Authenticate" in headers) == (status == "401")


def test_what_the_frame_itself_answers_is_in_the_document(client: Client) -> None:
    for name, operation in operations(client).items():
        if "/v1/" in name:
            needed = {"401", "422", "429", "503"}
            needed |= {"400", "408"} if "requestBody" in operation else set()
            needed |= set() if {} in operation["security"] else {"403"}
            assert needed <= operation["responses"].keys(), name
        assert {"413", "431"} <= operation["responses"].keys(), name
        assert ("503" in operation["responses"]) == ("/healthz" not in name)


def test_the_documentation_is_a_page_that_needs_no_other_site(client: Client) -> None:
    page = client.get("/docs")
    assert "text/html" in page.headers["content-type"]
    assert "//" not in "".join(re.findall(r'(?:src|href)="([^"]*)"', page.text))
    for path in re.findall(r'(?:src|href)="(/[^"]*)"', page.text):
        assert client.get(path).status_code == 200


def test_other_commands_do_not_import_fastapi() -> None:
    code = "import sys; from infra.cli import build_app; build_app(); sys.exit('fastapi' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
