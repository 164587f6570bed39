"""`fanfold shards restore`: a new placement for a ZooKeeper that lost its data.

Nothing that the nodes hold is proven then: while the states were lost, a node may have missed writes. So every copy is
`down`, and every incarnation that is known is dropped, which makes each registrar empty its node; the coordinator then
admits them one by one, and timelines are rebuilt as they are read. Idempotent by what it refuses: once the placement is
there, there is nothing to restore.
"""

from dataclasses import dataclass, replace

import sqlalchemy as sa

from infra.copies import Copies, CopyState, all_copies
from infra.epochs import Epochs, note_written, plan
from infra.epochs import read as read_epochs
from infra.errors import UseError
from infra.members import Members, read_members
from infra.shard_map import CLUSTERS, ShardMap, encode_shard_map, make_shard_map
from infra.shard_znodes import Znodes, read_znodes
from infra.znodes import written
from infra.zookeeper import COPIES_PATH, PLACEMENT_PATH, ZooKeeper


@dataclass(frozen=True, slots=True)
class Restored:
    """The placement that was written, and why it was needed."""

    shard_map: ShardMap
    reason: str


def plan_restore(znodes: Znodes, epochs: Epochs, members: Members) -> Restored:
    """The placement to write: above every epoch that was planned, since such a one may be on the nodes.

    Raises `UseError` when there is nothing to restore, or a cluster has no fit node.
    """
    reason = znodes.refusal(epochs)
    if reason is None:
        raise UseError(_nothing(znodes, epochs))
    fit = {name: member for name, member in members.items() if member.fit}
    if lacking := [cluster for cluster in CLUSTERS if not any(name[0] == cluster for name in fit)]:
        raise UseError(
            f"no fit node is registered in cluster{'s' * (len(lacking) > 1)} {', '.join(lacking)}, so nothing was "
            "changed: start the registrars (`fanfold registrar`), then try again"
        )
    epoch = max(epochs.planned, znodes.epoch or 0) + 1
    urls, weights = {name: member.url for name, member in fit.items()}, {name: one.weight for name, one in fit.items()}
    copies = replace(all_copies(epoch, CLUSTERS, CopyState.DOWN), dropped=_dropped(znodes.copies, members))
    return Restored(replace(make_shard_map(epoch, urls, weights), copies=copies), reason)


def restore(zookeeper: ZooKeeper, engine: sa.Engine) -> Restored:
    """Writes both znodes in one transaction, its epoch on record before and after.

    A crash before the transaction changes nothing but the planned epoch; after it, whoever reads the placement notes
    its epoch. Raises `UseError`, `ZooKeeperUnavailable`, `DatabaseUnavailable` and `Undecodable`.
    """
    znodes, epochs = read_znodes(zookeeper), read_epochs(engine)
    found = plan_restore(znodes, epochs, read_members(zookeeper))
    shard_map = found.shard_map
    plan(engine, shard_map.epoch)
    changes = [
        written(PLACEMENT_PATH, encode_shard_map(shard_map), znodes.placement_version),
        written(COPIES_PATH, shard_map.copies.encode(), znodes.copies_version),
    ]
    if not zookeeper.write_together(changes):
        raise UseError("somebody else wrote the shard map at the same time: `fanfold shards` shows what is there now")
    note_written(engine, shard_map.epoch)
    return found


def _dropped(before: Copies | None, members: Members) -> dict[str, str]:
    """Every incarnation that is known: that of a node which is not registered now may be in the old copies."""
    known = {} if before is None else {**before.dropped, **before.incarnations}
    return known | {name: member.incarnation for name, member in members.items() if member.incarnation}


def _nothing(znodes: Znodes, epochs: Epochs) -> str:
    if znodes.epoch is None:
        return (
            "there is nothing to restore: no placement was ever written. The coordinator writes the first one as soon "
            "as each cluster has a fit node"
        )
    return (
        f"there is nothing to restore: ZooKeeper holds the placement of epoch {znodes.epoch}, and the newest one on "
        f"record in PostgreSQL is {epochs.written}"
    )
