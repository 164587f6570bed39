"""Registrars adopt wished nodes that nobody looks after, on real ZooKeeper and Redis servers."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from infra.adoption import Adopter, to_adopt
from infra.health import Health
from infra.members import read_members
from infra.wishes import Wish, change_wishes
from infra.zookeeper import ZooKeeper
from tests.redis_server import RedisServer
from tests.waiting import wait_until

Open = Callable[[], ZooKeeper]


@contextmanager
def adopting(zookeeper: ZooKeeper, health: Health) -> Iterator[Adopter]:
    """A registrar process that was told of no node."""
    adopter, stop = Adopter(zookeeper, (), health), threading.Event()
    thread = threading.Thread(target=adopter.run, args=(stop,))
    thread.start()
    try:
        yield adopter
    finally:
        stop.set()
        thread.join()


def test_who_is_adopted() -> None:
    wishes = {
        "a3": Wish("redis://h:1"),
        "a4": Wish(weight=2),
        "b3": Wish("redis://h:2", drained=True),
        "b4": Wish("redis://h:3", drained=True),
        "c3": Wish("redis://h:4"),
    }

    assert to_adopt(wishes, own={"c3"}, held={"b3"}) == {"a3": "redis://h:1", "b3": "redis://h:2"}


def test_a_wished_node_has_a_registrar_for_as_long_as_one_runs_and_it_is_wanted(
    zookeeper: ZooKeeper, new_session: Open, server: RedisServer
) -> None:
    def is_fit() -> bool:
        members = read_members(zookeeper)
        return "a3" in members and members["a3"].fit

    change_wishes(zookeeper, lambda _: {"a3": Wish(server.url, weight=4)})
    first_health, second_health = Health(), Health()
    with adopting(new_session(), second_health) as second:
        with adopting(new_session(), first_health) as first:
            wait_until(is_fit, "the member of the adopted node")
            member = read_members(zookeeper)["a3"]
            assert member.weight == 4
            assert len(first._adopted) + len(second._adopted) >= 1
        wait_until(is_fit, "the member, by whoever is left", 20.0)
        wait_until(lambda: set(second._adopted) == {"a3"}, "the other one to adopt it", 20.0)
        assert read_members(zookeeper)["a3"].incarnation == member.incarnation, "it was not emptied"
        with server.frozen():
            wait_until(lambda: "a3" in second.reasons(), "the reason why it is out")
        wait_until(lambda: not second.reasons(), "the node to be back")

        change_wishes(zookeeper, lambda _: {"a3": Wish(server.url, drained=True)})
        wait_until(lambda: "a3" not in read_members(zookeeper), "the drained node to be let go")
        assert second._adopted == {}
        assert second_health.alive().reasons == ()


def test_a_node_whose_address_is_changed_is_looked_after_there(
    zookeeper: ZooKeeper, new_session: Open, server: RedisServer
) -> None:
    change_wishes(zookeeper, lambda _: {"a3": Wish("redis://127.0.0.1:1")})
    with adopting(new_session(), Health()) as adopter:
        wait_until(lambda: "does not answer" in adopter.reasons().get("a3", ""), "the reason why it is out")
        change_wishes(zookeeper, lambda _: {"a3": Wish(server.url)})
        wait_until(lambda: "a3" in read_members(zookeeper), "the member at the right address")
