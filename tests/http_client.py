"""A client of the HTTP API in this process, and stores that must not be asked."""

import secrets
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar, cast

import anyio
import httpx
from fastapi import FastAPI

from infra.composition import Stores
from infra.counts import Counts
from infra.database import make_engine
from infra.errors import Unauthenticated, ZooKeeperUnavailable
from infra.http import create_app
from infra.http_problems import MEDIA_TYPE
from infra.live_settings import LiveSettings
from infra.reaction_log import ReactionLog
from infra.redis_clusters import RedisClusters
from infra.settings import Settings
from infra.shard_map import ShardMap
from infra.timelines import Timelines
from infra.tokens import DEFAULT_SCOPES, Access, Scope, Tokens
from infra.write_through import WriteThrough
from infra.zookeeper import Watched, ZooKeeper
from tests.fixed_maps import fixed_maps

NOBODY_LISTENS = "postgresql://postgres@127.0.0.1:1/none"

T = TypeVar("T")

_OPEN: "list[Client]" = []


class MakesTokens(Protocol):
    """Tokens in the database, or in memory."""

    def create(self, user_id: int, scopes: Sequence[Scope] = DEFAULT_SCOPES) -> tuple[int, str]: ...
    def revoke(self, token_id: int) -> None: ...
    def check(self, texts: Sequence[str]) -> list[Access | Exception]: ...


class MemoryTokens:
    """Tokens for tests without a database; any user may have some."""

    def __init__(self) -> None:
        self._valid: dict[str, Access] = {}

    def create(self, user_id: int, scopes: Sequence[Scope] = DEFAULT_SCOPES) -> tuple[int, str]:
        """As `Tokens.create`."""
        token_id = secrets.randbelow(1 << 62) + 1
        text = f"ff_{token_id}_{secrets.token_urlsafe(32)}"
        self._valid[text] = Access(user_id, frozenset(scopes))
        return token_id, text

    def revoke(self, token_id: int) -> None:
        """As `Tokens.revoke`."""
        self._valid = {text: one for text, one in self._valid.items() if not text.startswith(f"ff_{token_id}_")}

    def check(self, texts: Sequence[str]) -> list[Access | Exception]:
        """As `Tokens.check`."""
        return [self._valid.get(text, Unauthenticated("the token is unknown")) for text in texts]


class Client:
    """Asks an app without a socket. An exception that leaves the app reaches the test."""

    def __init__(self, app: FastAPI, tokens: MakesTokens, address: str = "127.0.0.1") -> None:
        self.app = app
        self.tokens = tokens
        self._address = address
        self._made: dict[tuple[int, tuple[Scope, ...]], str] = {}

    def close(self) -> None:
        """What the server does at its end."""
        self.app.state.parts.close()

    def acting(self, user_id: int, *scopes: Scope) -> dict[str, str]:
        """The header of a user who acts, by default with the default scopes; one token for all his requests."""
        key = (user_id, scopes)
        if key not in self._made:
            self._made[key] = self.tokens.create(user_id, scopes or DEFAULT_SCOPES)[1]
        return bearing(self._made[key])

    def request(self, method: str, path: str, **given: Any) -> httpx.Response:
        """One request; `given` is httpx's."""

        async def ask() -> httpx.Response:
            transport = httpx.ASGITransport(self.app, client=(self._address, 1))
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


def client_of(stores: Stores, settings: Settings = Settings()) -> Client:
    """A client of the API over these stores; closed at the end of the test."""
    return _opened(Client(create_app(stores, settings), Tokens(stores.engine)))


def client_without_servers(settings: Settings = Settings()) -> Client:
    """A client whose requests are refused before a server is asked, or answered 503. Any user may have tokens."""
    tokens = MemoryTokens()
    return _opened(Client(create_app(unreachable_stores(), settings, tokens), tokens))


def close_clients() -> None:
    """Closes the clients of a test."""
    while _OPEN:
        _OPEN.pop().close()


def _opened(client: Client) -> Client:
    _OPEN.append(client)
    return client


def unreachable_stores() -> Stores:
    """Stores for requests that are refused before anything is asked; asking the database answers 503."""
    absent, maps = cast(Any, None), fixed_maps(ShardMap(1, {}, {}))
    clusters = RedisClusters(maps)
    live = always(LiveSettings(rate_per_token=0, rate_per_address=0))
    timelines, write_through = Timelines(clusters, live), WriteThrough(clusters, live)
    zookeeper = cast(ZooKeeper, AbsentZooKeeper())
    engine = make_engine(NOBODY_LISTENS)
    counts, reactions = Counts(clusters, engine), ReactionLog(lambda: "127.0.0.1:1")
    return Stores(engine, zookeeper, absent, clusters, timelines, absent, clusters, write_through, counts, reactions)


class AbsentZooKeeper:
    """One that never answers."""

    def owns(self, path: str) -> bool:
        """As `ZooKeeper.owns`."""
        raise ZooKeeperUnavailable(f"nobody was asked for {path}")


def always(value: T) -> Watched[T]:
    """A watched value that never changes."""

    class Always:
        def value(self) -> T:
            return value

    return cast(Watched[T], Always())


def bearing(token: str) -> dict[str, str]:
    """The header with a token."""
    return {"Authorization": f"Bearer {token}"}


def problem_of(response: httpx.Response, status: int) -> str:
    """The detail of a problem document, whose form is checked here."""
    assert (response.status_code, response.headers["content-type"]) == (status, MEDIA_TYPE), response.text
    document = response.json()
    assert document.keys() == {"type", "title", "status", "detail"}
    assert document["status"] == status
    assert document["type"] == "urn:fanfold:problem:" + document["title"].lower().replace(" ", "-")
    return str(document["detail"])
