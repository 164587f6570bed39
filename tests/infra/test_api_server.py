"""Where the HTTP API may listen."""

import socket

import pytest

from infra.api_server import bound_socket
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
