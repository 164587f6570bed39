"""Tokens without a database: scopes, and what an Authorization header may look like."""

import pytest

from infra.errors import InvalidInput, Unauthenticated
from infra.http_access import token_in
from infra.tokens import Access, Scope, parse_scopes


@pytest.mark.parametrize(
    ("text", "scopes"),
    [
        ("read", [Scope.READ]),
        ("read,write", [Scope.READ, Scope.WRITE]),
        ("write, admin", [Scope.WRITE, Scope.ADMIN]),
    ],
)
def test_scopes_are_a_list_with_commas(text: str, scopes: list[Scope]) -> None:
    assert parse_scopes(text) == scopes


@pytest.mark.parametrize(("text", "named"), [("", "''"), ("read,", "''"), ("read;write", "'read;write'"), ("R", "'R'")])
def test_a_scope_that_is_none_is_refused_and_named(text: str, named: str) -> None:
    with pytest.raises(InvalidInput, match=f"{named} is not a scope; the scopes are read, write, admin"):
        parse_scopes(text)


@pytest.mark.parametrize(
    ("had", "may"),
    [
        ({Scope.READ}, {Scope.READ}),
        ({Scope.WRITE}, {Scope.WRITE}),
        ({Scope.ADMIN}, {Scope.READ, Scope.WRITE, Scope.ADMIN}),
        (set(), set()),
    ],
)
def test_admin_includes_the_other_scopes_and_no_other_scope_does(had: set[Scope], may: set[Scope]) -> None:
    access = Access(1, frozenset(had))
    assert {scope for scope in Scope if access.may(scope)} == may


@pytest.mark.parametrize(
    ("header", "token"),
    [(None, None), ("Bearer x", "x"), ("bearer x", "x"), ("BEARER  x ", "x"), ("Bearer", ""), ("Bearer ", "")],
)
def test_a_token_stands_behind_the_scheme(header: str | None, token: str | None) -> None:
    assert token_in(header) == token


@pytest.mark.parametrize("header", ["", "Basic c2VjcmV0", "Bearersecret", "secret", "Token secret"])
def test_another_scheme_is_refused_without_repeating_what_may_be_secret(header: str) -> None:
    with pytest.raises(Unauthenticated, match="must be: Bearer <token>") as refusal:
        token_in(header)
    assert "secret" not in str(refusal.value)
    assert "c2VjcmV0" not in str(refusal.value)
