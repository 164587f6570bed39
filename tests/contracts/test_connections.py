"""Connections that are kept for the next call, when the server ends them as a restart does."""

import pytest
import sqlalchemy as sa

from infra import database, redis_node
from infra.composition import Stores
from infra.database import reading
from infra.errors import DatabaseUnavailable, Fenced, RedisUnavailable
from infra.redis_node import IDLE_MAX, RedisNode


def end_pooled_connections(engine: sa.Engine) -> None:
    """Ends those that wait in the pool."""
    with reading(engine) as connection:
        mine = connection.execute(sa.text("SELECT pg_backend_pid()")).scalar_one()
    admin = sa.create_engine(engine.url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        assert connection.execute(sa.text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": mine}).scalar_one()
    admin.dispose()


def look(engine: sa.Engine) -> int:
    with reading(engine) as connection:
        return int(connection.execute(sa.text("SELECT 1")).scalar_one())


def test_a_connection_that_idled_and_was_ended_is_replaced_unseen(
    engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    end_pooled_connections(engine)
    monkeypatch.setattr(database, "PING_AFTER_S", 0.0)
    assert look(engine) == 1


def test_one_in_constant_use_fails_once_and_is_replaced(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "PING_AFTER_S", 3_600.0)
    end_pooled_connections(engine)
    with pytest.raises(DatabaseUnavailable):
        look(engine)
    assert look(engine) == 1


@pytest.fixture
def node(stores: Stores) -> RedisNode:
    """A client that has kept a connection which its server has ended."""
    node = stores.clusters.node("a1")
    [mine] = node.start([("CLIENT", "ID")]).get()
    assert node.command("CLIENT", "KILL", "ID", mine) == 1
    return node


def test_a_connection_to_a_node_that_idled_and_was_ended_is_replaced_unseen(
    node: RedisNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_node, "LOOK_AFTER_S", 0.0)
    assert node.start([("ECHO", "hello")]).get() == [b"hello"]


def test_a_connection_to_a_node_in_constant_use_fails_once_and_is_replaced(
    node: RedisNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_node, "LOOK_AFTER_S", 3_600.0)
    with pytest.raises(RedisUnavailable):
        node.start([("ECHO", "hello")]).get()
    assert node.start([("ECHO", "hello")]).get() == [b"hello"]


def test_many_calls_at_once_leave_a_bounded_number_of_connections_aside(stores: Stores) -> None:
    node = stores.clusters.node("a1")
    replies = [node.start([("ECHO", f"{number}")]) for number in range(2 * IDLE_MAX)]

    assert [reply.get() for reply in replies] == [[f"{number}".encode()] for number in range(2 * IDLE_MAX)]

    assert len(node._pool._in_use_connections) == IDLE_MAX


def test_a_refusal_among_several_commands_is_known_as_what_it_is(node: RedisNode) -> None:
    late = ("FCALL", "put_token", 0, "9:another", 5, "claim", b"h:12345678")

    with pytest.raises(Fenced, match="refused a write: FENCED"):
        node.commands([("PING",), late])
    with pytest.raises(RedisUnavailable, match="cannot take the call now: BUSY"):
        node.commands([("PING",), ("EVAL", "return redis.error_reply('BUSY as a long script makes it')", 0)])


def test_a_reply_of_which_a_part_was_polled_is_got_whole(stores: Stores) -> None:
    node = stores.clusters.node("a1")
    reply = node.start([("ECHO", "early"), ("BLPOP", "a list that nobody has", "0.3"), ("ECHO", "late")])

    assert reply.poll(0.1) is None
    assert reply.get() == [b"early", None, b"late"]
