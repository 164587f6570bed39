"""The shard map as ZooKeeper holds it at this moment, for commands that look once; processes use shard_maps.py.

Both znodes are read after a `sync`, and again when they are of two epochs: they are written together, so the older one
was only read too early. What is wrong with them is said, since the way out is the same: `fanfold shards restore`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from infra.copies import Copies, CopyState, all_copies
from infra.epochs import RESTORE_COMMAND, Epochs, refusal
from infra.errors import Undecodable
from infra.shard_map import CLUSTERS, ShardMap, decode_shard_map
from infra.znodes import UNREADABLE
from infra.zookeeper import COPIES_PATH, PLACEMENT_PATH, ZooKeeper

READ_TRIES_MAX = 5  # an epoch is raised seconds after the one before

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Znodes:
    """What was read; a version is None where the znode is not there."""

    placement: ShardMap | None = None
    placement_version: int | None = None
    copies: Copies | None = None
    copies_version: int | None = None

    @property
    def epoch(self) -> int | None:
        """The placement's."""
        return None if self.placement is None else self.placement.epoch

    @property
    def shard_map(self) -> ShardMap | None:
        """Both together; copies that nobody vouches for are down."""
        if self.placement is None:
            return None
        if self.copies is None or self.copies.epoch != self.placement.epoch:
            return replace(self.placement, copies=all_copies(self.placement.epoch, CLUSTERS, CopyState.DOWN))
        return replace(self.placement, copies=self.copies)

    def refusal(self, epochs: Epochs | None) -> str | None:
        """Why this must not be used, in one sentence that names the command; None when all is well, or nothing was ever
        written. Without `epochs` PostgreSQL is not asked."""
        known = epochs or Epochs(0, 0)
        if (lost := refusal(self.epoch, known.planned, known.written)) is not None or self.placement is None:
            return lost
        if self.copies is None:
            return f"ZooKeeper holds a placement and no {COPIES_PATH}, so no copy is proven: `{RESTORE_COMMAND}`"
        if self.copies.epoch != self.placement.epoch:
            return (
                f"ZooKeeper holds the placement of epoch {self.placement.epoch} and the copies of epoch "
                f"{self.copies.epoch}, so no copy is proven: `{RESTORE_COMMAND}`"
            )
        return None


def read_znodes(zookeeper: ZooKeeper) -> Znodes:
    """Raises `ZooKeeperUnavailable`, and `Undecodable` for what no known version of the code has written."""
    zookeeper.sync(PLACEMENT_PATH)
    for _ in range(READ_TRIES_MAX):
        placement, placement_version = _read(zookeeper, PLACEMENT_PATH, decode_shard_map)
        copies, copies_version = _read(zookeeper, COPIES_PATH, Copies.decode)
        found = Znodes(placement, placement_version, copies, copies_version)
        if placement is None or copies is None or placement.epoch == copies.epoch:
            break
    return found


def _read(zookeeper: ZooKeeper, path: str, decode: Callable[[bytes], T]) -> tuple[T | None, int | None]:
    found = zookeeper.read(path)
    if found is None:
        return None, None
    try:
        return decode(found[0]), found[1]
    except UNREADABLE as error:
        raise Undecodable(f"the znode {path} cannot be read ({error}): `{RESTORE_COMMAND}`") from error
