"""What is held by one process at a time, and by whom: leases and node numbers in ZooKeeper, locks in PostgreSQL."""

from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from infra.advisory_lock import LockClass
from infra.database import reading
from infra.errors import Undecodable
from infra.holder import Holder, decode_holder, parse_brief
from infra.leases import COORDINATOR, Standing, read_leases
from infra.zookeeper import SNOWFLAKES_PATH, ZooKeeper

SHOWN = (LockClass.RELAY, LockClass.COUNTERS, LockClass.ERASING)  # the others last for one transaction


@dataclass(frozen=True, slots=True)
class Numbered:
    """A node number, or a lock with the number of its shard; `holder` is None when that cannot be read."""

    name: str
    number: int
    holder: Holder | None

    def as_json(self) -> dict[str, Any]:
        """As `--json` shows it."""
        return {"name": self.name, "number": self.number, "holder": self.holder and self.holder.as_json()}


@dataclass(frozen=True, slots=True)
class Locks:
    """All of it at about one moment."""

    leases: tuple[Standing, ...]
    node_numbers: tuple[Numbered, ...]
    database_locks: tuple[Numbered, ...]

    @property
    def leader(self) -> Holder | None:
        """The coordinator that leads."""
        return next((one.holder for one in self.leases if one.name == COORDINATOR), None)

    def as_json(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        return {
            "leader": self.leader and self.leader.as_json(),
            "leases": [one.as_json() for one in self.leases],
            "node_numbers": [one.as_json() for one in self.node_numbers],
            "database_locks": [one.as_json() for one in self.database_locks],
        }


def read_locks(zookeeper: ZooKeeper, engine: sa.Engine) -> Locks:
    """Raises `ZooKeeperUnavailable` and `DatabaseUnavailable`."""
    return Locks(tuple(read_leases(zookeeper)), tuple(_node_numbers(zookeeper)), tuple(_database_locks(engine)))


def _node_numbers(zookeeper: ZooKeeper) -> list[Numbered]:
    found: list[Numbered] = []
    for number in sorted(map(int, zookeeper.children(SNOWFLAKES_PATH))):
        data = zookeeper.read(f"{SNOWFLAKES_PATH}/{number}")
        if data is not None:
            found.append(Numbered("node number", number, _holder(data[0])))
    return found


def _holder(data: bytes) -> Holder | None:
    with suppress(Undecodable):
        return decode_holder(data)
    return None


def _database_locks(engine: sa.Engine) -> list[Numbered]:
    with reading(engine) as connection:
        rows = connection.execute(_LOCKS, {"classes": [one.value for one in SHOWN]}).all()
    return [Numbered(LockClass(row.class_).name.lower(), row.number, parse_brief(row.name)) for row in rows]


_LOCKS = sa.text(
    """
    SELECT locks.classid::bigint AS class_, locks.objid::bigint AS number, sessions.application_name AS name
    FROM pg_locks AS locks JOIN pg_stat_activity AS sessions USING (pid)
    WHERE locks.locktype = 'advisory' AND locks.objsubid = 2 AND locks.granted
        AND locks.classid::bigint = ANY (CAST(:classes AS bigint[]))
        AND locks.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    ORDER BY 1, 2
    """
)
