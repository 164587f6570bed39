"""ZooKeeper sessions that end while their client lives."""

import threading

from kazoo.client import KazooClient

from infra.zookeeper import ZooKeeper
from tests.waiting import wait_until


def expire(session: ZooKeeper, hosts: str) -> None:
    """Ends a session at the server, as after a silence: its client gets a new one."""
    client = session._client
    lost = threading.Event()
    client.add_listener(lambda state: lost.set() if state == "LOST" else None)
    thief = KazooClient(hosts=hosts.partition("/")[0], client_id=client.client_id)
    thief.start()
    thief.stop()
    thief.close()
    assert lost.wait(20)
    wait_until(lambda: bool(client.connected))
