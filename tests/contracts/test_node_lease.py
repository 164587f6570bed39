"""Node numbers on a real ZooKeeper: one process each, free again with the session, and posting without any of it."""

import itertools
import random
from collections.abc import Callable

import pytest
from structlog.testing import capture_logs

from infra.errors import ZooKeeperUnavailable
from infra.settings import Settings
from infra.zookeeper import SNOWFLAKES_PATH, ZooKeeper
from producers.node_lease import NodeLease
from producers.snowflake import NODES, SEQUENCE_BITS, Snowflakes
from tests.contracts.sessions import expire
from tests.waiting import wait_until

NOW_MS = 1_700_000_000_000

Open = Callable[[], ZooKeeper]


def lease_of(zookeeper: ZooKeeper, seed: int = 1) -> NodeLease:
    """A lease that begins with the random number of this seed."""
    return NodeLease(zookeeper, random.Random(seed))


def test_two_processes_that_begin_with_one_number_get_two(new_session: Open) -> None:
    first, second = lease_of(new_session()), lease_of(new_session())
    begun = first.number()
    assert second.number() == begun

    first.look()
    second.look()
    assert first.number() == begun
    assert second.number() != begun

    leased = second.number()
    first.look()
    second.look()
    assert (first.number(), second.number()) == (begun, leased)


def test_a_number_is_free_again_when_its_session_ends(new_session: Open) -> None:
    session = new_session()
    first, second = lease_of(session), lease_of(new_session())
    first.look()

    session.close()
    second.look()

    assert second.number() == first.number()
    ids = Snowflakes(first.number, lambda: NOW_MS)
    assert ids.next() < ids.next()
    with pytest.raises(ZooKeeperUnavailable):
        first.look()
    assert second.number() == first.number()


def test_a_process_that_lost_its_session_leases_another_number_when_its_own_is_taken(
    new_session: Open, settings: Settings
) -> None:
    session = new_session()
    first, second = lease_of(session), lease_of(new_session())
    first.look()
    begun = first.number()

    expire(session, settings.zookeeper_hosts)
    second.look()
    assert (first.number(), second.number()) == (begun, begun)
    first.look()

    assert first.number() != begun
    assert session.owns(f"{SNOWFLAKES_PATH}/{first.number()}")


def test_a_process_that_lost_its_session_takes_its_number_back_when_it_is_free(
    new_session: Open, settings: Settings
) -> None:
    session = new_session()
    lease = lease_of(session)
    lease.look()
    begun = lease.number()

    expire(session, settings.zookeeper_hosts)
    assert not session.owns(f"{SNOWFLAKES_PATH}/{begun}")
    lease.look()

    assert lease.number() == begun
    assert session.owns(f"{SNOWFLAKES_PATH}/{begun}")


def test_without_a_free_number_the_random_one_stays_until_one_is_free(new_session: Open) -> None:
    session = new_session()
    for number in range(NODES):
        session.create(f"{SNOWFLAKES_PATH}/{number}", b"")
    lease = lease_of(session)
    begun = lease.number()

    with capture_logs() as logged:
        lease.look()
        lease.look()
    assert lease.number() == begun
    assert [(entry["event"], entry["reason"]) for entry in logged] == [
        ("node number not leased", "all 1024 numbers are taken")
    ]

    free = (begun + 1) % NODES
    session.delete(f"{SNOWFLAKES_PATH}/{free}")
    lease.look()
    assert lease.number() == free


def test_a_lease_is_taken_in_the_background_and_ids_move_to_it(new_session: Open) -> None:
    holder, lease = lease_of(new_session()), lease_of(new_session())
    holder.look()
    times = itertools.count(NOW_MS)
    ids = Snowflakes(lease.number, lambda: next(times))
    before = ids.next()

    lease.begin()
    try:
        wait_until(lambda: lease.number() != holder.number())
    finally:
        lease.close()

    assert [(one >> SEQUENCE_BITS) % NODES for one in (before, ids.next())] == [holder.number(), lease.number()]


def test_a_closed_lease_gives_its_number_back_while_the_session_goes_on(new_session: Open) -> None:
    session = new_session()
    lease = lease_of(session)
    lease.begin()
    path = f"{SNOWFLAKES_PATH}/{lease.number()}"
    wait_until(lambda: session.owns(path))

    with capture_logs() as logged:
        lease.close()
        assert session.children(SNOWFLAKES_PATH) == []
        session.close()

    said = [entry["event"] for entry in logged]
    assert said in ([], ["node number leased"])  # the znode is there a moment before it is said


def test_a_closed_lease_leaves_a_number_that_somebody_else_has(new_session: Open) -> None:
    session, other = new_session(), new_session()
    for number in range(NODES):
        other.create(f"{SNOWFLAKES_PATH}/{number}", b"", ephemeral=True)
    lease = lease_of(session)

    lease.begin()
    lease.close()

    assert len(other.children(SNOWFLAKES_PATH)) == NODES
