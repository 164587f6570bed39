"""Who a request acts as: the bearer token of its header, checked in the database together with others' (tokens.py).

Routes declare the scope that they need. All of this runs on the event loop; only the query has a thread.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Annotated, Any

from fastapi import Depends, Request, Response, Security
from fastapi.security import HTTPBearer
from fastapi.security.http import HTTPAuthorizationCredentials

from infra.errors import Forbidden, Unauthenticated
from infra.http_json import StrictRoute
from infra.tokens import Access, Scope

CHECKS_BATCH_MAX = 500  # tokens of one query: some milliseconds by primary key
CHECKS_AT_ONCE = 2  # the second query starts while the first one is under way; more would only make batches smaller

_bearer = HTTPBearer(auto_error=False, scheme_name="Bearer", description="A token made with `fanfold token create`.")


def token_in(header: str | None) -> str | None:
    """The token in an Authorization header; None without one. Raises `Unauthenticated`, and never repeats a secret."""
    if header is None:
        return None
    scheme, _, text = header.strip().partition(" ")
    if scheme.lower() != "bearer":
        raise Unauthenticated("the Authorization header has another form; it must be: Bearer <token>")
    return text.strip()


async def access_if_any(
    request: Request, _: Annotated[HTTPAuthorizationCredentials | None, Security(_bearer)]
) -> Access | None:
    """What the request's token allows; None without one. Raises `Unauthenticated` for one that is not valid. The
    database is asked once a request."""
    text = token_in(request.headers.get("authorization"))
    if text is None:
        return None
    if not hasattr(request.state, "access"):
        request.state.access = await asyncio.wrap_future(request.app.state.token_checks.submit(text))
    access = request.state.access
    assert isinstance(access, Access)
    return access


def needing(scope: Scope) -> Callable[[Access | None], Awaitable[Access]]:
    """A dependency: what the token allows, which must be at least this. Raises `Unauthenticated` and `Forbidden`."""

    async def access(given: Annotated[Access | None, Depends(access_if_any)]) -> Access:
        return _need(scope, given)

    return access


def asking_first(scope: Scope) -> type[StrictRoute]:
    """Routes that read a body only for a token with this scope: for bodies that are large, since FastAPI reads and
    parses a body before it asks a dependency."""

    class AskingFirst(StrictRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            serve = super().get_route_handler()

            async def ask_and_serve(request: Request) -> Response:
                _need(scope, await access_if_any(request, None))
                return await serve(request)

            return ask_and_serve

    return AskingFirst


Reading = Annotated[Access, Depends(needing(Scope.READ))]
Writing = Annotated[Access, Depends(needing(Scope.WRITE))]
Administration = Annotated[Access, Depends(needing(Scope.ADMIN))]


def check_acts_for(access: Access, user_id: int) -> None:
    """Raises `Forbidden` when this is another user and the token has not scope admin."""
    if access.user_id != user_id and not access.may(Scope.ADMIN):
        raise Forbidden(
            f"the token acts as user {access.user_id} and not as user {user_id}; that needs a token with scope admin"
        )


def _need(scope: Scope, given: Access | None) -> Access:
    if given is None:
        raise Unauthenticated(f"this needs a token with scope {scope}, sent as: Authorization: Bearer <token>")
    if not given.may(scope):
        scopes = ", ".join(sorted(given.scopes))
        raise Forbidden(f"this needs a token with scope {scope}, and the token that was given has {scopes}")
    return given
