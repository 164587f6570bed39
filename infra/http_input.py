"""What requests carry: ids, and the stores that a route works on. Who they act as: http_access.py."""

import re
from collections.abc import Callable
from typing import Annotated

from fastapi import Depends, Request
from pydantic import BeforeValidator, WithJsonSchema

from infra.composition import Stores
from infra.ids import ID_MAX

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


async def open_stores_of(request: Request) -> Stores:
    """The stores that the app was made with."""
    stores = request.app.state.stores
    assert isinstance(stores, Stores)
    return stores


OpenStores = Annotated[Stores, Depends(open_stores_of)]
