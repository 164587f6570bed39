"""A coordinator that stops right before its first write of the shard map, for test_leading.py.

It is the real role in a process of its own, which has checked its lease and only pauses. Over a pipe it tells each
state that it enters, that it is held, and what became of the write.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from threading import Event

from infra import role_commands
from infra.database import make_engine
from infra.epoch_guard import EpochGuard
from infra.errors import ZooKeeperUnavailable
from infra.lease import Lease
from infra.settings import Settings
from infra.znodes import Change
from infra.zookeeper import PLACEMENT_PATH, ZooKeeper
from tests.stack.holding_relay import HELD, HoldingProcess, TellingHealth

WRITTEN, REFUSED = "written", "refused"


def run(settings: Settings, pipe: Connection) -> None:
    """The coordinator's process."""
    hold_first_map(pipe)
    engine = make_engine(settings.database_url)
    zookeeper, health = ZooKeeper(settings.zookeeper_hosts), TellingHealth(pipe)
    role_commands.lead_again(zookeeper, EpochGuard(engine), Event(), health)


def hold_first_map(pipe: Connection) -> None:
    write, held = ZooKeeper.write_together, False

    def holding_write(self: ZooKeeper, changes: Sequence[Change], holding: Lease | None = None) -> bool:
        nonlocal held
        if held or all(change.path != PLACEMENT_PATH for change in changes):
            return write(self, changes, holding)
        held = True
        pipe.send(HELD)
        pipe.recv()
        while True:
            try:
                done = write(self, changes, holding)
            except ZooKeeperUnavailable:
                continue  # its connection broke while it was frozen; the write is to be decided by ZooKeeper
            pipe.send(WRITTEN if done else REFUSED)
            return done

    ZooKeeper.write_together = holding_write  # type: ignore[method-assign]


@contextmanager
def holding_coordinator(settings: Settings) -> Iterator[HoldingProcess]:
    """One that is held; it is killed at the end."""
    process = HoldingProcess(run, settings)
    try:
        yield process
    finally:
        process.kill()
