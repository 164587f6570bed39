"""Registrations that run beside a test."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from infra.members import Member, read_members
from infra.registrar import Registration
from infra.zookeeper import ZooKeeper
from tests.redis_server import RedisServer

OUT_WITHIN_S = 2.5  # what is promised
Open = Callable[[], ZooKeeper]


@contextmanager
def kept(registration: Registration) -> Iterator[Registration]:
    """A registration whose looks go on in a thread, as in the registrar."""
    stop = threading.Event()
    thread = threading.Thread(target=registration.keep, args=(stop, lambda: None))
    thread.start()
    try:
        yield registration
    finally:
        stop.set()
        thread.join()


def member(zookeeper: ZooKeeper, name: str = "a9") -> Member:
    return read_members(zookeeper)[name]


def registered(zookeeper: ZooKeeper, server: RedisServer, name: str = "a9") -> Registration:
    """After its first look."""
    made = Registration(zookeeper, name, server.url)
    made.look()
    return made
