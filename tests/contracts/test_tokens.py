"""Tokens in the database, and the ones in memory that other tests use: the same promises. And the commands."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from infra.composition import Stores
from infra.errors import NotFound, Unauthenticated
from infra.settings import Settings
from infra.tokens import Access, Scope, Tokens
from tests.http_client import MakesTokens, MemoryTokens, bearing, client_of, problem_of

MakeUsers = Callable[[int], list[int]]
UNKNOWN = 9_000_000_000_000_000_001  # above all ids that tests make


@pytest.fixture(params=["database", "memory"])
def tokens(request: pytest.FixtureRequest, engine: sa.Engine) -> MakesTokens:
    return Tokens(engine) if request.param == "database" else MemoryTokens()


def test_a_token_allows_what_it_was_made_for(tokens: MakesTokens, make_users: MakeUsers) -> None:
    one, other = make_users(2)
    texts = [tokens.create(one)[1], tokens.create(other, [Scope.ADMIN])[1], tokens.create(one, [Scope.READ])[1]]
    assert tokens.check(texts) == [
        Access(one, frozenset({Scope.READ, Scope.WRITE})),
        Access(other, frozenset({Scope.ADMIN})),
        Access(one, frozenset({Scope.READ})),
    ]


def test_in_a_batch_each_token_has_its_own_outcome(tokens: MakesTokens, make_users: MakeUsers) -> None:
    (user_id,) = make_users(1)
    valid, (revoked_id, revoked) = tokens.create(user_id)[1], tokens.create(user_id)
    tokens.revoke(revoked_id)
    wrong = valid[:-1] + ("A" if valid[-1] != "A" else "B")
    elsewhere = valid.replace("_", "_9", 1)
    outcomes = tokens.check([wrong, valid, "", revoked, valid, elsewhere, f"{valid}\n", valid.upper()])
    assert [isinstance(one, Access) for one in outcomes] == [False, True, False, False, True, False, False, False]
    assert all(isinstance(one, Access | Unauthenticated) for one in outcomes)


def test_of_a_secret_only_a_hash_is_kept(engine: sa.Engine, make_users: MakeUsers) -> None:
    _, text = Tokens(engine).create(make_users(1)[0])
    with engine.connect() as connection:
        rows = connection.execute(sa.text("SELECT CAST(bearer_tokens AS text) FROM bearer_tokens")).scalars().all()
    secret = text.split("_", 2)[2]
    assert len(rows) == 1
    assert secret not in rows[0]
    assert secret.encode().hex() not in rows[0]


def test_a_deleted_user_has_no_valid_tokens(engine: sa.Engine, make_users: MakeUsers) -> None:
    going, gone, staying = make_users(3)
    tokens = Tokens(engine)
    texts = [tokens.create(user_id)[1] for user_id in (going, gone, staying)]
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE users SET deleted_at = now() WHERE id = :id"), {"id": going})
        connection.execute(sa.text("DELETE FROM users WHERE id = :id"), {"id": gone})
    assert [isinstance(one, Access) for one in tokens.check(texts)] == [False, False, True]
    for user_id in (going, gone, UNKNOWN):
        with pytest.raises(NotFound, match=f"user {user_id} does not exist"):
            tokens.create(user_id)


def test_tokens_are_listed_without_secrets_and_revoked_once_and_again(engine: sa.Engine, make_users: MakeUsers) -> None:
    one, other = make_users(2)
    tokens = Tokens(engine)
    first, second = tokens.create(one)[0], tokens.create(other, [Scope.WRITE])[0]
    tokens.revoke(first)
    (revoked,) = tokens.of(one)
    tokens.revoke(first)
    assert tokens.of(one) == [revoked]
    assert revoked.revoked_at is not None
    assert [(token.id, token.user_id, token.scopes) for token in tokens.of()] == [
        (first, one, (Scope.READ, Scope.WRITE)),
        (second, other, (Scope.WRITE,)),
    ]
    with pytest.raises(NotFound, match=f"token {UNKNOWN} does not exist"):
        tokens.revoke(UNKNOWN)


def test_a_revoked_token_is_refused_by_the_next_request(stores: Stores, make_users: MakeUsers) -> None:
    (user_id,) = make_users(1)
    client, tokens = client_of(stores), Tokens(stores.engine)
    token_id, text = tokens.create(user_id)
    assert client.get("/v1/timelines/home", headers=bearing(text)).status_code == 200
    tokens.revoke(token_id)
    for path in ("/v1/timelines/home", f"/v1/users/{user_id}"):
        response = client.get(path, headers=bearing(text))
        assert "revoked" in problem_of(response, 401)
        assert response.headers["www-authenticate"] == "Bearer"


def fanfold(settings: Settings, folder: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    environ = os.environ | {"FANFOLD_DATABASE_URL": settings.database_url}
    command = [sys.executable, "-m", "infra", "--data-dir", str(folder), "token", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environ, timeout=60)


def test_the_commands_make_list_and_revoke(
    settings: Settings, engine: sa.Engine, make_users: MakeUsers, tmp_path: Path
) -> None:
    (user_id,) = make_users(1)
    made = fanfold(settings, tmp_path, "create", str(user_id), "--scope", "write,admin", "--json")
    token = json.loads(made.stdout)
    assert token | {"token": ""} == {
        "id": token["id"],
        "user_id": str(user_id),
        "scopes": ["write", "admin"],
        "token": "",
    }
    access = Access(user_id, frozenset({Scope.WRITE, Scope.ADMIN}))
    assert Tokens(engine).check([token["token"]]) == [access]
    plain = fanfold(settings, tmp_path, "create", str(user_id))
    assert plain.stdout.startswith("ff_")
    assert Tokens(engine).check([plain.stdout.strip()]) == [Access(user_id, frozenset({Scope.READ, Scope.WRITE}))]
    revoked = fanfold(settings, tmp_path, "revoke", token["id"], "--json")
    assert json.loads(revoked.stdout) == {"id": token["id"], "revoked": True}
    listed = json.loads(fanfold(settings, tmp_path, "list", str(user_id), "--json").stdout)["tokens"]
    assert [one["id"] for one in listed if one["revoked_at"]] == [token["id"]]
    assert len(listed) == 2
    assert fanfold(settings, tmp_path, "list").stdout.count("\n") == 2
    assert token["token"].split("_", 2)[2] not in json.dumps(listed)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("create", "{user}", "--scope", "read,root"), "'root' is not a scope; the scopes are read, write, admin"),
        (("create", str(UNKNOWN)), f"user {UNKNOWN} does not exist"),
        (("revoke", str(UNKNOWN)), f"token {UNKNOWN} does not exist"),
    ],
)
def test_a_command_that_cannot_be_done_says_why(
    settings: Settings, make_users: MakeUsers, tmp_path: Path, words: tuple[str, ...], sentence: str
) -> None:
    (user_id,) = make_users(1)
    done = fanfold(settings, tmp_path, *[word.format(user=user_id) for word in words], "--json")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"fanfold: {sentence}")
