"""Where the HTTP API listens, and whose word on a client's address it takes."""

import socket
from typing import Any, cast

import anyio
import pytest
from fastapi import FastAPI

from infra.api_server import ApiServer, bound_socket
from infra.errors import ConfigurationError, DependencyError
from infra.settings import Settings


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.5", "localhost", "0.0.0.0", "::"])
def test_the_server_listens_where_it_is_told(host: str) -> None:
    with bound_socket(Settings(api_host=host, api_port=0)) as bound:
        assert bound.getsockname()[1] > 0


@pytest.mark.parametrize("host", ["192.0.2.1", "", "no such host", "a" * 70])
def test_an_address_that_the_machine_does_not_have_is_named(host: str) -> None:
    with pytest.raises(ConfigurationError, match=f"FANFOLD_API_HOST is '{host}'") as refusal:
        bound_socket(Settings(api_host=host, api_port=0))
    assert refusal.value.exit_code == 2


def test_a_port_in_use_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(DependencyError, match=f"port {port} on 127.0.0.1 is in use") as refusal:
            bound_socket(Settings(api_port=port))
    assert refusal.value.exit_code == 3


@pytest.mark.parametrize(
    ("proxies", "peer", "forwarded", "client"),
    [
        ("", "127.0.0.1", "203.0.113.9", "127.0.0.1"),
        ("", "10.0.0.7", "203.0.113.9", "10.0.0.7"),
        ("10.0.0.7", "10.0.0.7", "203.0.113.9", "203.0.113.9"),
        ("10.0.0.7", "10.0.0.7", "198.51.100.1, 203.0.113.9", "203.0.113.9"),
        ("10.0.0.7", "10.0.0.8", "203.0.113.9", "10.0.0.8"),
        ("192.0.2.1,10.1.0.0/16", "10.1.2.3", "203.0.113.9", "203.0.113.9"),
    ],
)
def test_only_a_trusted_proxy_says_who_the_client_is(proxies: str, peer: str, forwarded: str, client: str) -> None:
    seen = []

    async def app(scope: dict[str, Any], *_: object) -> None:
        seen.append(scope["client"][0])

    config = ApiServer(cast(FastAPI, app), Settings(api_trusted_proxies=proxies)).config
    config.load()
    headers = [(b"x-forwarded-for", forwarded.encode())]
    scope = {"type": "http", "asgi": {"version": "3.0"}, "headers": headers, "client": (peer, 5), "path": "/"}
    anyio.run(config.loaded_app, scope, None, None)
    assert seen == [client]
