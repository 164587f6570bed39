"""Ending a lease while ZooKeeper does not answer; the lease itself is tested on a real one."""

import threading
from typing import Any, cast

import pytest

from infra.errors import ZooKeeperUnavailable
from producers import node_lease
from producers.node_lease import NodeLease

WITHIN_S = 10.0


class SilentZooKeeper:
    """One that is asked and does not answer until it is told to."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.answer = threading.Event()

    def owns(self, path: str) -> bool:
        """As `ZooKeeper.owns`."""
        self.asked.set()
        self.answer.wait(WITHIN_S)
        raise ZooKeeperUnavailable(f"no answer for {path}")


def test_closing_does_not_wait_for_a_zookeeper_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_lease, "CLOSE_WITHIN_S", 0.05)
    zookeeper = SilentZooKeeper()
    lease = NodeLease(cast(Any, zookeeper))
    lease.begin()
    assert zookeeper.asked.wait(WITHIN_S)

    closing = threading.Thread(target=lease.close)
    closing.start()
    closing.join(WITHIN_S)
    ended = not closing.is_alive()
    zookeeper.answer.set()
    lease._thread.join(WITHIN_S)

    assert ended
    assert not lease._thread.is_alive()


def test_a_lease_that_never_began_is_closed() -> None:
    NodeLease(cast(Any, SilentZooKeeper())).close()
