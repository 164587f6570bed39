"""What requests carry: ids, the acting user, and the stores that a route works on.

Until there are tokens the acting user is whoever a header names; so api_server.py listens on loopback only.
"""

import re
from collections.abc import Callable
from typing import Annotated

from fastapi import Depends, HTTPException, Request, Security
from fastapi.security import APIKeyHeader
from pydantic import BeforeValidator, WithJsonSchema

from infra.composition import Stores
from infra.errors import InvalidInput
from infra.http_problems import shown
from infra.ids import ID_MAX

ACTING_USER_HEADER = "X-Fanfold-User"
_DIGITS = re.compile(r"0|[1-9][0-9]{0,18}")


def whole_number(lowest: int) -> Callable[[object], int]:
    """A parser of ids, as text or as a JSON number. The `ValueError` that it raises states the rule."""

    def parse(value: object) -> int:
        if isinstance(value, str) and _DIGITS.fullmatch(value):
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not lowest <= value <= ID_MAX:
            raise ValueError(f"a whole number from {lowest} to {ID_MAX}")
        return value

    return parse


Id = Annotated[
    int,
    BeforeValidator(whole_number(1)),
    WithJsonSchema({"type": "string", "pattern": "^[1-9][0-9]{0,18}$", "examples": ["1007"]}),
]
CursorId = Annotated[
    int,
    BeforeValidator(whole_number(0)),
    WithJsonSchema({"type": "string", "pattern": "^(0|[1-9][0-9]{0,18})$", "examples": ["3799912185593856000"]}),
]

_acting_user_header = APIKeyHeader(
    name=ACTING_USER_HEADER,
    auto_error=False,
    scheme_name="ActingUser",
    description="The id of the user who acts. Tokens will replace it.",
)


async def acting_user(given: Annotated[str | None, Security(_acting_user_header)]) -> int:
    """The id in the header; whether there is such a user is for the route to find out."""
    if not given:
        challenge = {"WWW-Authenticate": f'APIKey header="{ACTING_USER_HEADER}"'}
        raise HTTPException(401, f"the header {ACTING_USER_HEADER} is missing; it names the acting user", challenge)
    try:
        return whole_number(1)(given)
    except ValueError as rule:
        raise InvalidInput(f"{ACTING_USER_HEADER} is {shown(given)}, but must be {rule}") from None


async def open_stores_of(request: Request) -> Stores:
    """The stores that the app was made with."""
    stores = request.app.state.stores
    assert isinstance(stores, Stores)
    return stores


ActingUser = Annotated[int, Depends(acting_user)]
OpenStores = Annotated[Stores, Depends(open_stores_of)]
