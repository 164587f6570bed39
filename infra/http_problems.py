"""Problem documents (RFC 9457): every error of the HTTP API as application/problem+json, whoever raised it.

What the caller can mend is said in full; of what he cannot, only that it is so: the log has the rest.
"""

import re
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.routing import Match

from infra.errors import (
    DatabaseUnavailable,
    FanfoldError,
    KafkaUnavailable,
    Overloaded,
    RedisUnavailable,
    UseError,
    ZooKeeperUnavailable,
)

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 1  # a server that restarts and a rebuild that runs both take about as long
SHOWN_CHARACTERS_MAX = 80  # of a refused value
ERRORS_SHOWN_MAX = 5  # of one request: a batch could have thousands
METHODS = ("GET", "POST", "PUT", "PATCH", "DELETE")

KINDS = {
    400: "malformed-request",
    401: "unauthenticated",
    403: "forbidden",
    404: "not-found",
    405: "method-not-allowed",
    408: "body-too-late",
    409: "conflict",
    413: "body-too-large",
    422: "invalid-input",
    429: "too-many-requests",
    431: "headers-too-large",
    500: "internal-error",
    503: "unavailable",
}
EXAMPLES = {
    400: "the body is not JSON: Expecting value at character 11",
    401: "the token is unknown or revoked, or its user was deleted",
    403: "this needs a token with scope write, and the token that was given has read",
    404: "user 1007 does not exist",
    408: "the body was not there within 20 s, which is the longest that is waited for one",
    409: "the handle 'ada' is taken",
    413: "the body is larger than 65536 bytes, which is the most that is taken here",
    422: "handle is 'a b', but must be 1 to 30 letters, digits or underscores",
    429: "more than 200 requests a second with this token; try again in a moment",
    431: "the request's first line and headers have more than 65536 bytes, which is the most that is taken",
    503: "PostgreSQL cannot do its part at the moment; try again",
}
SERVERS: Mapping[type[FanfoldError], str] = {
    DatabaseUnavailable: "PostgreSQL",
    KafkaUnavailable: "Kafka",
    RedisUnavailable: "Redis",
    ZooKeeperUnavailable: "ZooKeeper",
}

log = structlog.get_logger()


class Problem(BaseModel):
    """What every error is answered with. `type` is stable; `detail` is a sentence about this one request."""

    type: str
    title: str
    status: int
    detail: str


def problem(status: int, detail: str, headers: dict[str, str] | None = None, kind: str = "") -> JSONResponse:
    """The answer. `kind`, in kebab case, is the end of the type and the words of the title."""
    body = _document(status, detail, kind or KINDS.get(status, "error"))
    if status == 503:
        headers = {"Retry-After": str(RETRY_AFTER_S)} | (headers or {})
    if status == 401:
        headers = {"WWW-Authenticate": "Bearer"} | (headers or {})
    return JSONResponse(body.model_dump(), status, headers, MEDIA_TYPE)


def problem_of(error: UseError) -> Problem:
    """The document of an error that the caller can mend, as one item of a batch has it."""
    return _document(error.http_status, str(error), _kind_of(error))


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """These problems as the OpenAPI document names them in a route's `responses`."""
    return {
        status: {
            "description": KINDS[status].replace("-", " ").capitalize(),
            "content": {
                MEDIA_TYPE: {
                    "schema": {"$ref": "#/components/schemas/Problem"},
                    "example": _document(status, EXAMPLES[status], KINDS[status]).model_dump(),
                }
            },
        }
        for status in statuses
    }


def shown(value: object) -> str:
    """A refused value of JSON: text in quotes, cut in the middle when it is long, an object or array by its kind."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "an array"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else _SHORT.repr(value)


def answer_problems(app: FastAPI) -> None:
    """Makes `app` answer its errors with problem documents. Unexpected ones are met in http_frame.py."""
    app.add_exception_handler(FanfoldError, _fanfold_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)


async def _fanfold_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, FanfoldError)
    kind = _kind_of(error)
    status = 503 if error.retriable else error.http_status
    if status < 500 or isinstance(error, Overloaded):
        return problem(status, str(error), kind=kind)
    log.warning("request not served", method=request.method, path=request.url.path, error=str(error), kind=kind)
    if status != 503:
        return problem(500, "an unexpected error; the server's log has it")
    server = next((SERVERS[kind] for kind in type(error).__mro__ if kind in SERVERS), "a part of the server")
    return problem(503, f"{server} cannot do its part at the moment; try again", kind=kind)


def _document(status: int, detail: str, kind: str) -> Problem:
    return Problem(
        type=f"urn:fanfold:problem:{kind}",
        title=kind.replace("-", " ").capitalize(),
        status=status,
        detail=detail.encode("utf-8", "backslashreplace").decode(),
    )


def _kind_of(error: FanfoldError) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", type(error).__name__).lower()


async def _validation_error(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    found = error.errors()
    status = 400 if any(one["type"] == "json_invalid" for one in found) else 422
    sentences = [_sentence(one) for one in found[:ERRORS_SHOWN_MAX]]
    more = [f"and {len(found) - ERRORS_SHOWN_MAX} more"] if len(found) > ERRORS_SHOWN_MAX else []
    return problem(status, "; ".join(sentences + more))


async def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    detail, headers = error.detail, dict(error.headers or {})
    path = shown(request.url.path)
    if error.status_code == 404:
        detail = f"there is nothing at {path}; /docs shows what there is"
    if error.status_code == 405:
        headers["Allow"] = ", ".join(_allowed(request))
        detail = f"{request.method} cannot be done at {path}; possible there: {headers['Allow']}"
    return problem(error.status_code, detail, headers)


def _allowed(request: Request) -> list[str]:
    """The methods of all routes of this path, not only of the first one."""
    scopes = {method: {**request.scope, "method": method} for method in METHODS}
    routes: Sequence[Any] = request.app.router.routes
    allowed = [
        method for method, scope in scopes.items() if any(route.matches(scope)[0] is Match.FULL for route in routes)
    ]
    return [*allowed, "HEAD"] if "GET" in allowed else allowed  # http_frame.py


def _sentence(error: dict[str, Any]) -> str:
    kind, place = error["type"], error["loc"]
    name = ".".join(map(str, place[1:])) or "the body"
    if kind == "json_invalid":
        return f"the body is not JSON: {error['ctx']['error']} at character {place[-1]}"
    if kind == "missing":
        return f"{name} is missing"
    if kind == "extra_forbidden":
        return f"{shown(name)} is not a field of this request"
    if kind == "model_attributes_type" and not place[1:]:
        return "the body must be a JSON object, sent as Content-Type: application/json"
    if kind == "model_attributes_type":
        return f"{name} is {shown(error['input'])}, but must be an object"
    if kind == "too_long":
        return f"{name} has more than {error['ctx']['max_length']} items, which is the most of one request"
    if kind == "value_error":
        return f"{name} is {shown(error['input'])}, but must be {error['ctx']['error']}"
    return f"{name} is {shown(error['input'])}, but must be {_rule(error)}"


def _rule(error: dict[str, Any]) -> str:
    message = str(error["msg"]).removeprefix("Input should be ")
    return message[:1].lower() + message[1:]


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = SHOWN_CHARACTERS_MAX
