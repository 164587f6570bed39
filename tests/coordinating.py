"""A coordinator that leads, for tests that want a shard map in force."""

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from infra.coordinator import Coordinator
from infra.epoch_guard import EpochGuard
from infra.leases import COORDINATOR, lease
from infra.zookeeper import ZooKeeper

LEAD_WITHIN_S = 10.0


@contextmanager
def coordinating(zookeeper: ZooKeeper, engine: sa.Engine) -> Iterator[Coordinator]:
    """The leader for as long as the context lasts."""
    with lease(zookeeper, COORDINATOR, wait_s=LEAD_WITHIN_S) as held:
        yield Coordinator(zookeeper, held, EpochGuard(engine))
