"""Commands that make, list and revoke bearer tokens."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from infra.cli import JsonFlag, UserId, parse_id, print_json, say, settings_of
from infra.database import make_engine
from infra.tokens import DEFAULT_SCOPES, Scope, TokenInfo, Tokens, parse_scopes

token = typer.Typer(no_args_is_help=True, help="Bearer tokens of the HTTP API.")

OneUser = Annotated[int | None, typer.Argument(parser=parse_id, metavar="USER", help="Only this user's.")]
TokenId = Annotated[int, typer.Argument(parser=parse_id, metavar="ID", help="A token's id: see `token list`.")]
ScopesOption = Annotated[str, typer.Option("--scope", help=f"Any of {', '.join(Scope)}; admin includes the others.")]


@token.command("create")
def token_create(
    context: typer.Context, user: UserId, scope: ScopesOption = ",".join(DEFAULT_SCOPES), as_json: JsonFlag = False
) -> None:
    """Make a token that acts as USER. It is shown this once: only a hash of it is kept."""
    scopes = parse_scopes(scope)
    with _tokens(context) as tokens:
        token_id, text = tokens.create(user, scopes)
    if as_json:
        print_json({"id": str(token_id), "user_id": str(user), "scopes": scopes, "token": text})
        return
    say(f"token {token_id} of user {user} for {', '.join(scopes)}; it is not shown again:")
    typer.echo(text)


@token.command("list")
def token_list(context: typer.Context, user: OneUser = None, as_json: JsonFlag = False) -> None:
    """List tokens, without their secrets."""
    with _tokens(context) as tokens:
        found = tokens.of(user)
    if as_json:
        print_json({"tokens": [_shown(one) for one in found]})
        return
    for one in found:
        state = f"revoked {one.revoked_at:%Y-%m-%d %H:%M:%S%z}" if one.revoked_at else "valid"
        typer.echo(
            f"{one.id}\tuser {one.user_id}\t{','.join(one.scopes)}\t{one.created_at:%Y-%m-%d %H:%M:%S%z}\t{state}"
        )
    if not found:
        say("there are no tokens" if user is None else f"user {user} has no tokens")


@token.command("revoke")
def token_revoke(context: typer.Context, token_id: TokenId, as_json: JsonFlag = False) -> None:
    """Revoke a token: the next request with it is refused."""
    with _tokens(context) as tokens:
        tokens.revoke(token_id)
    if as_json:
        print_json({"id": str(token_id), "revoked": True})
    else:
        say(f"token {token_id} is revoked")


@contextmanager
def _tokens(context: typer.Context) -> Iterator[Tokens]:
    engine = make_engine(settings_of(context).need("database_url"))
    try:
        yield Tokens(engine)
    finally:
        engine.dispose()


def _shown(one: TokenInfo) -> dict[str, object]:
    return {
        "id": str(one.id),
        "user_id": str(one.user_id),
        "scopes": one.scopes,
        "created_at": one.created_at.isoformat(),
        "revoked_at": one.revoked_at and one.revoked_at.isoformat(),
    }
