"""The highest epochs in PostgreSQL: they tell a ZooKeeper that lost its data from one that is new.

Whoever writes a placement calls `plan` before and `note_written` after. A crash between the two leaves an epoch that
may be in ZooKeeper or not; either is fine, and no later placement gets it. Next: coordinator.py.
"""

from dataclasses import dataclass

import sqlalchemy as sa

from infra.database import reading, transaction
from infra.tables import shard_epochs

RESTORE_COMMAND = "fanfold shards restore"


@dataclass(frozen=True, slots=True)
class Epochs:
    """`planned` was or is about to be written to ZooKeeper, `written` is known to have been there; 0 is none."""

    planned: int
    written: int


def plan(engine: sa.Engine, epoch: int) -> None:
    """Before the placement is written. Only ever raised, so it may be repeated. Raises `DatabaseUnavailable`."""
    _raise(engine, planned=epoch)


def note_written(engine: sa.Engine, epoch: int) -> None:
    """After the placement was written, or was found. Only ever raised, so it may be repeated. Raises
    `DatabaseUnavailable`."""
    _raise(engine, planned=epoch, written=epoch)


def read(engine: sa.Engine) -> Epochs:
    """What is on record. Raises `DatabaseUnavailable`."""
    with reading(engine) as connection:
        row = connection.execute(sa.select(shard_epochs.c.planned, shard_epochs.c.written)).one()
    return Epochs(row.planned, row.written)


def refusal(zookeeper_epoch: int | None, planned: int, written: int) -> str | None:
    """Why ZooKeeper's placement must not be used, or none be written as the first one; None when all is well.

    `zookeeper_epoch` is None when ZooKeeper holds no placement. One above `planned` is well: PostgreSQL may have been
    restored from a backup, and ZooKeeper knows better then.
    """
    if zookeeper_epoch is None and written == 0:
        return None  # a new deployment, or a crash before its first placement was written
    if zookeeper_epoch is not None and zookeeper_epoch >= written:
        return None
    holds = "no placement" if zookeeper_epoch is None else f"the placement of epoch {zookeeper_epoch}"
    highest = f"epoch {written} was written" + (f" and {planned} was planned" if planned > written else "")
    return (
        f"ZooKeeper holds {holds}, but {highest}: it has lost its data, or is another one than before. If it is the "
        f"right one, `{RESTORE_COMMAND}` writes a new placement, after which no copy counts as proven"
    )


def _raise(engine: sa.Engine, **epochs: int) -> None:
    higher = {name: sa.func.greatest(shard_epochs.c[name], epoch) for name, epoch in epochs.items()}
    with transaction(engine) as connection:
        connection.execute(sa.update(shard_epochs).values(higher))
