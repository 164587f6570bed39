"""A registrar follows one node on a real server: whether it is fit, and when it is emptied."""

import json
import socket
import time
from dataclasses import replace

import pytest

from infra.copies import CopyState, all_copies
from infra.errors import FanfoldError, Fenced, RedisUnavailable
from infra.members import Member, member_path, read_members
from infra.node_check import look_at
from infra.probation import FIRST_S
from infra.registrar import Registration
from infra.settings import Settings
from infra.zookeeper import COPIES_PATH, ZooKeeper
from tests.clock import Clock
from tests.contracts.registrations import OUT_WITHIN_S, Open, kept, member, registered
from tests.contracts.sessions import expire
from tests.redis_server import RedisServer
from tests.waiting import wait_until


def test_a_fit_server_becomes_a_member_with_all_that_the_coordinator_must_know(
    zookeeper: ZooKeeper, server: RedisServer
) -> None:
    Registration(zookeeper, "a9", server.url, weight=3).look()

    found = look_at(server.node("a9"))
    assert found.name == "a9"
    assert found.prepared_in == found.run_id
    assert member(zookeeper) == Member(
        server.url,
        found.incarnation,
        weight=3,
        run_id=found.run_id,
        host=socket.gethostname(),
        pid=member(zookeeper).pid,
    )
    raw = zookeeper.read(member_path("a9"))
    assert raw is not None
    assert {"url", "weight", "incarnation", "run_id", "fit", "reason"} <= json.loads(raw[0]).keys()


def test_a_registrar_that_restarts_leaves_a_node_that_missed_nothing_as_it_is(
    new_session: Open, server: RedisServer
) -> None:
    session = new_session()
    registered(session, server)
    before = look_at(server.node("a9"))
    server.node("a9").command("SET", "kept", "yes")
    server.node("a9").command("FUNCTION", "FLUSH", "SYNC")
    session.close()

    registered(new_session(), server)

    assert look_at(server.node("a9")) == before
    assert server.node("a9").command("GET", "kept") == b"yes"
    with pytest.raises(Fenced):  # the Functions are there again, and the coordinator was not
        server.node("a9").call("put_token", "1:", 5, "claim", b"h:12345678")


def test_after_a_lost_session_the_node_is_registered_again_and_not_emptied(
    zookeeper: ZooKeeper, new_session: Open, server: RedisServer, settings: Settings
) -> None:
    registration = registered(zookeeper, server)
    before = member(zookeeper)
    server.node("a9").command("SET", "kept", "yes")

    expire(zookeeper, settings.zookeeper_hosts)
    assert read_members(zookeeper) == {}
    registration.look()

    assert member(new_session()) == before
    assert server.node("a9").command("GET", "kept") == b"yes"


def test_a_hung_node_is_unfit_in_time_and_fit_again_without_being_emptied(
    zookeeper: ZooKeeper, server: RedisServer
) -> None:
    with kept(Registration(zookeeper, "a9", server.url)) as registration:
        wait_until(registration.ready.is_set)
        before = member(zookeeper)
        for _ in range(3):  # at three places of the period between two looks
            with server.frozen():
                frozen_s = time.monotonic()
                wait_until(lambda: not member(zookeeper).fit, "the member to be unfit", limit_s=10)
                assert time.monotonic() - frozen_s < OUT_WITHIN_S
                assert "does not answer" in member(zookeeper).reason
                assert registration.reason == member(zookeeper).reason
            thawed_s = time.monotonic()
            wait_until(lambda: member(zookeeper).fit, "the member to be fit")
            assert time.monotonic() - thawed_s < OUT_WITHIN_S
        assert member(zookeeper) == before
        assert registration.reason == ""


def test_a_killed_node_is_unfit_in_time_and_comes_back_emptied(zookeeper: ZooKeeper, server: RedisServer) -> None:
    with kept(Registration(zookeeper, "a9", server.url)) as registration:
        wait_until(registration.ready.is_set)
        before = member(zookeeper)
        killed_s = time.monotonic()
        server.kill()
        wait_until(lambda: not member(zookeeper).fit, "the member to be unfit", limit_s=10)
        assert time.monotonic() - killed_s < OUT_WITHIN_S

        server.start()
        wait_until(lambda: member(zookeeper).fit, "the member to be fit")

    after, found = member(zookeeper), look_at(server.node("a9"))
    assert (after.run_id, after.incarnation) == (found.run_id, found.incarnation)
    assert after.run_id != before.run_id
    assert after.incarnation not in ("", before.incarnation)


def test_a_restart_between_two_looks_is_seen(zookeeper: ZooKeeper, server: RedisServer) -> None:
    registration = registered(zookeeper, server)
    before = member(zookeeper)
    server.kill()
    server.start()

    registration.look()

    assert member(zookeeper).incarnation != before.incarnation
    assert member(zookeeper).fit


def test_one_look_in_vain_is_no_reason(zookeeper: ZooKeeper, server: RedisServer) -> None:
    """As the first call on a connection that somebody closed."""
    registration = registered(zookeeper, server)

    registration._out(RedisUnavailable("once"))
    assert member(zookeeper).fit
    registration.look()
    registration._out(RedisUnavailable("once again"))
    assert member(zookeeper).fit

    registration._out(RedisUnavailable("twice"))
    assert (member(zookeeper).fit, member(zookeeper).reason) == (False, "twice")


@pytest.mark.parametrize(
    ("spoil", "mend", "reason"),
    [
        (("CONFIG", "SET", "save", "60 1"), ("CONFIG", "SET", "save", ""), "has save '60 1'; set it to ''"),
        (("CONFIG", "SET", "appendonly", "yes"), ("CONFIG", "SET", "appendonly", "no"), "has appendonly 'yes'"),
        (("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE"), "is a replica"),
    ],
)
def test_a_node_that_becomes_unfit_says_why_until_it_is_mended(
    zookeeper: ZooKeeper, server: RedisServer, spoil: tuple[str, ...], mend: tuple[str, ...], reason: str
) -> None:
    with kept(Registration(zookeeper, "a9", server.url)) as registration:
        wait_until(registration.ready.is_set)
        before = member(zookeeper)
        server.node("a9").command(*spoil)
        wait_until(lambda: not member(zookeeper).fit, "the member to be unfit", limit_s=OUT_WITHIN_S)
        assert reason in member(zookeeper).reason
        assert registration.refusal is None

        server.node("a9").command(*mend)
        wait_until(lambda: member(zookeeper).fit, "the member to be fit")
        assert member(zookeeper) == before


def copies(**marks: str) -> bytes:
    """The znode with a9 dropped or admitted under an incarnation."""
    dropped, admitted = ({"a9": marks[key]} if key in marks else {} for key in ("dropped", "admitted"))
    return replace(all_copies(3, "abc", CopyState.DOWN, admitted), dropped=dropped).encode()


def test_a_node_that_was_dropped_is_emptied_and_gets_another_incarnation(
    zookeeper: ZooKeeper, server: RedisServer
) -> None:
    registration = registered(zookeeper, server)
    server.node("a9").command("SET", "left", "over")
    before = member(zookeeper).incarnation
    zookeeper.create(COPIES_PATH, copies(dropped="an older one"))
    registration.look()
    assert member(zookeeper).incarnation == before
    found = zookeeper.read(COPIES_PATH)
    assert found is not None
    zookeeper.compare_and_set(COPIES_PATH, copies(dropped=before), found[1])

    registration.look()

    after = member(zookeeper)
    assert after.incarnation != before
    assert after.fit
    assert server.node("a9").command("EXISTS", "left") == 0
    registration.look()
    assert member(zookeeper) == after


def test_a_node_that_is_dropped_again_soon_stays_out_for_a_while(zookeeper: ZooKeeper, server: RedisServer) -> None:
    clock = Clock()
    registration = Registration(zookeeper, "a9", server.url, clock=clock)
    registration.look()
    zookeeper.create(COPIES_PATH, copies(dropped=member(zookeeper).incarnation))
    registration.look()
    before, found = member(zookeeper), zookeeper.read(COPIES_PATH)
    assert found is not None
    zookeeper.compare_and_set(COPIES_PATH, copies(dropped=before.incarnation), found[1])

    with pytest.raises(RedisUnavailable, match="marked down again soon after it had come back: it stays out"):
        registration.look()
    assert member(zookeeper) == before
    clock.now_s += FIRST_S
    registration.look()

    assert member(zookeeper).incarnation != before.incarnation
    registration.close()


def test_a_node_that_was_written_in_another_deployment_is_emptied_and_one_of_this_is_not(
    new_session: Open, server: RedisServer
) -> None:
    session = new_session()
    registered(session, server)
    before = member(session).incarnation
    server.node("a9").command("HSET", "n", "epoch", 3)
    session.create(COPIES_PATH, copies(admitted=before))
    session.close()

    session = new_session()
    registered(session, server)
    assert member(session).incarnation == before
    session.close()

    session = new_session()
    found = session.read(COPIES_PATH)
    assert found is not None
    session.compare_and_set(COPIES_PATH, copies(), found[1])
    registered(session, server)
    assert member(session).incarnation not in ("", before)


def test_a_node_that_somebody_emptied_is_prepared_again(zookeeper: ZooKeeper, server: RedisServer) -> None:
    registration = registered(zookeeper, server)
    before = member(zookeeper).incarnation
    server.node("a9").command("FLUSHALL", "SYNC")
    server.node("a9").command("SET", b"later:1", "by a version to come")  # it is known as ours, so this does not matter

    registration.look()

    assert member(zookeeper).incarnation == look_at(server.node("a9")).incarnation != before
    assert server.node("a9").command("EXISTS", "later:1") == 0


def test_calls_that_lie_in_a_socket_are_not_run_after_the_emptying(zookeeper: ZooKeeper, server: RedisServer) -> None:
    """A client that waits for an element has what it sent behind that in the server's memory, as a hung server has."""
    registration = registered(zookeeper, server)
    with socket.create_connection(("127.0.0.1", server.port)) as late:
        late.sendall(b"BLPOP signal 0\r\nSET late call\r\n")
        wait_until(lambda: b"cmd=blpop" in server.node("a9").command("CLIENT", "LIST"), "the client to wait")
        server.node("a9").command("HDEL", "n", "incarnation")

        registration.look()
        server.node("a9").command("RPUSH", "signal", "go")

        assert late.recv(100) == b"", "the connection was closed"
    assert server.node("a9").command("EXISTS", "late") == 0


def test_a_restarted_node_that_readers_have_filled_already_is_emptied(
    zookeeper: ZooKeeper, server: RedisServer
) -> None:
    server.node("a9").command("SET", b"b:" + bytes(8), "a body")

    registered(zookeeper, server)

    assert server.node("a9").command("DBSIZE") == 1, "its own hash"


def test_while_zookeeper_answers_nothing_a_node_stays_what_it_was(settings: Settings, server: RedisServer) -> None:
    session = ZooKeeper(settings.zookeeper_hosts)
    registration = registered(session, server)
    session.close()

    with pytest.raises(FanfoldError, match=r"ZooKeeper at .* does not answer") as raised:
        registration.look()
    registration._out(raised.value)

    assert (registration.reason, registration.refusal) == ("", None)
