"""JSON bodies, read strictly: UTF-8 alone, no key twice in one object, no NaN. What two programs would read in two ways
is refused. Used by the routes that take a body; bounds on bodies: http_bodies.py.
"""

import json
from collections.abc import Callable, Coroutine
from email.message import Message
from typing import Any

from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute

from infra.http_problems import shown

MEDIA_TYPE = "application/json"


class StrictRoute(APIRoute):
    """A route whose body is JSON of this strict kind."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler, with a request that reads strictly."""
        serve = super().get_route_handler()

        async def serve_strictly(request: Request) -> Response:
            return await serve(StrictRequest(request.scope, request.receive))

        return serve_strictly


class StrictRequest(Request):
    """FastAPI passes an `HTTPException` and a `JSONDecodeError` of `json` on, and hides what else is raised."""

    async def json(self) -> Any:
        """The body. Raises an `HTTPException`: 422 when its headers name another form, 400 when it has another one."""
        if not hasattr(self, "_json"):
            _check_form(self.headers.get("content-type", ""), self.headers.get("content-encoding", "identity"))
            self._json = parse(await self.body())
        return self._json


def parse(body: bytes) -> Any:
    """The value. Raises `JSONDecodeError`, or an `HTTPException` 400 that says what else is wrong."""
    try:
        return json.loads(body.decode(), object_pairs_hook=_object, parse_constant=_no_constant, parse_int=_whole)
    except UnicodeDecodeError as error:
        raise _malformed(f"it is not UTF-8: the byte at {error.start} is {body[error.start]:#04x}") from None
    except RecursionError:
        raise _malformed("it is nested too deep") from None


def _check_form(content_type: str, encoding: str) -> None:
    given = Message()
    given["content-type"] = content_type
    charset = given.get_content_charset("utf-8")
    if given.get_content_type() != MEDIA_TYPE or charset not in ("utf-8", "utf8"):
        raise HTTPException(422, f"the Content-Type is {shown(content_type)}, but must be {MEDIA_TYPE}, in UTF-8")
    if encoding.strip().lower() != "identity":
        raise HTTPException(422, f"the Content-Encoding is {shown(encoding)}; send the body as it is, without one")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for name, one in pairs:
        if name in value:
            raise _malformed(f"an object has the key {shown(name)} twice")
        value[name] = one
    return value


def _no_constant(name: str) -> None:
    raise _malformed(f"{name} is no number")


def _whole(digits: str) -> int:
    try:
        return int(digits)
    except ValueError:
        raise _malformed(f"it holds a number of {len(digits)} digits") from None


def _malformed(reason: str) -> HTTPException:
    return HTTPException(400, f"the body is not JSON: {reason}")
