"""A client of the HTTP API in this process, and stores that must not be asked."""

from typing import Any, cast

import anyio
import httpx
from fastapi import FastAPI

from infra.composition import Stores
from infra.database import make_engine
from infra.http import create_app
from infra.http_input import ACTING_USER_HEADER
from infra.http_problems import MEDIA_TYPE

NOBODY_LISTENS = "postgresql://postgres@127.0.0.1:1/none"


class Client:
    """Asks an app without a socket. An exception that leaves the app reaches the test."""

    def __init__(self, app: FastAPI) -> None:
        self.app = app

    def request(self, method: str, path: str, **given: Any) -> httpx.Response:
        """One request; `given` is httpx's."""

        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self.app)
            async with httpx.AsyncClient(transport=transport, base_url="http://fanfold.test") as client:
                return await client.request(method, path, **given)

        return anyio.run(ask)

    def get(self, path: str, **given: Any) -> httpx.Response:
        """GET."""
        return self.request("GET", path, **given)

    def post(self, path: str, **given: Any) -> httpx.Response:
        """POST."""
        return self.request("POST", path, **given)

    def put(self, path: str, **given: Any) -> httpx.Response:
        """PUT."""
        return self.request("PUT", path, **given)

    def delete(self, path: str, **given: Any) -> httpx.Response:
        """DELETE."""
        return self.request("DELETE", path, **given)


def client_of(stores: Stores) -> Client:
    """A client of the API over these stores."""
    return Client(create_app(stores))


def unreachable_stores() -> Stores:
    """Stores for requests that are refused before anything is asked; asking the database answers 503."""
    absent = cast(Any, None)
    return Stores(make_engine(NOBODY_LISTENS), *[absent] * 6)


def acting(user_id: object) -> dict[str, str]:
    """The header of an acting user."""
    return {ACTING_USER_HEADER: str(user_id)}


def problem_of(response: httpx.Response, status: int) -> str:
    """The detail of a problem document, whose form is checked here."""
    assert (response.status_code, response.headers["content-type"]) == (status, MEDIA_TYPE), response.text
    document = response.json()
    assert document.keys() == {"type", "title", "status", "detail"}
    assert document["status"] == status
    assert document["type"] == "urn:fanfold:problem:" + document["title"].lower().replace(" ", "-")
    return str(document["detail"])
