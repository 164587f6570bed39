"""What a registrar refuses: servers that may not be nodes, and rivals. Nothing is changed on them."""

import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from infra.errors import ConfigurationError, Conflict, FanfoldError, RedisAddressWrong
from infra.members import member_path, read_members
from infra.node_check import look_at
from infra.redis_node import RedisNode
from infra.registrar import RIVAL_WAIT_S, Registration
from infra.zookeeper import ZooKeeper
from tests.clock import Clock
from tests.contracts.registrations import Open, kept, member, registered
from tests.redis_server import RedisServer, redis_server
from tests.waiting import wait_until


@pytest.mark.parametrize("database", [0, 3])
def test_a_server_with_the_data_of_another_program_is_refused_and_left_alone(
    zookeeper: ZooKeeper, server: RedisServer, database: int
) -> None:
    other = RedisNode("a9", f"{server.url}/{database}")
    other.command("SET", "session:7", "ann")

    with pytest.raises(ConfigurationError, match=r"was never a node and has .* is it the right server\?"):
        Registration(zookeeper, "a9", server.url).look()

    assert other.command("GET", "session:7") == b"ann"
    assert other.command("FUNCTION", "LIST") == []
    assert read_members(zookeeper) == {}


def refused(registration: Registration) -> FanfoldError:
    """What stands against it at the first look."""
    with pytest.raises(FanfoldError) as raised:
        registration.look()
    registration._out(raised.value)
    return raised.value


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"save": "3600 1"}, "has save '3600 1'; set it to '' (CONFIG SET save …)"),
        ({"appendonly": "yes"}, "has appendonly 'yes'; set it to 'no'"),
        ({"maxmemory_policy": "allkeys-lru"}, "has maxmemory-policy 'allkeys-lru'; set it to 'volatile-lru'"),
        ({"replicaof": "127.0.0.1 1"}, "is a replica; a node must not be one: REPLICAOF NO ONE"),
        ({"cluster_enabled": "yes"}, "runs in mode cluster"),
    ],
)
def test_a_server_that_may_not_be_a_node_is_refused_and_nothing_is_changed(
    zookeeper: ZooKeeper, tmp_path: Path, options: dict[str, str], sentence: str
) -> None:
    with redis_server(tmp_path, **options) as server:
        registration = Registration(zookeeper, "a9", server.url)

        error = refused(registration)

        assert str(error).startswith(f"Redis node a9 at {server.url} {sentence}")
        assert registration.refusal is error
        assert error.exit_code == 2
        assert server.node("a9").command("DBSIZE") == 0
        assert server.node("a9").command("FUNCTION", "LIST") == []
        assert read_members(zookeeper) == {}


@pytest.mark.parametrize("user", ["", ":wrong-hush@", "nobody:wrong-hush@"])
def test_a_wrong_password_is_refused_and_never_shown(zookeeper: ZooKeeper, tmp_path: Path, user: str) -> None:
    with redis_server(tmp_path, requirepass="right-hush") as server:
        registration = Registration(zookeeper, "a9", server.url.replace("://", f"://{user}"))
        with capture_logs() as logged:
            error = refused(registration)

        assert "refuses user or password" in str(error)
        assert "hush" not in str(error) + str(logged) + registration.reason
        assert isinstance(error, RedisAddressWrong)
        assert str(registration.refusal) == str(error)

        right = Registration(zookeeper, "a9", server.url.replace("://", "://:right-hush@"))
        right.look()
        assert member(zookeeper).fit


class Page(BaseHTTPRequestHandler):
    """Answers whatever it is asked with a page."""

    def log_message(self, *_: object) -> None:
        """Nobody reads it."""


def test_an_http_server_is_no_node(zookeeper: ZooKeeper) -> None:
    with HTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            registration = Registration(zookeeper, "a9", f"redis://:hush@127.0.0.1:{server.server_port}")
            error = refused(registration)
        finally:
            server.shutdown()
            thread.join()

    assert "is no Redis or Valkey server" in str(error)
    assert "hush" not in str(error)
    assert str(registration.refusal) == str(error)
    assert read_members(zookeeper) == {}


def test_a_server_that_hangs_up_is_asked_again(zookeeper: ZooKeeper) -> None:
    """It may be a proxy whose Redis starts."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            connection, _ = listener.accept()
            connection.recv(1)
            connection.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        registration = Registration(zookeeper, "a9", f"redis://127.0.0.1:{listener.getsockname()[1]}")
        error = refused(registration)
        thread.join()

    assert "does not answer" in str(error)
    assert (registration.refusal, registration.reason) == (None, str(error))
    assert read_members(zookeeper) == {}


def test_where_nothing_listens_it_keeps_trying_and_says_so(zookeeper: ZooKeeper, tmp_path: Path) -> None:
    with redis_server(tmp_path) as server:
        server.kill()
        with kept(Registration(zookeeper, "a9", server.url)) as registration:
            wait_until(lambda: "Connection refused" in registration.reason, "it to say so")
            assert registration.refusal is None
            assert read_members(zookeeper) == {}
            server.start()
            wait_until(registration.ready.is_set)
    assert registration.reason == ""


def test_a_second_registrar_of_a_name_waits_and_is_refused_while_the_first_one_lives(
    new_session: Open, server: RedisServer, tmp_path: Path
) -> None:
    registered(new_session(), server)
    before, clock, session = look_at(server.node("a9")), Clock(), new_session()
    second = Registration(session, "a9", server.url, clock=clock)

    error = refused(second)
    assert second.refusal is None
    clock.now_s += RIVAL_WAIT_S - 0.1
    refused(second)
    assert second.refusal is None
    clock.now_s += 0.1
    refused(second)

    assert isinstance(second.refusal, Conflict)
    assert str(error) == second.reason
    assert f"is registered already, at {server.url} by {socket.gethostname()}, pid " in str(error)
    assert look_at(server.node("a9")) == before
    assert member(session).fit


def test_a_name_that_gets_free_while_a_registrar_waits_is_taken(new_session: Open, server: RedisServer) -> None:
    """The first one was killed: its session was only not over yet."""
    first = new_session()
    registered(first, server)
    before, second = look_at(server.node("a9")), Registration(new_session(), "a9", server.url)
    refused(second)

    first.close()
    second.look()

    assert look_at(server.node("a9")) == before
    assert (second.refusal, second.reason) == (None, "")


def test_a_server_under_two_names_is_refused_while_the_first_one_is_registered(
    new_session: Open, server: RedisServer
) -> None:
    first, clock = new_session(), Clock()
    registered(first, server, "a8")
    before, session = look_at(server.node("a8")), new_session()
    second = Registration(session, "a9", server.url, clock=clock)

    error = refused(second)
    clock.now_s += RIVAL_WAIT_S
    refused(second)

    assert "is the server of node a8, registered by" in str(error)
    assert isinstance(second.refusal, Conflict)
    assert look_at(server.node("a9")) == before
    assert list(read_members(session)) == ["a8"]

    first.close()
    second.look()
    assert look_at(server.node("a9")).name == "a9"
    assert member(session).incarnation not in ("", before.incarnation)


def test_of_two_that_took_one_server_at_the_same_moment_the_one_whose_name_it_has_stays(
    new_session: Open, server: RedisServer
) -> None:
    """Each looked before the other had registered; the second one emptied the node after the first."""
    session = new_session()
    first = registered(session, server, "a8")
    session.delete(member_path("a8"))
    second = registered(new_session(), server, "a9")
    first._say(first._member)

    refused(first)
    second.look()

    assert "is the server of node a9" in first.reason
    assert member(session, "a8").fit is False
    assert member(session, "a9").fit
    assert look_at(server.node("a9")).name == "a9"
