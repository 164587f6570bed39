"""Who may do what over HTTP, without servers: what is refused, and that the rest gets as far as the database (503)."""

import pytest

from infra.tokens import Scope
from tests.http_client import Client, bearing, client_without_servers, problem_of

READ, WRITE, ADMIN = Scope

PUBLIC = [
    ("POST", "/v1/users"),
    ("GET", "/v1/users/1"),
    ("GET", "/v1/users/1/followers"),
    ("GET", "/v1/users/1/following"),
]
READING = [("GET", "/v1/timelines/home"), ("GET", "/v1/timelines/home/stream"), ("GET", "/v1/stream")]
FOR_A_USER = [
    ("PUT", "/v1/users/1/following/2"),
    ("DELETE", "/v1/users/1/following/2"),
    ("PUT", "/v1/users/1/blocking/2"),
    ("DELETE", "/v1/users/1/blocking/2"),
    ("DELETE", "/v1/users/1"),
]
LIKING = [("POST", "/v1/tweets/1/like"), ("DELETE", "/v1/tweets/1/like")]
WRITING = [("POST", "/v1/tweets"), ("DELETE", "/v1/tweets/1"), *LIKING, *FOR_A_USER]
ADMINISTRATION = [("POST", "/v1/tweets:batch"), ("POST", "/v1/users/1/following:batch")]
NEEDED = dict.fromkeys(READING, READ) | dict.fromkeys(WRITING, WRITE) | dict.fromkeys(ADMINISTRATION, ADMIN)
BODIES = {
    "/v1/users": {"handle": "ada"},
    "/v1/tweets": {"text": "Hello"},
    "/v1/tweets:batch": {"tweets": [{"text": "Hello"}]},
    "/v1/users/1/following:batch": {"ids": ["2"]},
}

NEVER_MADE = "ff_1_" + "A" * 43


@pytest.fixture
def client() -> Client:
    return client_without_servers()


def ask(client: Client, method: str, path: str, headers: dict[str, str], status: int) -> str:
    """The detail of the problem that a valid request is answered."""
    response = client.request(method, path, json=BODIES.get(path), headers=headers)
    detail = problem_of(response, status)
    if status == 401:
        assert response.headers["www-authenticate"] == "Bearer"
    return detail


@pytest.mark.parametrize(("method", "path"), PUBLIC)
def test_what_is_public_needs_no_token(client: Client, method: str, path: str) -> None:
    ask(client, method, path, {}, 503)


@pytest.mark.parametrize(("method", "path"), NEEDED)
def test_everything_else_needs_one(client: Client, method: str, path: str) -> None:
    assert f"a token with scope {NEEDED[method, path]}" in ask(client, method, path, {}, 401)


@pytest.mark.parametrize(
    "given",
    [
        NEVER_MADE,
        "",
        "ff_1",
        "ff_1_short",
        "ff_0_" + "A" * 43,
        "ff_" + "9" * 19 + "_" + "A" * 43,
        "ff_1_" + "A" * 10_000,
        "ff_\u0661_" + "A" * 43,
    ],
)
@pytest.mark.parametrize(("method", "path"), [PUBLIC[0], PUBLIC[1], READING[0], WRITING[0]])
def test_a_token_that_is_not_valid_is_refused_everywhere_and_not_repeated(
    client: Client, method: str, path: str, given: str
) -> None:
    headers = {"Authorization": f"Bearer {given}".encode()}
    detail = ask(client, method, path, headers, 401)  # type: ignore[arg-type]
    assert not given or given not in detail


def test_another_scheme_is_refused(client: Client) -> None:
    assert "must be: Bearer <token>" in ask(client, "GET", "/v1/users/1", {"Authorization": "Basic c2VjcmV0"}, 401)


def test_a_revoked_token_is_refused_by_the_next_request(client: Client) -> None:
    token_id, text = client.tokens.create(1)
    ask(client, "POST", "/v1/tweets", bearing(text), 503)
    client.tokens.revoke(token_id)
    ask(client, "POST", "/v1/tweets", bearing(text), 401)


@pytest.mark.parametrize(("method", "path"), NEEDED)
def test_a_token_without_the_scope_is_told_which_one_it_lacks(client: Client, method: str, path: str) -> None:
    needed = NEEDED[method, path]
    had = {READ: [WRITE], WRITE: [READ], ADMIN: [READ, WRITE]}[needed]
    detail = ask(client, method, path, client.acting(1, *had), 403)
    assert detail == f"this needs a token with scope {needed}, and the token that was given has {', '.join(had)}"


@pytest.mark.parametrize("scopes", [(WRITE,), (READ, WRITE), (ADMIN,)])
@pytest.mark.parametrize(("method", "path"), WRITING)
def test_a_token_with_the_scope_gets_through(client: Client, method: str, path: str, scopes: tuple[Scope, ...]) -> None:
    ask(client, method, path, client.acting(1, *scopes), 503)


@pytest.mark.parametrize(("method", "path"), FOR_A_USER)
def test_a_user_acts_as_himself_only_unless_the_token_has_admin(client: Client, method: str, path: str) -> None:
    detail = ask(client, method, path, client.acting(2, READ, WRITE), 403)
    assert detail.startswith("the token acts as user 2 and not as user 1")
    ask(client, method, path, client.acting(2, ADMIN), 503)


@pytest.mark.parametrize(("method", "path"), ADMINISTRATION)
def test_admin_may_send_batches(client: Client, method: str, path: str) -> None:
    ask(client, method, path, client.acting(1, ADMIN), 503)


def test_these_are_all_routes(client: Client) -> None:
    document = client.get("/openapi.json").json()["paths"]
    open_to_all = {("GET", "/v1/users/1/timeline"), ("GET", "/v1/tweets/1"), *PUBLIC}
    for path, operations in document.items():
        for method, operation in operations.items():
            if path.startswith("/v1/"):
                known = (method.upper(), path.format(id=1, other=2))
                assert known in NEEDED or known in open_to_all
                assert ({} in operation["security"]) == (known in open_to_all)
