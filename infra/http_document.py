"""The OpenAPI document, which /docs shows: what is the same for many routes is said here once.

The page's script and styles come from this server, so that it needs no public site.
"""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.staticfiles import StaticFiles
from starlette.requests import Request
from starlette.responses import HTMLResponse

from infra.http_frame import ALIVE_PATH
from infra.http_problems import Problem, documented

DESCRIPTION = """
Users post and follow; home timelines show what the followed ones posted.

Ids are strings of digits. A bearer token says who acts: `fanfold token create USER` makes one, and its scopes (`read`,
`write`, `admin`) say how far. Signing up and reading what is public need none.
Lists are paged: `max_id` asks for what is older, `since_id` and `min_id` for what is newer (`min_id` from the oldest
on), `limit` for how many; the `Link` header has the neighbouring pages. Errors are problem documents (RFC 9457).

Requests under `/v1` are limited by client address and by token: `RateLimit-Limit` is what can be had at once,
`RateLimit-Remaining` what is left of it, `RateLimit-Reset` in how many seconds all of it is there again. A batch counts
as one request for each ten items, and at most as what its rate allows in a second.
"""

DOCS = "/docs"

PUBLIC: dict[str, Any] = {"security": [{}]}  # a route's `openapi_extra`: it takes a token, and needs none

_HEADERS = {
    name: {"description": text, "schema": {"type": "integer"}}
    for name, text in {
        "RateLimit-Limit": "Requests that can be made at once; absent without a limit.",
        "RateLimit-Remaining": "How many of them are left.",
        "RateLimit-Reset": "In how many seconds all of them are there again; with 429, one.",
    }.items()
}
_RETRY = {"Retry-After": {"description": "In seconds.", "schema": {"type": "integer"}}}
_CHALLENGE = {"WWW-Authenticate": {"description": "Always Bearer.", "schema": {"type": "string"}}}
_MORE_HEADERS = {"401": _CHALLENGE, "429": _RETRY, "503": _RETRY}


class HttpApi(FastAPI):
    """FastAPI whose document knows our problems and the headers that all answers have."""

    def __init__(self, **given: Any) -> None:
        super().__init__(
            title="Fanfold",
            description=DESCRIPTION,
            docs_url=None,  # FastAPI's own page is of a public site
            redoc_url=None,
            redirect_slashes=False,
            **given,
        )
        self.mount(f"{DOCS}/files", StaticFiles(directory=_docs_files()))
        self.add_route(DOCS, _docs_page)

    def openapi(self) -> dict[str, Any]:
        """The OpenAPI document; made once."""
        if self.openapi_schema is None:
            document = super().openapi()
            document["components"]["schemas"].setdefault("Problem", Problem.model_json_schema())
            for path, operations in document["paths"].items():
                for operation in operations.values():
                    _add_the_frames_answers(path, operation)
                    _add_headers(operation["responses"], limited=path.startswith("/v1/"))
        assert self.openapi_schema is not None
        return self.openapi_schema


async def _docs_page(_: Request) -> HTMLResponse:
    return get_swagger_ui_html(
        openapi_url="/openapi.json",
        title="Fanfold",
        swagger_js_url=f"{DOCS}/files/swagger-ui-bundle.js",
        swagger_css_url=f"{DOCS}/files/swagger-ui.css",
        swagger_favicon_url="data:,",
    )


def _docs_files() -> Path:
    """Swagger UI's files. The package's own code is not run: it would add pages that we do not have."""
    package = find_spec("fastapi_offline")
    assert package is not None
    assert package.origin is not None
    return Path(package.origin).parent / "static"


def _add_the_frames_answers(path: str, operation: dict[str, Any]) -> None:
    """What is answered before a route is asked. A body that is too large can be declared to any of them."""
    statuses = [400, 413, 431]
    statuses += [408] if "requestBody" in operation else []
    statuses += [503] if path != ALIVE_PATH else []
    for status, answer in documented(*statuses).items():
        operation["responses"].setdefault(str(status), answer)


def _add_headers(responses: dict[str, Any], limited: bool) -> None:
    for status, response in responses.items():
        headers = (_HEADERS if limited else {}) | _MORE_HEADERS.get(status, {})
        if headers:
            response["headers"] = headers | response.get("headers", {})
